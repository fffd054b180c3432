//! What an image's latents may be.

use ndarray::{ArrayD, ArrayViewD, Axis, Zip};

use crate::config::VaeConfig;

/// A normal distribution over latents, `[batch, latent_channels, h, w]`, independent in every element.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    mean: ArrayD<f64>,
    standard_deviation: ArrayD<f64>,
    scaling_factor: f64,
    shift_factor: f64,
}

impl Posterior {
    /// Splits `[batch, 2 latent_channels, h, w]` in means and log-variances.
    pub(super) fn from_moments(moments: ArrayD<f64>, config: &VaeConfig) -> Self {
        let channels = moments.len_of(Axis(1)) / 2;
        let (mean, log_variance) = moments.view().split_at(Axis(1), channels);
        Self {
            mean: mean.to_owned(),
            // The bounds of diffusers' `DiagonalGaussianDistribution`.
            standard_deviation: log_variance.mapv(|v| (0.5 * v.clamp(-30.0, 20.0)).exp()),
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
        }
    }

    /// Returns the means as the network gave them, not scaled.
    pub fn mean(&self) -> &ArrayD<f64> {
        &self.mean
    }

    /// Returns the standard deviations of the unscaled latents.
    pub fn standard_deviation(&self) -> &ArrayD<f64> {
        &self.standard_deviation
    }

    /// Returns the likeliest latents, scaled for the noise predictor: `(mean - shift) scale`.
    pub fn mode(&self) -> ArrayD<f64> {
        self.mean.mapv(|z| (z - self.shift_factor) * self.scaling_factor)
    }

    /// Returns the latents that standard normal `noise` of the posterior's shape picks, scaled as [`Self::mode`].
    ///
    /// Returns `None` if the shapes differ.
    pub fn sample(&self, noise: ArrayViewD<'_, f64>) -> Option<ArrayD<f64>> {
        (noise.shape() == self.mean.shape()).then(|| {
            let mut latents = self.mean.clone();
            Zip::from(&mut latents).and(&self.standard_deviation).and(&noise).for_each(|z, s, n| {
                *z = (*z + s * n - self.shift_factor) * self.scaling_factor;
            });
            latents
        })
    }
}
