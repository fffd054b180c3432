//! The numbers of a step on the lattice.

use crate::{Step, Trajectory};

/// How the lattice is laid: its unit, and how the difference register gives bits away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// The unit at the image is `2^-unit_bits`.
    pub(super) unit_bits: u32,
    /// Bits of a carry plane.
    pub(super) spill_bits: u32,
}

/// What one unit of the difference register is worth at a level, in lattice units, and how it got there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DifferenceUnit {
    /// `q`: falls by `p^2` a step, because the mixing contracts the difference while its register keeps it.
    pub(super) q: f64,
    /// How many times `q` was raised by `2^spill_bits` after the step before this level, low bits going to the carry.
    pub(super) spills: u32,
}

/// The numbers of one step of coupled transformations on the lattice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PairStep {
    /// Turns lattice values into latents of the noisier level, which the first update reads.
    pub(super) scale_from: f64,
    /// The same for the cleaner level, which the second update reads.
    pub(super) scale_to: f64,
    /// Difference units that a unit of noise moves a latent by.
    pub(super) noise: f64,
    /// `q` of the noisier level.
    pub(super) q: f64,
    /// What `y` gains of the difference register in the mixing: `p (1 - p) q`.
    pub(super) mixing: f64,
    /// Carry planes filled after the step.
    pub(super) spills: u32,
}

impl Grid {
    /// Returns lattice units per unit of a latent at the image, exactly: `2^unit_bits`.
    pub(super) fn units_at_image(self) -> f64 {
        2f64.powi(self.unit_bits as i32)
    }

    /// Returns lattice units per unit of a latent at a level of the noise level `alpha_bar`.
    pub(super) fn units(self, run: &Trajectory, alpha_bar: f64) -> f64 {
        self.units_at_image() * (run.end_alpha_bar() / alpha_bar).sqrt()
    }

    /// Walks `q` from the noisy end of the run to a level, by repeated multiplication, so that every piece of a run finds the
    /// same bits.
    pub(super) fn difference_unit(self, p: f64, level: usize) -> DifferenceUnit {
        let spill = f64::from(1u32 << self.spill_bits);
        let mut unit = DifferenceUnit { q: 1.0, spills: 0 };
        for _ in 0..level {
            unit = DifferenceUnit { q: unit.q * p * p, spills: 0 };
            while unit.q < 1.0 / spill {
                unit.q *= spill;
                unit.spills += 1;
            }
        }
        unit
    }

    /// Returns the numbers of a step.
    pub(super) fn pair_step(self, run: &Trajectory, step: &Step, p: f64) -> PairStep {
        let (from, to, end) = (step.alpha_bar_from(), step.alpha_bar_to(), run.end_alpha_bar());
        let ratio = |bar: f64| ((1.0 - bar) / bar).sqrt();
        let q = self.difference_unit(p, step.index()).q;
        let noise = (ratio(to) - ratio(from)) * end.sqrt() * self.units_at_image();
        let unit = 1.0 / self.units_at_image();
        PairStep {
            scale_from: unit * (from / end).sqrt(),
            scale_to: unit * (to / end).sqrt(),
            noise: noise / q,
            q,
            mixing: p * (1.0 - p) * q,
            spills: self.difference_unit(p, step.index() + 1).spills,
        }
    }
}
