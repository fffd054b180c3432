//! EDICT as it is without `f64` latents, to compare with.

use ndarray::Zip;

use crate::sampler::{finite, predict};
use crate::update::FiniteCheck;
use crate::{CoupledPair, Edict, Latents, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory};

/// [`Edict`] with latents in single precision: a baseline.
///
/// Every line of a step is rounded to `f32`, as where latents live in the network's precision. Nothing is gained by it here: the
/// latents are small beside the network.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct SinglePrecision(pub Edict);

/// Applies a line of a step and rounds its result to `f32`.
fn line(z: &mut Latents, other: &Latents, of: impl Fn(f64, f64) -> f64) {
    Zip::from(z).and(other).for_each(|z, &other| *z = f64::from(of(*z, other) as f32));
}

fn rounded(latents: &Latents) -> Latents {
    latents.mapv(|value| f64::from(value as f32))
}

impl Sampler for SinglePrecision {
    type State = CoupledPair;

    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<CoupledPair, StateError> {
        self.0.state_from_image(&rounded(image), run)
    }

    fn state_from_noise(&self, noise: &Latents, run: &Trajectory) -> Result<CoupledPair, StateError> {
        self.0.state_from_noise(&rounded(noise), run)
    }

    fn image(&self, state: &CoupledPair, run: &Trajectory) -> Result<Latents, StateError> {
        self.0.image(state, run)
    }

    fn check(&self, state: &CoupledPair, run: &Trajectory, level: usize) -> Result<(), StateError> {
        self.0.check(state, run, level)
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        CoupledPair { x, y }: &mut CoupledPair,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let ((a, b), p) = (step.coefficients(), self.0.mixing_weight().resolve(run));
        let (first, second) =
            if self.0.order().x_first(step) { (&mut *x, &mut *y) } else { (&mut *y, &mut *x) };
        // As `Edict`: where `b = 0` the network has no say, and is not asked.
        if b != 0.0 {
            let e = predict(predictor, second, step, condition)?;
            line(first, &e, |z, e| a * z + b * e);
            let e = predict(predictor, first, step, condition)?;
            line(second, &e, |z, e| a * z + b * e);
        }
        line(x, y, |x, y| p * x + (1.0 - p) * y);
        line(y, x, |y, x| p * y + (1.0 - p) * x);
        finite(FiniteCheck::of(x), step)?;
        finite(FiniteCheck::of(y), step)
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        CoupledPair { x, y }: &mut CoupledPair,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let ((a, b), p) = (step.coefficients(), self.0.mixing_weight().resolve(run));
        line(y, x, |y, x| (y - (1.0 - p) * x) / p);
        line(x, y, |x, y| (x - (1.0 - p) * y) / p);
        let (first, second) =
            if self.0.order().x_first(step) { (&mut *x, &mut *y) } else { (&mut *y, &mut *x) };
        if b != 0.0 {
            let e = predict(predictor, first, step, condition)?;
            line(second, &e, |z, e| (z - b * e) / a);
            let e = predict(predictor, second, step, condition)?;
            line(first, &e, |z, e| (z - b * e) / a);
        }
        finite(FiniteCheck::of(x), step)?;
        finite(FiniteCheck::of(y), step)
    }
}
