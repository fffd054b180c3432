//! An image's noise, with everything needed to come back from it.

use serde::{Deserialize, Serialize};

use edict_core::{ConfigError, GuidanceScale, Latents, NoiseSchedule, StateError, Trajectory};

use crate::{AnySampler, AnyState};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Fingerprint of the model, [`ModelFolder::fingerprint`](crate::ModelFolder::fingerprint).
    pub model: String,
    /// Back end: `candle` or `tch`.
    pub backend: String,
    /// Device: `cpu`, `cuda:N`, `metal`.
    pub device: String,
    /// Element type of the networks: `f32`, ...
    pub dtype: String,
    /// Format that weights were kept in: `f16`, `bf16`; `None` where it was the networks' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Number of threads.
    pub threads: usize,
    /// The processor's widest vectors, [`instruction_set`].
    pub instruction_set: String,
}

/// Names the widest vector instructions of this processor that kernels may choose: `avx512`, `avx2`, `neon`, ...
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        // As `pulp`, through which kernels choose, asks: one of these features missing, it takes the next narrower vectors.
        macro_rules! all {
            ($($feature:tt),*) => { $(is_x86_feature_detected!($feature))&&* };
        }
        let avx2 = all!("fxsr", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
            && all!("avx", "avx2", "bmi1", "bmi2", "fma", "lzcnt");
        if avx2 && all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
            "avx512"
        } else if avx2 {
            "avx2"
        } else if is_x86_feature_detected!("avx") {
            "avx"
        } else {
            "sse2"
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        if cfg!(target_arch = "aarch64") { "neon" } else { std::env::consts::ARCH }
    }
}

/// The noise found for an image, and the run it was found by.
///
/// Generating from [`Self::noise`] along [`Self::trajectory`] under the same prompt gives [`Self::image_latent`] back; under
/// another prompt it gives an edit. All numbers of the run are kept, so that generation need not compute them anew: a last bit
/// of difference in the mixing weight alone would cost exactness.
#[derive(Clone, Debug, PartialEq)]
pub struct Inversion {
    /// The sampler; EDICT with a fixed mixing weight.
    pub sampler: AnySampler,
    /// The sampler's state at the noisy end of the run.
    pub noise: AnyState,
    /// The image's scaled latents `[batch, channels, h, w]` that inversion started from, on the lattice if the sampler is exact.
    pub image_latent: Latents,
    /// The steps.
    pub trajectory: Trajectory,
    /// Share of the schedule that was run, in `[0, 1]`.
    pub strength: f64,
    /// The schedule of training, which v-predictions are converted by.
    pub schedule: NoiseSchedule,
    /// Guidance of the inversion.
    pub guidance: GuidanceSettings,
    /// The prompt that describes the image.
    pub prompt: String,
    /// The negative prompt.
    pub negative: String,
    /// What it was made with.
    pub origin: Origin,
    /// [`prediction_hash`](edict_core::prediction_hash) of every guided prediction, in the order inversion made them. Generation
    /// under the same prompt makes them in reverse.
    pub predictions: Vec<u64>,
}

impl Inversion {
    /// Returns the noise as latents, each `[batch, channels, h, w]`: see [`AnySampler::latents`].
    ///
    /// # Errors
    /// [`StateError`] if the state is not one of the sampler and run.
    pub fn latents(&self) -> Result<edict_core::CoupledPair, StateError> {
        self.sampler.latents(&self.noise, &self.trajectory)
    }
}
