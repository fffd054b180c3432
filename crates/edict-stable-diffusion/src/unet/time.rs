//! The timestep embedding.

use ndarray::Array2;

use crate::backend::Backend;
use crate::config::UNetConfig;
use crate::error::LoadError;
use crate::parameters::Parameters;

/// Sinusoids of the timestep and two linear maps (diffusers' `Timesteps` and `TimestepEmbedding`).
pub(super) struct TimeEmbedding<B: Backend> {
    widen: B::Linear,
    mix: B::Linear,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

impl<B: Backend> TimeEmbedding<B> {
    pub(super) fn load(parameters: &Parameters<'_, B>, config: &UNetConfig) -> Result<Self, LoadError> {
        let channels = config.levels[0].channels;
        Ok(Self {
            widen: parameters.linear("linear_1", [channels, config.time_channels])?,
            mix: parameters.linear("linear_2", [config.time_channels, config.time_channels])?,
            channels,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        })
    }

    /// Returns `[batch, time_channels]`, with the activation that every residual block would apply first.
    pub(super) fn forward(&self, backend: &B, timestep: usize, batch: usize) -> Result<B::Tensor, B::Error> {
        let row = sinusoids(timestep as f64, self.channels, self.flip_sin_to_cos, self.freq_shift);
        let rows = Array2::from_shape_fn((batch, self.channels), |(_, i)| row[i]);
        let x = backend.upload(rows.into_dyn().view())?;
        let x = backend.silu(&backend.linear(&x, &self.widen)?)?;
        backend.silu(&backend.linear(&x, &self.mix)?)
    }
}

/// Computes `sin(t w_k)` and `cos(t w_k)` for `w_k = 10000^(-k / (channels / 2 - freq_shift))`; an odd channel is 0.
///
/// In f64, whatever the network's precision: at t = 1000 the rounding of an f32 angle is 3e-5.
fn sinusoids(timestep: f64, channels: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f64> {
    let half = channels / 2;
    let angle = |k: usize| timestep * (-(10000f64.ln()) * k as f64 / (half as f64 - freq_shift)).exp();
    let sines = (0..half).map(|k| angle(k).sin());
    let cosines = (0..half).map(|k| angle(k).cos());
    let mut row: Vec<f64> =
        if flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    row.resize(channels, 0.0);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_follow_their_definition() {
        // w = 1 and 1/100 for four channels; w = 1 and 1/10000 with a shift of 1.
        let row = sinusoids(7.0, 4, true, 0.0);
        for (found, expected) in row.iter().zip([7f64.cos(), 0.07f64.cos(), 7f64.sin(), 0.07f64.sin()]) {
            assert!((found - expected).abs() < 1e-15, "{row:?}");
        }
        let row = sinusoids(7.0, 5, false, 1.0);
        for (found, expected) in
            row.iter().zip([7f64.sin(), 0.0007f64.sin(), 7f64.cos(), 0.0007f64.cos(), 0.0])
        {
            assert!((found - expected).abs() < 1e-15, "{row:?}");
        }
    }
}
