//! How the lattice is laid.

use crate::{ConfigError, Trajectory};

/// The lattice: its unit, and how the difference register gives bits away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    unit_bits: u32,
    spill_bits: u32,
}

impl Default for Grid {
    /// A unit of 2^-40, about 1e-12, and carry planes of 8 bits.
    fn default() -> Self {
        Self { unit_bits: 40, spill_bits: 8 }
    }
}

impl Grid {
    /// Lays a lattice whose unit at the image is `2^-unit_bits`, with carry planes of `spill_bits` bits.
    ///
    /// A finer unit leaves less room: latents must stay below `2^(50 - unit_bits)`.
    ///
    /// # Errors
    /// [`ConfigError::Lattice`] unless `unit_bits` is in `1..=48` and `spill_bits` in `1..=8`.
    pub fn new(unit_bits: u32, spill_bits: u32) -> Result<Self, ConfigError> {
        if !(1..=48).contains(&unit_bits) || !(1..=8).contains(&spill_bits) {
            return Err(ConfigError::Lattice { unit_bits, spill_bits });
        }
        Ok(Self { unit_bits, spill_bits })
    }

    /// Returns `k`: the unit at the image is `2^-k`.
    pub fn unit_bits(self) -> u32 {
        self.unit_bits
    }

    /// Returns the number of bits of a carry plane.
    pub fn spill_bits(self) -> u32 {
        self.spill_bits
    }

    /// Returns lattice units per unit of a latent at the image, exactly: `2^unit_bits`.
    pub(super) fn units_at_image(self) -> f64 {
        2f64.powi(self.unit_bits as i32)
    }

    /// Returns lattice units per unit of a latent at a level of the noise level `alpha_bar`.
    pub(super) fn units(self, run: &Trajectory, alpha_bar: f64) -> f64 {
        self.units_at_image() * (run.end_alpha_bar() / alpha_bar).sqrt()
    }

    /// Returns what turns lattice values into latents of a level.
    pub(super) fn scale(self, run: &Trajectory, alpha_bar: f64) -> f64 {
        1.0 / self.units_at_image() * (alpha_bar / run.end_alpha_bar()).sqrt()
    }

    /// Returns what a unit of the difference register is worth after a step that has shrunk it to `worth` lattice units.
    pub(super) fn refine(self, worth: f64) -> DifferenceUnit {
        let spill = f64::from(1u32 << self.spill_bits);
        let mut unit = DifferenceUnit { worth, spills: 0 };
        // A unit of worth 0, to which only a run with absurd levels leads, would never get there: the step then leaves the range.
        while unit.worth < 1.0 / spill && unit.worth > 0.0 {
            unit.worth *= spill;
            unit.spills += 1;
        }
        unit
    }
}

/// What one unit of the difference register is worth, and how it got there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DifferenceUnit {
    /// In lattice units.
    pub(super) worth: f64,
    /// How many times it was raised by `2^spill_bits` last, low bits going to the carry.
    pub(super) spills: u32,
}
