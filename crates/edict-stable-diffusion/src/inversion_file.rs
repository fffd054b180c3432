//! Inversions on disk: a safetensors file, readable from any language.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use edict_core::{
    ConfigError, CoupledPair, Latents, NoiseSchedule, Sampler, StateError, Timestep, Trajectory, UpdateOrder,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limited::read_limited;
use crate::{GuidanceSettings, Inversion, Origin};

/// The version of the format this crate writes, and the newest it reads.
pub const INVERSION_FORMAT: u32 = 1;

/// Larger files are not inversions: latents of a 16384x16384 picture are 128 MiB, and a file holds three.
const MAX_BYTES: u64 = 512 << 20;

/// Why an inversion file could not be read or does not fit.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InversionFileError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's contents are not those of an inversion.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<InversionFileError>,
    },
    /// The bytes are not a safetensors file, or one that was cut off.
    #[error("not a whole safetensors file: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// The file holds something else.
    #[error("not an inversion: its metadata has no `edict` entry; make one with `edict invert`")]
    NotAnInversion,
    /// The metadata are damaged.
    #[error("metadata `edict` are damaged: {0}")]
    Metadata(#[from] serde_json::Error),
    /// The file was written by a newer version.
    #[error(
        "inversion format {found} is newer than {INVERSION_FORMAT}, the newest this version reads; update edict"
    )]
    NewerFormat {
        /// The file's format.
        found: u32,
    },
    /// A setting this version does not know.
    #[error("setting `{key}` is {value:?}; this version knows {known}")]
    UnknownSetting {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is known.
        known: &'static str,
    },
    /// A tensor is not there.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// The tensor.
        name: &'static str,
    },
    /// A tensor has another element type or shape than the format says.
    #[error("tensor `{name}` should be F64 {expected}, found {dtype} {shape:?}")]
    Tensor {
        /// The tensor.
        name: &'static str,
        /// Shape wanted.
        expected: String,
        /// Element type found.
        dtype: String,
        /// Shape found.
        shape: Vec<usize>,
    },
    /// A number that counts something is not a whole number in range.
    #[error("tensor `{name}` holds {value}, which is not a training timestep")]
    NotATimestep {
        /// The tensor.
        name: &'static str,
        /// The value found.
        value: f64,
    },
    /// The numbers of the run do not make a run.
    #[error("the run in the file cannot be used: {0}")]
    Run(#[from] ConfigError),
    /// The pair cannot be used.
    #[error("the pair in the file cannot be used: {0}")]
    State(#[from] StateError),
    /// The inversion was made with another model.
    #[error(
        "made with another model (fingerprint {made_with}, this model has {model}); use the model folder it was made with"
    )]
    OtherModel {
        /// Fingerprint in the file.
        made_with: String,
        /// Fingerprint of the model at hand.
        model: String,
    },
}

/// What is no real number of the run.
#[derive(Serialize, Deserialize)]
struct Metadata {
    format: u32,
    sampler: String,
    mode: String,
    order: String,
    steps: usize,
    prompt: String,
    negative: String,
    model: String,
    backend: String,
    device: String,
    dtype: String,
    threads: usize,
    /// Version of the program that wrote the file; for people, not read.
    #[serde(default)]
    written_by: String,
}

const LEAPFROG: &str = "leapfrog";
const FIXED: &str = "fixed";

impl Inversion {
    /// Returns the bytes of an inversion file.
    ///
    /// # Errors
    /// [`InversionFileError::Metadata`] or [`InversionFileError::Safetensors`] if they cannot be laid out, which no value of
    /// the fields leads to.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InversionFileError> {
        let metadata = Metadata {
            format: INVERSION_FORMAT,
            sampler: "edict".to_owned(),
            mode: "float".to_owned(),
            order: if self.order == UpdateOrder::Fixed { FIXED } else { LEAPFROG }.to_owned(),
            steps: self.trajectory.schedule_steps(),
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            model: self.origin.model.clone(),
            backend: self.origin.backend.clone(),
            device: self.origin.device.clone(),
            dtype: self.origin.dtype.clone(),
            threads: self.origin.threads,
            written_by: concat!("edict ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let timesteps: Vec<_> = self.trajectory.run().iter().map(|s| s.timestep().get() as f64).collect();
        let vector = |values: &[f64]| (vec![values.len()], bytes(values.iter()));
        let array = |values: &Latents| (values.shape().to_vec(), bytes(values.iter()));
        let mut tensors = vec![
            ("x", array(&self.pair.x)),
            ("y", array(&self.pair.y)),
            ("image_latent", array(&self.image_latent)),
            ("run.alpha_bar", vector(&self.trajectory.alpha_bars())),
            ("run.timestep", vector(&timesteps)),
            ("run.strength", vector(&[self.strength])),
            ("run.mixing_weight", vector(&[self.mixing_weight])),
            ("run.guidance", vector(&[self.guidance.scale])),
            ("run.training_alpha_bar", vector(self.schedule.alpha_bars())),
        ];
        if let Some(interval) = self.guidance.interval {
            tensors.push(("run.guidance_interval", vector(&interval.map(|t| t as f64))));
        }
        let views = (tensors.iter())
            .map(|(name, (shape, data))| Ok((*name, TensorView::new(Dtype::F64, shape.clone(), data)?)))
            .collect::<Result<Vec<_>, SafeTensorError>>()?;
        let metadata = HashMap::from([("edict".to_owned(), serde_json::to_string(&metadata)?)]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Reads an inversion file.
    ///
    /// # Errors
    /// [`InversionFileError::Io`] if it cannot be read or is longer than 512 MiB, [`InversionFileError::File`] with what is
    /// wrong with its contents.
    pub fn read(path: &Path) -> Result<Self, InversionFileError> {
        let bytes = read_limited(path, MAX_BYTES)
            .map_err(|source| InversionFileError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
            .map_err(|source| InversionFileError::File { path: path.to_owned(), source: Box::new(source) })
    }

    /// Reads the bytes of an inversion file. Tensors it does not know are ignored.
    ///
    /// # Errors
    /// [`InversionFileError`] says what is wrong; nothing beyond the length of `bytes` is allocated on their word.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InversionFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let entry = header.metadata().as_ref().and_then(|metadata| metadata.get("edict"));
        let entry = entry.ok_or(InversionFileError::NotAnInversion)?;
        // The version first: the rest of a newer file may look different.
        let version: Version = serde_json::from_str(entry)?;
        if version.format > INVERSION_FORMAT {
            return Err(InversionFileError::NewerFormat { found: version.format });
        }
        let metadata: Metadata = serde_json::from_str(entry)?;
        known("sampler", &metadata.sampler, &["edict"], "edict")?;
        known("mode", &metadata.mode, &["float"], "float")?;
        known("order", &metadata.order, &[LEAPFROG, FIXED], "leapfrog and fixed")?;

        let tensors = Tensors(SafeTensors::deserialize(bytes)?);
        let image_latent = tensors.latents("image_latent")?;
        let pair = CoupledPair { x: tensors.latents("x")?, y: tensors.latents("y")? };
        for (name, latents) in [("x", &pair.x), ("y", &pair.y)] {
            if latents.shape() != image_latent.shape() {
                let expected = format!("{:?} (that of `image_latent`)", image_latent.shape());
                let (dtype, shape) = ("F64".to_owned(), latents.shape().to_vec());
                return Err(InversionFileError::Tensor { name, expected, dtype, shape });
            }
        }
        let timesteps = (tensors.vector("run.timestep", None)?.into_iter())
            .map(|t| Ok(Timestep::new(timestep("run.timestep", t)?)))
            .collect::<Result<Vec<_>, InversionFileError>>()?;
        let interval = match tensors.vector("run.guidance_interval", Some(2)) {
            Ok(interval) => Some([
                timestep("run.guidance_interval", interval[0])?,
                timestep("run.guidance_interval", interval[1])?,
            ]),
            Err(InversionFileError::MissingTensor { .. }) => None,
            Err(other) => return Err(other),
        };
        let levels = tensors.vector("run.alpha_bar", None)?;
        let inversion = Self {
            trajectory: Trajectory::from_levels(&timesteps, &levels, metadata.steps)?,
            schedule: NoiseSchedule::from_alpha_bars(tensors.vector("run.training_alpha_bar", None)?)?
                .with_final_alpha_bar(levels[levels.len() - 1])?,
            strength: tensors.number("run.strength")?,
            mixing_weight: tensors.number("run.mixing_weight")?,
            guidance: GuidanceSettings { scale: tensors.number("run.guidance")?, interval },
            order: if metadata.order == FIXED { UpdateOrder::Fixed } else { UpdateOrder::Leapfrog },
            prompt: metadata.prompt,
            negative: metadata.negative,
            origin: Origin {
                model: metadata.model,
                backend: metadata.backend,
                device: metadata.device,
                dtype: metadata.dtype,
                threads: metadata.threads,
            },
            pair,
            image_latent,
        };
        inversion.guidance.scale()?;
        inversion.sampler()?.check(&inversion.pair, &inversion.trajectory, 0)?;
        if !(0.0..=1.0).contains(&inversion.strength) {
            return Err(ConfigError::Strength(inversion.strength).into());
        }
        if let Some(&last) = timesteps.first()
            && last.get() >= inversion.schedule.timesteps()
        {
            let (timestep, last) = (last.get(), inversion.schedule.timesteps() - 1);
            return Err(ConfigError::TimestepOutsideTraining { timestep, last }.into());
        }
        Ok(inversion)
    }

    /// Checks that the inversion was made with a model.
    ///
    /// # Errors
    /// [`InversionFileError::OtherModel`] if the fingerprints differ.
    pub fn check_model(&self, fingerprint: &str) -> Result<(), InversionFileError> {
        if self.origin.model == fingerprint {
            return Ok(());
        }
        Err(InversionFileError::OtherModel {
            made_with: self.origin.model.clone(),
            model: fingerprint.to_owned(),
        })
    }
}

/// Returns the bytes of a safetensors file with a pair of latents, tensors `x` and `y`.
///
/// # Errors
/// [`InversionFileError::Safetensors`] if they cannot be laid out.
pub fn latents_to_bytes(pair: &CoupledPair) -> Result<Vec<u8>, InversionFileError> {
    let data = [&pair.x, &pair.y].map(|latents| bytes(latents.iter()));
    let views = [
        ("x", TensorView::new(Dtype::F64, pair.x.shape().to_vec(), &data[0])?),
        ("y", TensorView::new(Dtype::F64, pair.y.shape().to_vec(), &data[1])?),
    ];
    Ok(safetensors::serialize(views, None)?)
}

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn bytes<'a>(values: impl Iterator<Item = &'a f64>) -> Vec<u8> {
    values.flat_map(|value| value.to_le_bytes()).collect()
}

fn known(
    key: &'static str,
    value: &str,
    all: &[&str],
    known: &'static str,
) -> Result<(), InversionFileError> {
    if all.contains(&value) {
        return Ok(());
    }
    Err(InversionFileError::UnknownSetting { key, value: value.to_owned(), known })
}

fn timestep(name: &'static str, value: f64) -> Result<usize, InversionFileError> {
    // Beyond any training schedule; far below where f64 skips whole numbers.
    const LIMIT: f64 = 4_294_967_296.0;
    if value.fract() == 0.0 && (0.0..LIMIT).contains(&value) {
        Ok(value as usize)
    } else {
        Err(InversionFileError::NotATimestep { name, value })
    }
}

/// The tensors of a file, read by name.
struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    fn get(
        &self,
        name: &'static str,
        fits: impl Fn(&[usize]) -> bool,
        expected: impl Fn() -> String,
    ) -> Result<(Vec<usize>, Vec<f64>), InversionFileError> {
        let Ok(view) = self.0.tensor(name) else {
            return Err(InversionFileError::MissingTensor { name });
        };
        let (dtype, shape) = (view.dtype(), view.shape().to_vec());
        if dtype != Dtype::F64 || !fits(&shape) {
            let dtype = format!("{dtype:?}");
            return Err(InversionFileError::Tensor { name, expected: expected(), dtype, shape });
        }
        let (values, _) = view.data().as_chunks::<8>();
        Ok((shape, values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()))
    }

    fn latents(&self, name: &'static str) -> Result<Latents, InversionFileError> {
        let expected = || "[batch, channels, h, w]".to_owned();
        let (shape, values) = self.get(name, |shape| shape.len() == 4, expected)?;
        let found = shape.clone();
        Latents::from_shape_vec(shape, values).map_err(|_| InversionFileError::Tensor {
            name,
            expected: expected(),
            dtype: "F64".to_owned(),
            shape: found,
        })
    }

    fn vector(&self, name: &'static str, length: Option<usize>) -> Result<Vec<f64>, InversionFileError> {
        let fits = |shape: &[usize]| shape.len() == 1 && length.is_none_or(|length| shape[0] == length);
        Ok(self.get(name, fits, || length.map_or("[n]".to_owned(), |length| format!("[{length}]")))?.1)
    }

    fn number(&self, name: &'static str) -> Result<f64, InversionFileError> {
        Ok(self.vector(name, Some(1))?[0])
    }
}
