//! EDICT: exact inversion by coupled transformations (arXiv:2211.12446).

use crate::sampler::{finite, predict};
use crate::update::{
    FiniteCheck, advance, advance_x_and_mix, advance_y_and_mix, mix, retreat, scale, unmix, unscale,
};
use crate::{ConfigError, Latents, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory};

/// The two coupled latents of EDICT, of one shape `[batch, ...]`.
///
/// Of an image both are its latents; at the noisy end they differ a little, and both must be kept to come back. Pictures are
/// decoded from `x`.
#[derive(Clone, Debug, PartialEq)]
pub struct CoupledPair {
    /// The latents mixed first, which pictures are decoded from.
    pub x: Latents,
    /// Their partner.
    pub y: Latents,
}

impl CoupledPair {
    /// Makes a pair of two equal latents, which is what an image or fresh noise begins as.
    pub fn equal_to(latents: &Latents) -> Self {
        Self { x: latents.clone(), y: latents.clone() }
    }

    /// Checks that the latents have one shape and are finite.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        let Self { x, y } = self;
        if x.shape() != y.shape() {
            return Err(StateError::PairShape { x: x.shape().to_vec(), y: y.shape().to_vec() });
        }
        for (latent, values) in [("x", x), ("y", y)] {
            if !FiniteCheck::of(values).passed() {
                return Err(StateError::NonFinite { latent });
            }
        }
        Ok(())
    }
}

/// How strongly the pair is kept apart: after each step `x <- p x + (1 - p) y`, `y <- p y + (1 - p) x`.
///
/// Generation contracts the difference of the pair by `p^2` a step and inversion expands it. Smaller weights lose more bits
/// (`2 n log2(1/p)` in `n` steps), larger ones let the pair drift apart; what matters is `p^n`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum MixingWeight {
    /// `0.93^(50 / steps)`, `steps` being those of the full schedule: the paper's 0.93 at 50 steps, and as stable at any other.
    #[default]
    Auto,
    /// A weight in `(0, 1]`.
    Fixed(f64),
}

impl MixingWeight {
    /// Returns the weight `p` for a trajectory.
    pub fn resolve(self, trajectory: &Trajectory) -> f64 {
        match self {
            Self::Auto => 0.93f64.powf(50.0 / trajectory.schedule_steps() as f64),
            Self::Fixed(p) => p,
        }
    }
}

/// Which latent of the pair a step updates first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum UpdateOrder {
    /// `x` at steps of even index, `y` at odd ones, as the authors' code does.
    #[default]
    Leapfrog,
    /// `x` at every step, as in the paper's text.
    Fixed,
}

impl UpdateOrder {
    pub(crate) fn x_first(self, step: &Step) -> bool {
        self == Self::Fixed || step.index().is_multiple_of(2)
    }
}

/// Exact diffusion inversion by coupled transformations (arXiv:2211.12446).
///
/// A step towards the image is
///
/// ```text
/// x <- a x + b eps(y, t)          (y first at odd steps with leapfrog)
/// y <- a y + b eps(x, t)
/// x <- p x + (1 - p) y
/// y <- p y + (1 - p) x
/// ```
///
/// and each line can be undone given the other latent, whatever the network: inversion runs the lines backwards, exact up to
/// rounding. Two network calls a step; none where `b = 0`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Edict {
    mixing_weight: MixingWeight,
    order: UpdateOrder,
}

impl Edict {
    /// Makes a sampler.
    ///
    /// # Errors
    /// [`ConfigError::MixingWeight`] if a fixed weight is not in `(0, 1]`.
    pub fn new(mixing_weight: MixingWeight, order: UpdateOrder) -> Result<Self, ConfigError> {
        match mixing_weight {
            MixingWeight::Fixed(p) if !(p > 0.0 && p <= 1.0) => Err(ConfigError::MixingWeight(p)),
            _ => Ok(Self { mixing_weight, order }),
        }
    }

    /// Returns the mixing weight asked for.
    pub fn mixing_weight(&self) -> MixingWeight {
        self.mixing_weight
    }

    /// Returns the update order.
    pub fn order(&self) -> UpdateOrder {
        self.order
    }
}

impl Sampler for Edict {
    type State = CoupledPair;

    fn state_from_image(&self, image: &Latents, _: &Trajectory) -> Result<CoupledPair, StateError> {
        Ok(CoupledPair::equal_to(image))
    }

    fn state_from_noise(&self, noise: &Latents, _: &Trajectory) -> Result<CoupledPair, StateError> {
        Ok(CoupledPair::equal_to(noise))
    }

    fn image(&self, state: &CoupledPair, _: &Trajectory) -> Result<Latents, StateError> {
        Ok(state.x.clone())
    }

    fn check(&self, state: &CoupledPair, _: &Trajectory, _: usize) -> Result<(), StateError> {
        state.check()
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        CoupledPair { x, y }: &mut CoupledPair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let (a, b) = step.coefficients();
        let p = self.mixing_weight.resolve(trajectory);
        if b == 0.0 {
            scale(x, a);
            scale(y, a);
            return finite(mix(x, y, p), step);
        }
        let eps = |z: &Latents| predict(predictor, z, step, condition);
        if self.order.x_first(step) {
            finite(advance(x, &eps(y)?, a, b), step)?;
            let e = eps(x)?;
            finite(advance_y_and_mix(x, y, &e, (a, b), p), step)
        } else {
            finite(advance(y, &eps(x)?, a, b), step)?;
            let e = eps(y)?;
            finite(advance_x_and_mix(x, y, &e, (a, b), p), step)
        }
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        CoupledPair { x, y }: &mut CoupledPair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let (a, b) = step.coefficients();
        finite(unmix(x, y, self.mixing_weight.resolve(trajectory)), step)?;
        if b == 0.0 {
            finite(unscale(x, a), step)?;
            return finite(unscale(y, a), step);
        }
        let eps = |z: &Latents| predict(predictor, z, step, condition);
        let (first, second) = if self.order.x_first(step) { (x, y) } else { (y, x) };
        let e = eps(first)?;
        finite(retreat(second, &e, a, b), step)?;
        let e = eps(second)?;
        finite(retreat(first, &e, a, b), step)
    }
}
