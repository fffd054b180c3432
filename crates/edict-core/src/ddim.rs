//! DDIM, the baseline (arXiv:2010.02502).

use crate::sampler::{finite, predict};
use crate::update::{FiniteCheck, advance, retreat, scale, unscale};
use crate::{Latents, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory};

/// Deterministic DDIM, and its approximate inversion.
///
/// Generation makes `z' = a z + b eps(z, t)`. To undo it one would need `eps` at the noisier latents, which are not known yet:
/// inversion takes it at the cleaner ones, `z = (z' - b eps(z', t)) / a`, and is off by the difference. That error is what
/// [`Edict`](crate::Edict) does away with. One network call a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ddim;

impl Ddim {
    /// Adds noise to an image up to the noisy end of a run, `sqrt(A) z + sqrt(1 - A) noise`: what SDEdit (arXiv:2108.01073) generates
    /// from instead of an inversion. `noise` is standard normal, of the image's shape.
    ///
    /// # Errors
    /// [`StateError::PairShape`] if the shapes differ.
    pub fn noised(&self, image: &Latents, noise: &Latents, run: &Trajectory) -> Result<Latents, StateError> {
        if image.shape() != noise.shape() {
            return Err(StateError::PairShape { x: image.shape().to_vec(), y: noise.shape().to_vec() });
        }
        let bar = run.run().first().map_or(1.0, Step::alpha_bar_from);
        Ok(image * bar.sqrt() + noise * (1.0 - bar).sqrt())
    }
}

impl Sampler for Ddim {
    type State = Latents;

    fn state_from_image(&self, image: &Latents, _: &Trajectory) -> Result<Latents, StateError> {
        Ok(image.clone())
    }

    fn state_from_noise(&self, noise: &Latents, _: &Trajectory) -> Result<Latents, StateError> {
        Ok(noise.clone())
    }

    fn image(&self, state: &Latents, _: &Trajectory) -> Result<Latents, StateError> {
        Ok(state.clone())
    }

    fn check(&self, state: &Latents, _: &Trajectory, _: usize) -> Result<(), StateError> {
        if FiniteCheck::of(state).passed() { Ok(()) } else { Err(StateError::NonFinite { latent: "z" }) }
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        z: &mut Latents,
        _: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let (a, b) = step.coefficients();
        if b == 0.0 {
            return finite(scale(z, a), step);
        }
        let eps = predict(predictor, z, step, condition)?;
        finite(advance(z, &eps, a, b), step)
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        z: &mut Latents,
        _: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let (a, b) = step.coefficients();
        if b == 0.0 {
            return finite(unscale(z, a), step);
        }
        let eps = predict(predictor, z, step, condition)?;
        finite(retreat(z, &eps, a, b), step)
    }
}
