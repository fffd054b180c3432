//! Models whose answers are known.

use std::convert::Infallible;

use edict_core::{Latents, NoisePredictor, NoiseSchedule, Timestep};
use half::{bf16, f16};
use ndarray::{Array2, ArrayViewD, Axis, Ix2};

use crate::normal;

/// Predicts each element from itself, the timestep and a number: `eps_i = f(z_i, t, c)`.
#[derive(Clone, Debug)]
pub struct Elementwise<F>(pub F);

impl<F: Fn(f64, Timestep, f64) -> f64> NoisePredictor for Elementwise<F> {
    type Condition = f64;
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &f64) -> Result<Latents, Infallible> {
        Ok(z.mapv(|z| (self.0)(z, t, *c)))
    }
}

/// A function of its input that jumps: exact inversion must not need a smooth network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discontinuous;

impl NoisePredictor for Discontinuous {
    type Condition = f64;
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &f64) -> Result<Latents, Infallible> {
        let phase = t.get() as f64 * 0.01;
        Ok(z.mapv(|z| (z * 8.0 + phase).floor().rem_euclid(3.0) - 1.0 + c * z.signum()))
    }
}

/// The exact noise of data that is normal with mean 0 and a given standard deviation.
#[derive(Clone, Debug)]
pub struct GaussianData {
    schedule: NoiseSchedule,
    std: f64,
}

impl GaussianData {
    /// Makes the model of data with standard deviation `std` under a schedule.
    pub fn new(schedule: NoiseSchedule, std: f64) -> Self {
        Self { schedule, std }
    }

    /// Returns the standard deviation of latents where the signal's share of the variance is `alpha_bar`.
    ///
    /// The probability-flow equation scales latents by exactly this function of the level, which is the closed-form solution
    /// that samplers must converge to.
    pub fn latent_std(&self, alpha_bar: f64) -> f64 {
        (alpha_bar * self.std * self.std + 1.0 - alpha_bar).sqrt()
    }
}

impl NoisePredictor for GaussianData {
    type Condition = f64;
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, _: &f64) -> Result<Latents, Infallible> {
        let bar = self.schedule.alpha_bars()[t.get()];
        let gain = (1.0 - bar).sqrt() / self.latent_std(bar).powi(2);
        Ok(z.mapv(|z| gain * z))
    }
}

/// The exact noise of a mixture of equally likely normal clusters in the plane or any other space.
///
/// The condition is the cluster that data come from, or `None` for all of them. Latents are `[batch, dimension]`.
#[derive(Clone, Debug)]
pub struct Mixture {
    schedule: NoiseSchedule,
    means: Array2<f64>,
    std: f64,
}

impl Mixture {
    /// Makes a mixture with means `[clusters, dimension]` and one standard deviation.
    pub fn new(schedule: NoiseSchedule, means: Array2<f64>, std: f64) -> Self {
        Self { schedule, means, std }
    }
}

impl NoisePredictor for Mixture {
    type Condition = Option<usize>;
    type Error = ndarray::ShapeError;

    fn predict(
        &self,
        z: ArrayViewD<'_, f64>,
        t: Timestep,
        cluster: &Option<usize>,
    ) -> Result<Latents, ndarray::ShapeError> {
        let z = z.into_dimensionality::<Ix2>()?;
        let bar = self.schedule.alpha_bars()[t.get()];
        let (alpha, sigma) = (bar.sqrt(), (1.0 - bar).sqrt());
        let variance = bar * self.std * self.std + 1.0 - bar;
        let mut eps = z.to_owned();
        for (mut eps, z) in eps.axis_iter_mut(Axis(0)).zip(z.axis_iter(Axis(0))) {
            let distances: Vec<f64> = (self.means.axis_iter(Axis(0)))
                .map(|mean| z.iter().zip(mean).map(|(z, m)| (z - alpha * m).powi(2)).sum())
                .collect();
            let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
            let weight = |k: usize| match cluster {
                Some(chosen) => f64::from(u8::from(k == *chosen)),
                None => (-(distances[k] - nearest) / (2.0 * variance)).exp(),
            };
            let total: f64 = (0..distances.len()).map(weight).sum();
            for (i, eps) in eps.iter_mut().enumerate() {
                let mean: f64 = (0..distances.len()).map(|k| weight(k) / total * self.means[[k, i]]).sum();
                *eps = sigma * (*eps - alpha * mean) / variance;
            }
        }
        Ok(eps.into_dyn())
    }
}

/// A two-layer network with fixed random weights that mixes all elements of a sample.
///
/// Latents are `[batch, ...]` with `width` elements a sample; the condition is a number added to its hidden units.
#[derive(Clone, Debug)]
pub struct TanhNetwork {
    inner: Array2<f64>,
    outer: Array2<f64>,
}

impl TanhNetwork {
    /// Draws a network for samples of `width` elements.
    pub fn new(width: usize, seed: u64) -> Self {
        let weights = |seed| {
            let values: Vec<f64> = normal(&[width * width], seed).into_iter().collect();
            Array2::from_shape_fn((width, width), |(i, j)| values[i * width + j] / (width as f64).sqrt())
        };
        Self { inner: weights(2 * seed), outer: weights(2 * seed + 1) }
    }
}

impl NoisePredictor for TanhNetwork {
    type Condition = f64;
    type Error = ndarray::ShapeError;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &f64) -> Result<Latents, ndarray::ShapeError> {
        let width = self.inner.nrows();
        let samples = z.to_shape((z.len() / width, width))?;
        let phase = c + (t.get() as f64 * 0.01).sin();
        let mut eps = Array2::zeros(samples.raw_dim());
        // Plain sums sample by sample: a matrix product may depend on the batch in its last bit.
        for (mut eps, z) in eps.axis_iter_mut(Axis(0)).zip(samples.axis_iter(Axis(0))) {
            let hidden: Vec<f64> = (self.inner.axis_iter(Axis(0)))
                .map(|row| (row.iter().zip(z).map(|(w, z)| w * z).sum::<f64>() + phase).tanh())
                .collect();
            for (eps, row) in eps.iter_mut().zip(self.outer.axis_iter(Axis(0))) {
                *eps = row.iter().zip(&hidden).map(|(w, h)| w * h).sum();
            }
        }
        eps.into_shape_with_order(z.raw_dim())
    }
}

/// Formats a network may compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Single precision.
    F32,
}

/// Rounds a predictor's input and output, as a network of lower precision does.
#[derive(Clone, Debug)]
pub struct Rounded<P> {
    predictor: P,
    rounding: Rounding,
}

impl<P> Rounded<P> {
    /// Wraps a predictor.
    pub fn new(predictor: P, rounding: Rounding) -> Self {
        Self { predictor, rounding }
    }

    fn round(&self, value: f64) -> f64 {
        match self.rounding {
            Rounding::F16 => f16::from_f64(value).to_f64(),
            Rounding::BF16 => bf16::from_f64(value).to_f64(),
            Rounding::F32 => f64::from(value as f32),
        }
    }
}

impl<P: NoisePredictor> NoisePredictor for Rounded<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &P::Condition) -> Result<Latents, P::Error> {
        let z = z.mapv(|z| self.round(z));
        Ok(self.predictor.predict(z.view(), t, c)?.mapv_into(|e| self.round(e)))
    }
}
