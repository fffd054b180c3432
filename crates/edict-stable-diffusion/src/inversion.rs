//! An image's noise, with everything needed to come back from it.

use edict_core::{
    ConfigError, CoupledPair, Edict, GuidanceScale, Latents, MixingWeight, NoiseSchedule, Trajectory,
    UpdateOrder,
};

/// How strongly predictions are guided, and at which timesteps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceSettings {
    /// The guidance scale; 1 turns guidance off.
    pub scale: f64,
    /// First and last training timestep at which guidance is on, or `None` for all of them. Elsewhere the scale is 1.
    pub interval: Option<[usize; 2]>,
}

impl GuidanceSettings {
    /// Makes the scale that a [`Guided`](edict_core::Guided) predictor takes.
    ///
    /// # Errors
    /// [`ConfigError::GuidanceScale`] if the scale is not finite, [`ConfigError::GuidanceInterval`] if the interval is empty.
    pub fn scale(&self) -> Result<GuidanceScale, ConfigError> {
        match self.interval {
            None => GuidanceScale::constant(self.scale),
            Some([low, high]) => GuidanceScale::interval(self.scale, low, high),
        }
    }
}

/// What an inversion was made with, for the report of a run that does not come back to the same bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Fingerprint of the model, [`ModelFolder::fingerprint`](crate::ModelFolder::fingerprint).
    pub model: String,
    /// Back end: `candle` or `tch`.
    pub backend: String,
    /// Device: `cpu`, `cuda:N`, `metal`.
    pub device: String,
    /// Element type of the networks: `f32`, ...
    pub dtype: String,
    /// Number of threads.
    pub threads: usize,
}

/// The noise EDICT found for an image, and the run it was found by.
///
/// Generating from [`Self::pair`] along [`Self::trajectory`] under the same prompt gives [`Self::image_latent`] back; under
/// another prompt it gives an edit. All numbers of the run are kept, so that generation need not compute them anew: a last bit
/// of difference in the mixing weight alone would cost exactness.
#[derive(Clone, Debug, PartialEq)]
pub struct Inversion {
    /// The noise pair, each `[batch, channels, h, w]`.
    pub pair: CoupledPair,
    /// The image's scaled latents that inversion started from.
    pub image_latent: Latents,
    /// The steps.
    pub trajectory: Trajectory,
    /// Share of the schedule that was run, in `[0, 1]`.
    pub strength: f64,
    /// The schedule of training, which v-predictions are converted by.
    pub schedule: NoiseSchedule,
    /// The mixing weight `p`, in `(0, 1]`.
    pub mixing_weight: f64,
    /// The update order.
    pub order: UpdateOrder,
    /// Guidance of the inversion.
    pub guidance: GuidanceSettings,
    /// The prompt that describes the image.
    pub prompt: String,
    /// The negative prompt.
    pub negative: String,
    /// What it was made with.
    pub origin: Origin,
}

impl Inversion {
    /// Returns the sampler that comes back, with the kept mixing weight.
    ///
    /// # Errors
    /// [`ConfigError::MixingWeight`] if the weight is outside `(0, 1]`.
    pub fn sampler(&self) -> Result<Edict, ConfigError> {
        Edict::new(MixingWeight::Fixed(self.mixing_weight), self.order)
    }
}
