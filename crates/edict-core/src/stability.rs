//! What a run will lose to rounding, before it is made.

use crate::two_step::{TwoStep, is_wide};
use crate::{Edict, MixingWeight, Step, Trajectory};

/// How a sampler treats rounding errors on a run.
///
/// In floats, what one direction contracts loses its low bits, and the other direction blows up what is left. Exact samplers keep
/// these bits; for them only the range matters, which is found while running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    lost_bits: f64,
    steps: usize,
}

impl Stability {
    /// Bits of an `f64` that a run may lose: of 53, ten are left for the latents themselves.
    pub const F64_BITS: f64 = 43.0;

    /// Bits of an `f32` that a run may lose.
    pub const F32_BITS: f64 = 20.0;

    /// The law of EDICT: `2 n log2(1/p)` bits of the pair's difference in `n` steps.
    pub fn edict(edict: &Edict, run: &Trajectory) -> Self {
        let (steps, p) = (run.len(), edict.mixing_weight().resolve(run));
        Self { lost_bits: 2.0 * steps as f64 * p.recip().log2(), steps }
    }

    /// The law of the two-step samplers: inversion multiplies the older latent by `1/rho alpha_{j-1}/alpha_{j+1}` at each step: by
    /// `1/gamma` for BDIA.
    pub fn two_step(two_step: &TwoStep, run: &Trajectory) -> Self {
        let wide: Vec<&Step> = run.run().iter().filter(|step| is_wide(step)).collect();
        let shares = wide.windows(2).map(|pair| two_step.coefficients(pair[0], pair[1])[0]);
        // Not less than 0: what shrinks on the way loses nothing.
        Self { lost_bits: shares.map(|share| share.recip().log2()).sum::<f64>().max(0.0), steps: run.len() }
    }

    /// Returns how many bits rounding errors lose: the base-2 logarithm of their growth from noise to image and back.
    pub fn lost_bits(&self) -> f64 {
        self.lost_bits
    }

    /// Returns the error to expect of noise -> image -> noise in floats of unit round-off `u`, as a share of the largest latent.
    ///
    /// `n u 2^lost_bits`: measured errors of EDICT are 0.006 to 0.08 of it on smooth predictors. Image -> noise -> image is better: it ends with
    /// the direction that contracts.
    pub fn expected_error(&self, unit_roundoff: f64) -> f64 {
        self.steps as f64 * unit_roundoff * self.lost_bits.exp2()
    }

    /// Returns the smallest mixing weight with which EDICT loses at most `bits` bits on a run.
    pub fn holding_weight(run: &Trajectory, bits: f64) -> f64 {
        if run.is_empty() { 1.0 } else { (-bits / (2.0 * run.len() as f64)).exp2() }
    }

    /// Returns a mixing weight that keeps EDICT on its lattice in a run whose inversion left it at step `step` with a value of
    /// size `value` ([`StepError::Range`](crate::StepError::Range)): above `edict`'s, rounded up to four digits.
    ///
    /// Inversion blows a difference up by `p^-2` a step. What `value` was before that, blown up by the weight returned over the whole run,
    /// stays sixteen times below 2^14, from which on latents can leave the lattice.
    /// It is at least [`MixingWeight::Auto`](crate::MixingWeight::Auto), and at most 1.
    pub fn weight_that_holds(edict: &Edict, run: &Trajectory, step: usize, value: f64) -> f64 {
        const SIZE: f64 = 1024.0;
        let (steps, p) = (run.run().len().max(1) as f64, edict.mixing_weight().resolve(run));
        let undone = steps - step as f64;
        let source = value.abs().log2() + 2.0 * undone * p.log2();
        let weight = ((source - SIZE.log2()) / (2.0 * steps)).exp2();
        // A value that is not finite says nothing, and `max` then takes the automatic weight.
        let rounded = (weight.max(MixingWeight::Auto.resolve(run)) * 1e4).ceil() / 1e4;
        rounded.min(1.0)
    }
}
