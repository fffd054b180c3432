//! Set-up shared by the tests of the core.
#![allow(dead_code, unreachable_pub, reason = "every test program uses a part of it")]

use std::ops::ControlFlow;

use edict_core::*;

/// The schedule of Stable Diffusion.
pub fn schedule() -> NoiseSchedule {
    NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).unwrap()
}

pub fn trajectory(steps: usize, strength: f64) -> Trajectory {
    Trajectory::builder(steps).offset(1).strength(strength).build(&schedule()).unwrap()
}

pub fn edict(mixing_weight: f64, order: UpdateOrder) -> Edict {
    Edict::new(MixingWeight::Fixed(mixing_weight), order).unwrap()
}

pub fn largest(latents: &Latents) -> f64 {
    latents.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

pub fn max_difference(a: &Latents, b: &Latents) -> f64 {
    assert_eq!(a.shape(), b.shape());
    // A NaN must not vanish in a maximum.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d })
}

pub fn pair_difference(a: &CoupledPair, b: &CoupledPair) -> f64 {
    max_difference(&a.x, &b.x).max(max_difference(&a.y, &b.y))
}

pub fn bits(latents: &Latents) -> Vec<u64> {
    latents.iter().map(|v| v.to_bits()).collect()
}

pub fn pair_bits(pair: &CoupledPair) -> (Vec<u64>, Vec<u64>) {
    (bits(&pair.x), bits(&pair.y))
}

/// The size of the largest latent a run has passed through.
pub struct Largest(pub f64);

impl Observer<CoupledPair> for Largest {
    fn after_step(&mut self, _: &Step, pair: &CoupledPair) -> ControlFlow<()> {
        self.0 = self.0.max(largest(&pair.x)).max(largest(&pair.y));
        ControlFlow::Continue(())
    }
}

/// An image to noise and back; returns the error and the largest latent on the way.
pub fn image_round_trip<P: NoisePredictor>(
    invert: &Edict,
    generate: &Edict,
    image: &Latents,
    trajectory: &Trajectory,
    model: &P,
    condition: &P::Condition,
) -> (f64, f64) {
    let start = CoupledPair::equal_to(image);
    let mut seen = Largest(largest(image));
    let noise = invert.invert(&start, trajectory, model, condition, &mut seen).unwrap();
    let back = generate.generate(&noise, trajectory, model, condition, &mut seen).unwrap();
    (pair_difference(&back, &start), seen.0)
}

/// A model that cannot fail, with the error type of those that can.
pub struct Fallible<P>(pub P);

impl<P: NoisePredictor<Condition = f64, Error = std::convert::Infallible>> NoisePredictor for Fallible<P> {
    type Condition = f64;
    type Error = ndarray::ShapeError;

    fn predict(
        &self,
        z: ndarray::ArrayViewD<'_, f64>,
        t: Timestep,
        c: &f64,
    ) -> Result<Latents, ndarray::ShapeError> {
        match self.0.predict(z, t, c) {
            Ok(eps) => Ok(eps),
            Err(never) => match never {},
        }
    }
}
