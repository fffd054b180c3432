//! EDICT on the lattice.

use super::integer::{self, OutOfRange};
use super::pair::LatticePair;
use super::step::Grid;
use crate::sampler::predict_finite;
use crate::{
    ConfigError, CoupledPair, Edict, Latents, MixingWeight, NoisePredictor, Sampler, StateError, Step,
    StepError, Trajectory, UpdateOrder,
};

/// Latents of this many lattice units and more are refused: below it they come back from the lattice as they went in.
const ENTRY: f64 = (1u64 << 50) as f64;

/// EDICT in integers: inversion undoes generation to the last bit, and generation inversion.
///
/// The updates are those of [`Edict`], with every increment rounded to a lattice of unit `2^-k` (k = 40 unless asked otherwise;
/// 2^-40 is 1e-12). An update `u += g(v)` of integers, `v` left alone, is undone by `u -= g(v)` whatever `g` is: a network of any precision,
/// any number of steps, any mixing weight. What the mixing contracts is kept too, in integers worth less and less.
///
/// What this needs is that the predictor gives bitwise equal answers to bitwise equal questions: the same weights, device,
/// kernels and batch. One step differs from that of [`Edict`] by at most `8 * 2^-k`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatticeEdict {
    edict: Edict,
    grid: Grid,
}

impl Default for LatticeEdict {
    fn default() -> Self {
        Self { edict: Edict::default(), grid: Grid { unit_bits: 40, spill_bits: 8 } }
    }
}

impl LatticeEdict {
    /// Makes a sampler.
    ///
    /// # Errors
    /// [`ConfigError::MixingWeight`] if a fixed weight is not in `(0, 1]`, [`ConfigError::LatticeWeight`] if it is below
    /// `2^-16`.
    pub fn new(mixing_weight: MixingWeight, order: UpdateOrder) -> Result<Self, ConfigError> {
        let edict = Edict::new(mixing_weight, order)?;
        match mixing_weight {
            // Far below any use; keeps `q` away from underflow within a step.
            MixingWeight::Fixed(p) if p < 1.0 / 65536.0 => Err(ConfigError::LatticeWeight(p)),
            _ => Ok(Self { edict, ..Self::default() }),
        }
    }

    /// Sets the lattice's unit at the image, `2^-unit_bits`, and how many bits a carry plane takes.
    ///
    /// A finer unit leaves less room: latents must stay below `2^(50 - unit_bits)`.
    ///
    /// # Errors
    /// [`ConfigError::Lattice`] unless `unit_bits` is in `1..=48` and `spill_bits` in `1..=8`.
    pub fn with_grid(mut self, unit_bits: u32, spill_bits: u32) -> Result<Self, ConfigError> {
        if !(1..=48).contains(&unit_bits) || !(1..=8).contains(&spill_bits) {
            return Err(ConfigError::Lattice { unit_bits, spill_bits });
        }
        self.grid = Grid { unit_bits, spill_bits };
        Ok(self)
    }

    /// Returns `k`: the unit at the image is `2^-k`.
    pub fn unit_bits(&self) -> u32 {
        self.grid.unit_bits
    }

    /// Returns the number of bits of a carry plane.
    pub fn spill_bits(&self) -> u32 {
        self.grid.spill_bits
    }

    /// Puts a pair of latents that stands at a level of a run on the lattice, rounding each value once.
    ///
    /// # Errors
    /// [`StateError`] if the shapes differ, a value is not finite or too large, or the run has no such level.
    pub fn enter(
        &self,
        pair: &CoupledPair,
        trajectory: &Trajectory,
        level: usize,
    ) -> Result<LatticePair, StateError> {
        pair.check()?;
        let (units, q) = self.scales(trajectory, level)?;
        let register = |latent: &'static str, values: &Latents| {
            let mut out = ndarray::ArrayD::zeros(values.raw_dim());
            for (out, value) in out.iter_mut().zip(values) {
                let scaled = value * units;
                if scaled.abs() >= ENTRY {
                    return Err(StateError::TooLarge { latent, value: *value, limit: ENTRY / units });
                }
                *out = integer::round(scaled).map_err(|_| StateError::NonFinite { latent })?;
            }
            Ok(out)
        };
        let (x, v) = (register("x", &pair.x)?, register("y", &pair.y)?);
        let mut w = x - &v;
        for w in &mut w {
            let difference = integer::round(*w as f64 / q);
            *w = difference.map_err(|OutOfRange(value)| StateError::TooLarge {
                latent: "x - y",
                value: value / units,
                limit: ENTRY / units,
            })?;
        }
        Ok(LatticePair::new(v, w, Vec::new(), level))
    }

    /// Returns the latents of a state, each rounded once from the lattice to `f64`.
    ///
    /// # Errors
    /// [`StateError`] if the run has no such level or a value has left the lattice's range.
    pub fn leave(&self, state: &LatticePair, trajectory: &Trajectory) -> Result<CoupledPair, StateError> {
        let (units, q) = self.scales(trajectory, state.level())?;
        let x = state.x(1.0, q).map_err(|_| StateError::Registers)?;
        // Division, not a product with the reciprocal: it undoes the product of `enter` for lattice values.
        Ok(CoupledPair { x: x / units, y: state.y(1.0) / units })
    }

    /// Lattice units per unit of a latent at a level, and `q` there.
    fn scales(&self, trajectory: &Trajectory, level: usize) -> Result<(f64, f64), StateError> {
        let levels = trajectory.alpha_bars();
        let bar = levels.get(level).ok_or(StateError::Level { level, levels: levels.len() })?;
        let p = self.edict.mixing_weight().resolve(trajectory);
        Ok((self.grid.units(trajectory, *bar), self.grid.difference_unit(p, level).q))
    }
}

impl Sampler for LatticeEdict {
    type State = LatticePair;

    fn state_from_image(&self, image: &Latents, trajectory: &Trajectory) -> Result<LatticePair, StateError> {
        let pair = CoupledPair::equal_to(image);
        self.enter(&pair, trajectory, trajectory.run().len())
    }

    fn state_from_noise(&self, noise: &Latents, trajectory: &Trajectory) -> Result<LatticePair, StateError> {
        let pair = CoupledPair::equal_to(noise);
        self.enter(&pair, trajectory, 0)
    }

    fn image(&self, state: &LatticePair, trajectory: &Trajectory) -> Result<Latents, StateError> {
        Ok(self.leave(state, trajectory)?.x)
    }

    fn check(&self, state: &LatticePair, trajectory: &Trajectory, level: usize) -> Result<(), StateError> {
        if state.level() == level {
            return Ok(());
        }
        Err(StateError::Level { level: state.level(), levels: trajectory.run().len() + 1 })
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut LatticePair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let numbers = self.grid.pair_step(trajectory, step, self.edict.mixing_weight().resolve(trajectory));
        let range = |error| self.range_error(error, step);
        if step.coefficients().1 != 0.0 {
            let eps = |z: &Latents| predict_finite(predictor, z, step, condition);
            if self.edict.order().x_first(step) {
                let e = eps(&state.y(numbers.scale_from))?;
                state.move_x(&e, numbers.noise, false).map_err(range)?;
                let e = eps(&state.x(numbers.scale_to, numbers.q).map_err(range)?)?;
                state.move_y(&e, numbers.noise, false, numbers.q).map_err(range)?;
            } else {
                let e = eps(&state.x(numbers.scale_from, numbers.q).map_err(range)?)?;
                state.move_y(&e, numbers.noise, false, numbers.q).map_err(range)?;
                let e = eps(&state.y(numbers.scale_to))?;
                state.move_x(&e, numbers.noise, false).map_err(range)?;
            }
        }
        state.mix(numbers.mixing, false).map_err(range)?;
        for _ in 0..numbers.spills {
            state.spill(self.grid.spill_bits);
        }
        state.level = step.index() + 1;
        Ok(())
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut LatticePair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let numbers = self.grid.pair_step(trajectory, step, self.edict.mixing_weight().resolve(trajectory));
        let range = |error| self.range_error(error, step);
        for _ in 0..numbers.spills {
            state.unspill(self.grid.spill_bits).map_err(range)?;
        }
        state.mix(numbers.mixing, true).map_err(range)?;
        if step.coefficients().1 != 0.0 {
            // The updates of generation, last first; each reads its partner at the scale it had then.
            let eps = |z: &Latents| predict_finite(predictor, z, step, condition);
            if self.edict.order().x_first(step) {
                let e = eps(&state.x(numbers.scale_to, numbers.q).map_err(range)?)?;
                state.move_y(&e, numbers.noise, true, numbers.q).map_err(range)?;
                let e = eps(&state.y(numbers.scale_from))?;
                state.move_x(&e, numbers.noise, true).map_err(range)?;
            } else {
                let e = eps(&state.y(numbers.scale_to))?;
                state.move_x(&e, numbers.noise, true).map_err(range)?;
                let e = eps(&state.x(numbers.scale_from, numbers.q).map_err(range)?)?;
                state.move_y(&e, numbers.noise, true, numbers.q).map_err(range)?;
            }
        }
        state.level = step.index();
        Ok(())
    }
}

impl LatticeEdict {
    fn range_error<E: std::error::Error>(&self, OutOfRange(value): OutOfRange, step: &Step) -> StepError<E> {
        let value = value / self.grid.units_at_image();
        StepError::Range { step: step.index(), timestep: step.timestep(), value }
    }
}
