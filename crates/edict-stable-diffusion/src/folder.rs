//! A model in the Hugging Face layout, on disk or compiled into the program.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use edict_core::{ConfigError, NoiseSchedule, Trajectory};

use crate::config::{ModelIndex, SchedulerConfig, TextEncoderConfig, UNetConfig, VaeConfig, parse_json};
use crate::error::LoadError;
use crate::image::ImageSize;
use crate::limited::read_limited;
use crate::tokenizer::{Tokenizer, TokenizerFiles};
use crate::weights::WeightFile;

/// Files compiled into a program: names relative to the model folder, with `/`, and contents.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// A Stable Diffusion model folder: configs read and checked, weight files opened, tensors still on disk.
///
/// Each part's weights are `NAME.safetensors`, or else `NAME.fp16.safetensors`.
#[derive(Debug)]
pub struct ModelFolder {
    files: Files,
    index: ModelIndex,
    unet: UNetConfig,
    vae: VaeConfig,
    text_encoder: TextEncoderConfig,
    scheduler: SchedulerConfig,
    schedule: NoiseSchedule,
    unet_weights: WeightFile,
    vae_weights: WeightFile,
    text_encoder_weights: WeightFile,
}

#[derive(Debug)]
enum Files {
    Disk(PathBuf),
    Embedded(PathBuf, EmbeddedFiles),
}

impl ModelFolder {
    /// Opens a folder on disk.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and what is wrong with it: no folder, a missing file, bad JSON, a config that is not supported, a
    /// weight file that is cut off, parts that do not fit together.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref().to_owned();
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Self::read(Files::Disk(path)),
            Ok(_) => Err(LoadError::NotAFolder { path, is_file: true }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LoadError::NotAFolder { path, is_file: false })
            }
            Err(source) => Err(LoadError::Io { path, source }),
        }
    }

    /// Opens a model that is compiled into the program; `name` stands for its folder in messages. The disk is not touched.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn embedded(name: &str, files: EmbeddedFiles) -> Result<Self, LoadError> {
        Self::read(Files::Embedded(name.into(), files))
    }

    fn read(files: Files) -> Result<Self, LoadError> {
        let index = match files.find("model_index.json")? {
            Some(bytes) => {
                let path = files.path("model_index.json");
                ModelIndex::from_json(&path, &parse_json(&path, &bytes)?)?
            }
            None => ModelIndex::default(),
        };
        let config = |name: &str| -> Result<(PathBuf, Value), LoadError> {
            let bytes = files.find(name)?.ok_or_else(|| files.missing(vec![name.to_owned()]))?;
            let path = files.path(name);
            let value = parse_json(&path, &bytes)?;
            Ok((path, value))
        };
        let (path, value) = config("unet/config.json")?;
        let unet = UNetConfig::from_json(&path, &value)?;
        let (path, value) = config("vae/config.json")?;
        let vae = VaeConfig::from_json(&path, &value)?;
        let (path, value) = config("text_encoder/config.json")?;
        let text_encoder = TextEncoderConfig::from_json(&path, &value)?;
        let (path, value) = config("scheduler/scheduler_config.json")?;
        let scheduler = SchedulerConfig::from_json(&path, &value)?;
        let schedule = scheduler.noise_schedule().map_err(|source| LoadError::Schedule { path, source })?;

        for (first, first_value, second, second_value) in [
            ("unet.in_channels", unet.in_channels, "vae.latent_channels", vae.latent_channels),
            ("unet.out_channels", unet.out_channels, "unet.in_channels", unet.in_channels),
            (
                "unet.cross_attention_dim",
                unet.context_channels,
                "text_encoder.hidden_size",
                text_encoder.hidden_size,
            ),
            ("vae.in_channels", vae.in_channels, "vae.out_channels", vae.out_channels),
        ] {
            if first_value != second_value {
                let folder = files.path("");
                return Err(LoadError::PartsDiffer { folder, first, first_value, second, second_value });
            }
        }
        Ok(Self {
            unet_weights: files.weights("unet/diffusion_pytorch_model")?,
            vae_weights: files.weights("vae/diffusion_pytorch_model")?,
            text_encoder_weights: files.weights("text_encoder/model")?,
            files,
            index,
            unet,
            vae,
            text_encoder,
            scheduler,
            schedule,
        })
    }

    /// Returns the folder's path, or the name of an embedded model.
    pub fn path(&self) -> &Path {
        match &self.files {
            Files::Disk(path) | Files::Embedded(path, _) => path,
        }
    }

    /// Returns the contents of a file, or `None` if there is none; `name` is relative to the folder, with `/`.
    ///
    /// # Errors
    /// [`LoadError::Io`] if it is there but cannot be read.
    pub fn file(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.files.find(name)
    }

    /// Returns what `model_index.json` says; empty if there is none.
    pub fn index(&self) -> &ModelIndex {
        &self.index
    }

    /// Returns the noise predictor's config.
    pub fn unet_config(&self) -> &UNetConfig {
        &self.unet
    }

    /// Returns the autoencoder's config.
    pub fn vae_config(&self) -> &VaeConfig {
        &self.vae
    }

    /// Returns the text encoder's config.
    pub fn text_encoder_config(&self) -> &TextEncoderConfig {
        &self.text_encoder
    }

    /// Returns the noise schedule's config.
    pub fn scheduler_config(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Returns the noise schedule the network was trained with.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Lays `steps` steps on the schedule, as the scheduler's config says; `strength` in `[0, 1]` is the share of them that is run.
    ///
    /// # Errors
    /// [`ConfigError`] if the steps do not fit into the schedule or the strength is outside its range.
    pub fn trajectory(&self, steps: usize, strength: f64) -> Result<Trajectory, ConfigError> {
        self.scheduler.trajectory(&self.schedule, steps, strength)
    }

    /// Returns the size of the pictures that the model was trained on; where the U-Net's config does not say, 64 latents a side, as
    /// diffusers takes it.
    pub fn image_size(&self) -> ImageSize {
        let factor = self.vae.factor();
        let [height, width] = self.unet.sample_size.unwrap_or([64, 64]);
        ImageSize { width: width * factor, height: height * factor }
    }

    /// Returns the noise predictor's weights.
    pub fn unet_weights(&self) -> &WeightFile {
        &self.unet_weights
    }

    /// Returns the autoencoder's weights.
    pub fn vae_weights(&self) -> &WeightFile {
        &self.vae_weights
    }

    /// Returns the text encoder's weights.
    pub fn text_encoder_weights(&self) -> &WeightFile {
        &self.text_encoder_weights
    }

    /// Loads the tokenizer from the files of `tokenizer/`.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] if a file is missing or malformed or the prompt's length does not fit the text encoder,
    /// [`LoadError::Io`] if a file cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        let file = |name: &str| self.file(&format!("tokenizer/{name}"));
        let [json, vocab, merges, config, special, added] = [
            file("tokenizer.json")?,
            file("vocab.json")?,
            file("merges.txt")?,
            file("tokenizer_config.json")?,
            file("special_tokens_map.json")?,
            file("added_tokens.json")?,
        ];
        let files = TokenizerFiles {
            tokenizer_json: json.as_deref(),
            vocab: vocab.as_deref(),
            merges: merges.as_deref(),
            tokenizer_config: config.as_deref(),
            special_tokens_map: special.as_deref(),
            added_tokens: added.as_deref(),
        };
        let tokenizer = Tokenizer::from_files(&files, self.text_encoder.max_position_embeddings)
            .map_err(|source| LoadError::Tokenizer { path: self.files.path("tokenizer"), source })?;
        // Else some prompts would fail, and only they: those that hold a token without an embedding.
        let (ids, embeddings) = (tokenizer.vocabulary_size(), self.text_encoder.vocab_size);
        if ids > embeddings {
            return Err(LoadError::PartsDiffer {
                folder: self.files.path(""),
                first: "tokenizer's vocabulary",
                first_value: ids,
                second: "text_encoder.vocab_size",
                second_value: embeddings,
            });
        }
        Ok(tokenizer)
    }

    /// Computes a fingerprint of the model: 32 hexadecimal digits.
    ///
    /// It is the 128-bit XXH3 of the weight files (read in full) and of the configs as they were understood, so that it changes
    /// with any byte of a weight and with any setting that has an effect, and does not with the wording of a config, the
    /// folder's place or the tokenizer's files.
    ///
    /// # Errors
    /// [`LoadError::Io`] if a weight file cannot be read.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        let mut hash = Xxh3::new();
        let parts = [
            ("unet", &self.unet_weights, serde_json::to_vec(&self.unet)),
            ("vae", &self.vae_weights, serde_json::to_vec(&self.vae)),
            ("text_encoder", &self.text_encoder_weights, serde_json::to_vec(&self.text_encoder)),
        ];
        let json = |source| LoadError::Json { path: self.path().to_owned(), source };
        for (name, weights, config) in parts {
            hash.update(name.as_bytes());
            let config = config.map_err(json)?;
            hash.update(&(config.len() as u64).to_le_bytes());
            hash.update(&config);
            weights.stream(|bytes| hash.update(bytes))?;
        }
        hash.update(&serde_json::to_vec(&self.scheduler).map_err(json)?);
        Ok(format!("{:032x}", hash.digest128()))
    }
}

/// Longest config or tokenizer file read; a real one has a few MiB.
const MAX_FILE: u64 = 256 << 20;

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Disk(path) | Self::Embedded(path, _) if name.is_empty() => path.clone(),
            Self::Disk(path) | Self::Embedded(path, _) => path.join(name),
        }
    }

    fn find(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self {
            Self::Disk(folder) => {
                let path = folder.join(name);
                match read_limited(&path, MAX_FILE) {
                    Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                    Err(e) if absent(&e) => Ok(None),
                    Err(source) => Err(LoadError::Io { path, source }),
                }
            }
            Self::Embedded(_, files) => Ok(embedded(files, name).map(Cow::Borrowed)),
        }
    }

    fn missing(&self, looked_for: Vec<String>) -> LoadError {
        LoadError::MissingFile { folder: self.path(""), looked_for }
    }

    fn weights(&self, stem: &str) -> Result<WeightFile, LoadError> {
        let names = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")];
        for name in &names {
            let path = self.path(name);
            match self {
                Self::Disk(_) => match WeightFile::open(&path) {
                    Err(LoadError::Io { source, .. }) if absent(&source) => {}
                    opened => return opened,
                },
                Self::Embedded(_, files) => {
                    if let Some(bytes) = embedded(files, name) {
                        return WeightFile::embedded(&path, bytes);
                    }
                }
            }
        }
        if let Self::Disk(folder) = self {
            let pickled = ["bin", "fp16.bin"].map(|end| folder.join(format!("{}.{end}", pickled_stem(stem))));
            if let Some(path) = pickled.into_iter().find(|path| path.exists()) {
                return Err(LoadError::PickledWeights { path });
            }
        }
        Err(self.missing(names.into()))
    }
}

/// Returns the stem pickled weights have: transformers calls its own `pytorch_model`.
fn pickled_stem(stem: &str) -> &str {
    if stem == "text_encoder/model" { "text_encoder/pytorch_model" } else { stem }
}

fn embedded(files: EmbeddedFiles, name: &str) -> Option<&'static [u8]> {
    files.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// A path through something that is not a folder is as absent as one through nothing.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
