//! Inversions on disk: a safetensors file, readable from any language.

use std::path::{Path, PathBuf};

use edict_core::{
    ConfigError, CoupledPair, Ddim, Edict, Grid, LatticeEdict, LatticeTwoStep, MixingWeight, NoiseSchedule,
    Sampler, StateError, Timestep, Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use safetensors::SafeTensorError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limited::read_limited;
use crate::state_tensors::{StateNote, read_state, write_state};
use crate::tensor_file::{TensorReader, TensorWriter};
use crate::{AnySampler, GuidanceSettings, Inversion, Origin};

/// The version of the format this crate writes, and the newest it reads.
pub const INVERSION_FORMAT: u32 = 1;

/// Larger files are not inversions: latents of an 8192x8192 picture are 32 MiB, and a file holds five and a byte for each element
/// and carry plane.
const MAX_BYTES: u64 = 1 << 30;

/// The key of the metadata that checkpoints have on top: a run that was interrupted is no inversion.
pub(crate) const CHECKPOINT_METADATA: &str = "edict_checkpoint";

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
    #[error("not a safetensors file, or one that was cut off: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// The file holds something else.
    #[error("not an inversion: its metadata has no `edict` entry; make one with `edict invert`")]
    NotAnInversion,
    /// The file is that of a run that was interrupted.
    #[error("this is the checkpoint of an interrupted run and no inversion; go on with `--resume`")]
    Checkpoint,
    /// The file is no checkpoint.
    #[error(
        "not a checkpoint: its metadata has no `edict_checkpoint` entry; an inversion goes to `edict generate --inversion`"
    )]
    NotACheckpoint,
    /// A checkpoint of pictures has none left to make.
    #[error("metadata `edict_checkpoint` are damaged: {finished} of {prompts} pictures are finished")]
    Finished {
        /// Pictures that are finished.
        finished: usize,
        /// Pictures in all.
        prompts: usize,
    },
    /// The registers of an exact state are not those that were written.
    #[error("`{name}` is not the hash of the registers beside it: the file is damaged, make it again")]
    Damaged {
        /// The tensor with the hash.
        name: String,
    },
    /// The latents of an exact state are not those of its registers.
    #[error(
        "`{name}` is not what the registers beside it stand for; exact inversions cannot be changed by hand: invert with \
         `--float` for that"
    )]
    OtherLatents {
        /// The tensor.
        name: String,
    },
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
        name: String,
    },
    /// A tensor has another element type or shape than the format says.
    #[error("tensor `{name}` should be {expected}, found {dtype} {shape:?}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Element type and shape wanted.
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
        name: String,
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
    /// EDICT's update order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    /// How an exact sampler's lattice is laid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lattice: Option<LatticeNote>,
    steps: usize,
    state: StateNote,
    prompt: String,
    negative: String,
    model: String,
    backend: String,
    device: String,
    dtype: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    threads: usize,
    #[serde(default)]
    instruction_set: String,
    /// Version of the program that wrote the file; for people, not read.
    #[serde(default)]
    written_by: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct LatticeNote {
    unit_bits: u32,
    spill_bits: u32,
}

const LEAPFROG: &str = "leapfrog";
const FIXED: &str = "fixed";

impl AnySampler {
    /// Returns the sampler's name on the command line and in files: `edict`, `belm`, `bdia` or `ddim`.
    pub fn name(&self) -> &'static str {
        match (self, self.two_step().map(|sampler| sampler.rule())) {
            (_, Some(TwoStepRule::Belm)) => "belm",
            (_, Some(TwoStepRule::Bdia { .. })) => "bdia",
            (Self::Ddim(_), _) => "ddim",
            _ => "edict",
        }
    }

    pub(crate) fn grid(&self) -> Option<Grid> {
        match self {
            Self::LatticeEdict(sampler) => Some(sampler.grid()),
            Self::LatticeTwoStep(sampler) => Some(sampler.grid()),
            _ => None,
        }
    }
}

impl Inversion {
    /// Returns the bytes of an inversion file.
    ///
    /// # Errors
    /// [`InversionFileError::State`] if the noise is not a state of the sampler at the noisy end of the run.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InversionFileError> {
        let mut file = TensorWriter::default();
        self.write(0, &mut file)?;
        file.into_bytes()
    }

    /// Adds the inversion, whose state stands at `level`, to a file.
    pub(crate) fn write(&self, level: usize, file: &mut TensorWriter) -> Result<(), InversionFileError> {
        let Self { sampler, noise, trajectory, origin, .. } = self;
        let state = write_state(file, "", sampler, noise, trajectory, level)?;
        let timesteps: Vec<_> = trajectory.run().iter().map(|s| s.timestep().get() as f64).collect();
        file.latents("image_latent", &self.image_latent);
        file.vector("run.alpha_bar", &trajectory.alpha_bars());
        file.vector("run.timestep", &timesteps);
        file.vector("run.strength", &[self.strength]);
        if let Some(edict) = sampler.edict() {
            file.vector("run.mixing_weight", &[edict.mixing_weight().resolve(trajectory)]);
        }
        if let Some(TwoStepRule::Bdia { gamma }) = sampler.two_step().map(|sampler| sampler.rule()) {
            file.vector("run.gamma", &[gamma]);
        }
        file.vector("run.guidance", &[self.guidance.scale]);
        if let Some(interval) = self.guidance.interval {
            file.vector("run.guidance_interval", &interval.map(|t| t as f64));
        }
        file.vector("run.training_alpha_bar", self.schedule.alpha_bars());
        file.hashes("predictions", &self.predictions);
        let order = |order| if order == UpdateOrder::Fixed { FIXED } else { LEAPFROG }.to_owned();
        file.metadata(
            "edict",
            &Metadata {
                format: INVERSION_FORMAT,
                sampler: sampler.name().to_owned(),
                mode: if sampler.is_exact() { "exact" } else { "float" }.to_owned(),
                order: sampler.edict().map(|edict| order(edict.order())),
                lattice: (sampler.grid())
                    .map(|grid| LatticeNote { unit_bits: grid.unit_bits(), spill_bits: grid.spill_bits() }),
                steps: trajectory.schedule_steps(),
                state,
                prompt: self.prompt.clone(),
                negative: self.negative.clone(),
                model: origin.model.clone(),
                backend: origin.backend.clone(),
                device: origin.device.clone(),
                dtype: origin.dtype.clone(),
                weights: origin.weights.clone(),
                threads: origin.threads,
                instruction_set: origin.instruction_set.clone(),
                written_by: concat!("edict ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
        )
    }

    /// Reads an inversion file.
    ///
    /// # Errors
    /// [`InversionFileError::Io`] if it cannot be read or is longer than 1 GiB, [`InversionFileError::File`] with what is
    /// wrong with its contents.
    pub fn read(path: &Path) -> Result<Self, InversionFileError> {
        read_file(path, Self::from_bytes)
    }

    /// Reads the bytes of an inversion file. Tensors it does not know are ignored.
    ///
    /// # Errors
    /// [`InversionFileError`] says what is wrong; nothing beyond the length of `bytes` is allocated on their word.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InversionFileError> {
        let file = TensorReader::new(bytes)?;
        if file.has_metadata(CHECKPOINT_METADATA) {
            return Err(InversionFileError::Checkpoint);
        }
        match Self::from_file(&file)? {
            (inversion, 0) => Ok(inversion),
            (inversion, level) => {
                Err(StateError::Level { level, levels: inversion.trajectory.run().len() + 1 }.into())
            }
        }
    }

    /// Reads an inversion and the level its state stands at.
    pub(crate) fn from_file(file: &TensorReader<'_>) -> Result<(Self, usize), InversionFileError> {
        // The version first: the rest of a newer file may look different.
        let version: Option<Version> = file.metadata("edict")?;
        let version = version.ok_or(InversionFileError::NotAnInversion)?;
        if version.format > INVERSION_FORMAT {
            return Err(InversionFileError::NewerFormat { found: version.format });
        }
        let metadata: Metadata = file.metadata("edict")?.ok_or(InversionFileError::NotAnInversion)?;
        let sampler = read_sampler(file, &metadata)?;
        let image_latent = file.latents("image_latent")?;
        if !image_latent.iter().all(|value| value.is_finite()) {
            return Err(StateError::NonFinite { latent: "image_latent" }.into());
        }
        let timesteps = (file.vector("run.timestep", None)?.into_iter())
            .map(|t| Ok(Timestep::new(timestep("run.timestep", t)?)))
            .collect::<Result<Vec<_>, InversionFileError>>()?;
        let interval = if file.has("run.guidance_interval") {
            let interval = file.vector("run.guidance_interval", Some(2))?;
            Some([
                timestep("run.guidance_interval", interval[0])?,
                timestep("run.guidance_interval", interval[1])?,
            ])
        } else {
            None
        };
        let levels = file.vector("run.alpha_bar", None)?;
        let trajectory = Trajectory::from_levels(&timesteps, &levels, metadata.steps)?;
        let noise = read_state(file, "", &sampler, &trajectory, metadata.state, image_latent.shape())?;
        let inversion = Self {
            sampler,
            noise,
            schedule: NoiseSchedule::from_alpha_bars(file.vector("run.training_alpha_bar", None)?)?
                .with_final_alpha_bar(levels[levels.len() - 1])?,
            trajectory,
            strength: file.number("run.strength")?,
            guidance: GuidanceSettings { scale: file.number("run.guidance")?, interval },
            prompt: metadata.prompt,
            negative: metadata.negative,
            origin: Origin {
                model: metadata.model,
                backend: metadata.backend,
                device: metadata.device,
                dtype: metadata.dtype,
                weights: metadata.weights,
                threads: metadata.threads,
                instruction_set: metadata.instruction_set,
            },
            predictions: file.hashes("predictions")?,
            image_latent,
        };
        inversion.guidance.scale()?;
        if !(0.0..=1.0).contains(&inversion.strength) {
            return Err(ConfigError::Strength(inversion.strength).into());
        }
        if let Some(&last) = timesteps.first()
            && last.get() >= inversion.schedule.timesteps()
        {
            let (timestep, last) = (last.get(), inversion.schedule.timesteps() - 1);
            return Err(ConfigError::TimestepOutsideTraining { timestep, last }.into());
        }
        let level = metadata.state.level;
        inversion.sampler.check(&inversion.noise, &inversion.trajectory, level)?;
        Ok((inversion, level))
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

/// Reads a file, and names it in what is wrong with it.
pub(crate) fn read_file<T>(
    path: &Path,
    from_bytes: impl Fn(&[u8]) -> Result<T, InversionFileError>,
) -> Result<T, InversionFileError> {
    let bytes = read_limited(path, MAX_BYTES)
        .map_err(|source| InversionFileError::Io { path: path.to_owned(), source })?;
    from_bytes(&bytes)
        .map_err(|source| InversionFileError::File { path: path.to_owned(), source: Box::new(source) })
}

fn read_sampler(file: &TensorReader<'_>, metadata: &Metadata) -> Result<AnySampler, InversionFileError> {
    known("sampler", &metadata.sampler, &["edict", "belm", "bdia", "ddim"], "edict, belm, bdia and ddim")?;
    known("mode", &metadata.mode, &["exact", "float"], "exact and float")?;
    let grid = match (metadata.mode.as_str(), metadata.lattice) {
        ("exact", Some(note)) => Some(Grid::new(note.unit_bits, note.spill_bits)?),
        ("exact", None) => Some(Grid::default()),
        _ => None,
    };
    let two_step = |rule| {
        let sampler = TwoStep::new(rule)?;
        Ok(match grid {
            Some(grid) => AnySampler::LatticeTwoStep(LatticeTwoStep::new(sampler)?.with_grid(grid)),
            None => AnySampler::TwoStep(sampler),
        })
    };
    match metadata.sampler.as_str() {
        "belm" => two_step(TwoStepRule::Belm),
        "bdia" => two_step(TwoStepRule::Bdia { gamma: file.number("run.gamma")? }),
        "ddim" if grid.is_none() => Ok(AnySampler::Ddim(Ddim)),
        "ddim" => Err(unknown("mode", "exact", "float for ddim")),
        _ => {
            let order = metadata.order.as_deref().unwrap_or(LEAPFROG);
            known("order", order, &[LEAPFROG, FIXED], "leapfrog and fixed")?;
            let order = if order == FIXED { UpdateOrder::Fixed } else { UpdateOrder::Leapfrog };
            let weight = MixingWeight::Fixed(file.number("run.mixing_weight")?);
            Ok(match grid {
                Some(grid) => AnySampler::LatticeEdict(LatticeEdict::new(weight, order)?.with_grid(grid)),
                None => AnySampler::Edict(Edict::new(weight, order)?),
            })
        }
    }
}

/// Returns the bytes of a safetensors file with a pair of latents, tensors `x` and `y`.
///
/// # Errors
/// [`InversionFileError::Safetensors`] if they cannot be laid out.
pub fn latents_to_bytes(pair: &CoupledPair) -> Result<Vec<u8>, InversionFileError> {
    let mut file = TensorWriter::default();
    file.latents("x", &pair.x);
    file.latents("y", &pair.y);
    file.into_bytes()
}

/// The part of the metadata that every version has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn known(
    key: &'static str,
    value: &str,
    all: &[&str],
    known: &'static str,
) -> Result<(), InversionFileError> {
    if all.contains(&value) { Ok(()) } else { Err(unknown(key, value, known)) }
}

fn unknown(key: &'static str, value: &str, known: &'static str) -> InversionFileError {
    InversionFileError::UnknownSetting { key, value: value.to_owned(), known }
}

pub(crate) fn timestep(name: &str, value: f64) -> Result<usize, InversionFileError> {
    // Beyond any training schedule; far below where f64 skips whole numbers.
    const LIMIT: f64 = 4_294_967_296.0;
    if value.fract() == 0.0 && (0.0..LIMIT).contains(&value) {
        Ok(value as usize)
    } else {
        Err(InversionFileError::NotATimestep { name: name.to_owned(), value })
    }
}
