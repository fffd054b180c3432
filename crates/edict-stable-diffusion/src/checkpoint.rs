//! A run that was interrupted, on disk.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::inversion_file::{CHECKPOINT_METADATA, read_file, timestep};
use crate::state_tensors::{StateNote, read_state, write_state};
use crate::tensor_file::{TensorReader, TensorWriter};
use crate::{AnyState, GuidanceSettings, Inversion, InversionFileError, Origin};

/// An interrupted run with everything needed to go on and end in the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The command that was interrupted: `invert`, `generate` or `edit`.
    pub command: String,
    /// The inversion, which may not be finished: its state stands at [`Self::level`]. For fresh noise `image_latent` is that noise.
    pub inversion: Inversion,
    /// The level of the inversion's state: 0 once it is finished.
    pub level: usize,
    /// What is to be generated from it.
    pub generation: Option<Generation>,
}

/// The pictures to generate from an inversion, and how far that has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The prompts, a picture each.
    pub prompts: Vec<String>,
    /// The negative prompt of all of them.
    pub negative: String,
    /// Guidance of all of them.
    pub guidance: GuidanceSettings,
    /// What they are made with, which may be another device or precision than the inversion's.
    pub origin: Origin,
    /// The seed of the noise that SDEdit began from; `None` where an image was inverted.
    pub noise_seed: Option<u64>,
    /// How many pictures are finished.
    pub finished: usize,
    /// The state of the picture at work, and the level it stands at.
    pub state: Option<(AnyState, usize)>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<GenerationNote>,
}

#[derive(Serialize, Deserialize)]
struct GenerationNote {
    prompts: Vec<String>,
    negative: String,
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise_seed: Option<u64>,
    finished: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<StateNote>,
}

/// Begins the names of the tensors of the picture at work.
const PREFIX: &str = "generation.";

impl Checkpoint {
    /// Returns the bytes of a checkpoint file: an inversion file with the rest beside it.
    ///
    /// # Errors
    /// [`InversionFileError::State`] if a state is not one of the sampler at its level.
    pub fn to_bytes(&self) -> Result<Vec<u8>, InversionFileError> {
        let mut file = TensorWriter::default();
        self.inversion.write(self.level, &mut file)?;
        let generation = match &self.generation {
            None => None,
            Some(generation) => {
                let Inversion { sampler, trajectory, .. } = &self.inversion;
                let state = match &generation.state {
                    None => None,
                    Some((state, level)) => {
                        Some(write_state(&mut file, PREFIX, sampler, state, trajectory, *level)?)
                    }
                };
                file.vector("generation.guidance", &[generation.guidance.scale]);
                if let Some(interval) = generation.guidance.interval {
                    file.vector("generation.guidance_interval", &interval.map(|t| t as f64));
                }
                Some(GenerationNote {
                    prompts: generation.prompts.clone(),
                    negative: generation.negative.clone(),
                    origin: generation.origin.clone(),
                    noise_seed: generation.noise_seed,
                    finished: generation.finished,
                    state,
                })
            }
        };
        file.metadata(CHECKPOINT_METADATA, &Metadata { command: self.command.clone(), generation })?;
        file.into_bytes()
    }

    /// Reads a checkpoint file.
    ///
    /// # Errors
    /// As [`Inversion::read`].
    pub fn read(path: &Path) -> Result<Self, InversionFileError> {
        read_file(path, Self::from_bytes)
    }

    /// Reads the bytes of a checkpoint file.
    ///
    /// # Errors
    /// As [`Inversion::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InversionFileError> {
        let file = TensorReader::new(bytes)?;
        let metadata: Option<Metadata> = file.metadata(CHECKPOINT_METADATA)?;
        let metadata = metadata.ok_or(InversionFileError::NotACheckpoint)?;
        let (inversion, level) = Inversion::from_file(&file)?;
        let generation = match metadata.generation {
            None => None,
            Some(note) => {
                let (finished, prompts) = (note.finished, note.prompts.len());
                if finished >= prompts {
                    return Err(InversionFileError::Finished { finished, prompts });
                }
                let shape = inversion.image_latent.shape();
                let Inversion { sampler, trajectory, .. } = &inversion;
                let state = match note.state {
                    None => None,
                    Some(state) => {
                        let read = read_state(&file, PREFIX, sampler, trajectory, state, shape)?;
                        Some((read, state.level))
                    }
                };
                let interval = if file.has("generation.guidance_interval") {
                    let interval = file.vector("generation.guidance_interval", Some(2))?;
                    let read = |t| timestep("generation.guidance_interval", t);
                    Some([read(interval[0])?, read(interval[1])?])
                } else {
                    None
                };
                let guidance = GuidanceSettings { scale: file.number("generation.guidance")?, interval };
                guidance.scale()?;
                Some(Generation {
                    prompts: note.prompts,
                    negative: note.negative,
                    guidance,
                    origin: note.origin,
                    noise_seed: note.noise_seed,
                    finished: note.finished,
                    state,
                })
            }
        };
        Ok(Self { command: metadata.command, inversion, level, generation })
    }
}
