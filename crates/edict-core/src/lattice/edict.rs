//! EDICT on the lattice.

use ndarray::ArrayD;

use super::grid::{DifferenceUnit, Grid};
use super::integer::{self, OutOfRange};
use super::pass::{AddDifference, AddNoise, Operation, Read, ReadSum};
use super::registers::Registers;
use super::single::Exceptions;
use crate::sampler::predict;
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
/// kernels and batch ([`check_deterministic`](crate::check_deterministic)). One step differs from that of [`Edict`] by at most
/// `8 * 2^-k`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct LatticeEdict {
    edict: Edict,
    grid: Grid,
}

/// The state of [`LatticeEdict`]: the pair of latents as integers.
///
/// The first register is `y`, the second `x - y`. [`LatticeEdict::leave`] turns them into latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatticePair {
    registers: Registers,
    level: usize,
}

impl LatticePair {
    /// Makes the state that stands at `level` of its run, 0 being the noisy end.
    pub fn new(registers: Registers, level: usize) -> Self {
        Self { registers, level }
    }

    /// Returns the integers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Returns the level the state stands at: 0 at the noisy end of the run.
    pub fn level(&self) -> usize {
        self.level
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
            // Far below any use; keeps a difference unit away from underflow within a step.
            MixingWeight::Fixed(p) if p < 1.0 / 65536.0 => Err(ConfigError::LatticeWeight(p)),
            _ => Ok(Self { edict, ..Self::default() }),
        }
    }

    /// Lays the lattice otherwise than by default.
    #[must_use]
    pub fn with_grid(self, grid: Grid) -> Self {
        Self { grid, ..self }
    }

    /// Returns the lattice.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Returns the sampler whose steps these are, in floats.
    pub fn float(&self) -> Edict {
        self.edict
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
        let units = self.units(trajectory, level)?;
        let (x, v) = (register("x", &pair.x, units)?, register("y", &pair.y, units)?);
        let q = self.unit(self.weight(trajectory), level).worth;
        let mut w = x - &v;
        for w in &mut w {
            let difference = integer::round(*w as f64 / q);
            *w = difference.map_err(|OutOfRange(value)| StateError::TooLarge {
                latent: "x - y",
                value: value / units,
                limit: ENTRY / units,
            })?;
        }
        Ok(LatticePair::new(Registers::new(v, w, Vec::new(), self.grid), level))
    }

    /// Returns the latents of a state, each rounded once from the lattice to `f64`.
    ///
    /// # Errors
    /// [`StateError`] if the run has no such level or a value has left the lattice's range.
    pub fn leave(&self, state: &LatticePair, trajectory: &Trajectory) -> Result<CoupledPair, StateError> {
        let units = self.units(trajectory, state.level)?;
        let q = self.unit(self.weight(trajectory), state.level).worth;
        let x = state.registers.read(ReadSum { scale: 1.0, q }).map_err(|_| StateError::Registers)?;
        let y = state.registers.read(Read { scale: 1.0 }).map_err(|_| StateError::Registers)?;
        // Division, not a product with the reciprocal: it undoes the product of `enter` for lattice values.
        Ok(CoupledPair { x: x / units, y: y / units })
    }

    /// Makes the state of an image of single precision, which comes back from [`Self::image_f32`] bit for bit, values finer than
    /// the lattice included.
    ///
    /// # Errors
    /// As [`Sampler::state_from_image`].
    pub fn state_from_f32(&self, image: &ArrayD<f32>, run: &Trajectory) -> Result<LatticePair, StateError> {
        let mut state = self.state_from_image(&image.mapv(f64::from), run)?;
        state.registers.exceptions = Exceptions::of(image, self.grid);
        Ok(state)
    }

    /// Returns the image of a state in single precision; see [`Self::state_from_f32`].
    ///
    /// # Errors
    /// As [`Sampler::image`].
    pub fn image_f32(&self, state: &LatticePair, run: &Trajectory) -> Result<ArrayD<f32>, StateError> {
        Ok(state.registers.exceptions.restore(&self.image(state, run)?, self.grid))
    }

    fn weight(&self, trajectory: &Trajectory) -> f64 {
        self.edict.mixing_weight().resolve(trajectory)
    }

    fn units(&self, trajectory: &Trajectory, level: usize) -> Result<f64, StateError> {
        units_at(self.grid, trajectory, level)
    }

    /// Walks what a difference unit is worth from the noisy end of the run to a level, by repeated multiplication, so that every
    /// piece of a run finds the same bits: it falls by `p^2` a step, because the mixing contracts the difference while its register
    /// keeps it.
    fn unit(&self, p: f64, level: usize) -> DifferenceUnit {
        let start = DifferenceUnit { worth: 1.0, spills: 0 };
        (0..level).fold(start, |unit, _| self.grid.refine(unit.worth * p * p))
    }

    fn numbers(&self, trajectory: &Trajectory, step: &Step) -> Numbers {
        let p = self.weight(trajectory);
        let end = trajectory.end_alpha_bar();
        let (from, to) = (noise_to_signal(step.alpha_bar_from()), noise_to_signal(step.alpha_bar_to()));
        let q = self.unit(p, step.index()).worth;
        Numbers {
            scale_from: self.grid.scale(trajectory, step.alpha_bar_from()),
            scale_to: self.grid.scale(trajectory, step.alpha_bar_to()),
            noise: (to - from) * end.sqrt() * self.grid.units_at_image() / q,
            q,
            mixing: p * (1.0 - p) * q,
            spills: self.unit(p, step.index() + 1).spills,
        }
    }
}

/// `sqrt((1 - A) / A)`
pub(super) fn noise_to_signal(alpha_bar: f64) -> f64 {
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

/// Returns lattice units per unit of a latent at a level of a run.
pub(super) fn units_at(grid: Grid, run: &Trajectory, level: usize) -> Result<f64, StateError> {
    let levels = run.alpha_bars();
    let bar = levels.get(level).ok_or(StateError::Level { level, levels: levels.len() })?;
    Ok(grid.units(run, *bar))
}

/// Puts latents on the lattice, rounding each once.
pub(super) fn register(
    latent: &'static str,
    values: &Latents,
    units: f64,
) -> Result<ArrayD<i64>, StateError> {
    let mut out = ArrayD::zeros(values.raw_dim());
    for (out, value) in out.iter_mut().zip(values) {
        let scaled = value * units;
        if scaled.abs() >= ENTRY {
            return Err(StateError::TooLarge { latent, value: *value, limit: ENTRY / units });
        }
        *out = integer::round(scaled).map_err(|_| StateError::NonFinite { latent })?;
    }
    Ok(out)
}

/// Names the step at which a value has left the range or, where it is NaN, a prediction was not finite.
pub(super) fn range_error<E: std::error::Error>(
    OutOfRange(value): OutOfRange,
    grid: Grid,
    step: &Step,
) -> StepError<E> {
    let (step, timestep) = (step.index(), step.timestep());
    if value.is_nan() {
        return StepError::NonFinite { step, timestep };
    }
    StepError::Range { step, timestep, value: value / grid.units_at_image() }
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Numbers {
    /// Turns lattice values into latents of the noisier level, which the first update reads.
    scale_from: f64,
    /// The same for the cleaner level, which the second update reads.
    scale_to: f64,
    /// Difference units that a unit of noise moves a latent by.
    noise: f64,
    /// What a difference unit is worth at the noisier level.
    q: f64,
    /// What `y` gains of the difference register in the mixing: `p (1 - p) q`.
    mixing: f64,
    /// Carry planes filled after the step.
    spills: u32,
}

impl Numbers {
    /// Moves `x` by the predicted noise, of which `sign` is 1 towards the image, and leaves `y` where it is.
    fn move_x(&self, sign: f64) -> impl Operation + use<> {
        AddNoise { noise: sign * self.noise }
    }

    /// Moves `y` by the predicted noise and leaves `x` where it is: `v` stands for `x` in between.
    fn move_y(&self, sign: f64) -> impl Operation + use<> {
        let noise = AddNoise { noise: -sign * self.noise };
        ((AddDifference { q: self.q }, noise), AddDifference { q: -self.q })
    }

    /// Mixes: `y` gains its share of the difference, whose register stays and is worth less from now on.
    fn mix(&self, sign: f64) -> impl Operation + use<> {
        AddDifference { q: sign * self.mixing }
    }
}

impl Sampler for LatticeEdict {
    type State = LatticePair;

    fn state_from_image(&self, image: &Latents, trajectory: &Trajectory) -> Result<LatticePair, StateError> {
        self.enter(&CoupledPair::equal_to(image), trajectory, trajectory.run().len())
    }

    fn state_from_noise(&self, noise: &Latents, trajectory: &Trajectory) -> Result<LatticePair, StateError> {
        self.enter(&CoupledPair::equal_to(noise), trajectory, 0)
    }

    fn image(&self, state: &LatticePair, trajectory: &Trajectory) -> Result<Latents, StateError> {
        Ok(self.leave(state, trajectory)?.x)
    }

    fn check(&self, state: &LatticePair, trajectory: &Trajectory, level: usize) -> Result<(), StateError> {
        check(&state.registers, self.grid, (state.level, level), trajectory)
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        LatticePair { registers, level }: &mut LatticePair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let numbers = self.numbers(trajectory, step);
        let Numbers { scale_from, scale_to, q, spills, .. } = numbers;
        let range = |error| range_error(error, self.grid, step);
        let (move_x, move_y, mix) = (numbers.move_x(1.0), numbers.move_y(1.0), numbers.mix(1.0));
        let eps = |z: &Latents| predict(predictor, z, step, condition);
        if step.coefficients().1 == 0.0 {
            registers.apply(mix).map_err(range)?;
        } else if self.edict.order().x_first(step) {
            let e = eps(&registers.apply(Read { scale: scale_from }).map_err(range)?)?;
            let z = registers.update(e, (move_x, ReadSum { scale: scale_to, q })).map_err(range)?;
            registers.update(eps(&z)?, (move_y, mix)).map_err(range)?;
        } else {
            let e = eps(&registers.apply(ReadSum { scale: scale_from, q }).map_err(range)?)?;
            let z = registers.update(e, (move_y, Read { scale: scale_to })).map_err(range)?;
            registers.update(eps(&z)?, (move_x, mix)).map_err(range)?;
        }
        for _ in 0..spills {
            registers.spill();
        }
        *level = step.index() + 1;
        Ok(())
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        LatticePair { registers, level }: &mut LatticePair,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let numbers = self.numbers(trajectory, step);
        let Numbers { scale_from, scale_to, q, spills, .. } = numbers;
        let range = |error| range_error(error, self.grid, step);
        let (move_x, move_y, unmix) = (numbers.move_x(-1.0), numbers.move_y(-1.0), numbers.mix(-1.0));
        for _ in 0..spills {
            registers.unspill().map_err(range)?;
        }
        // The updates of generation, last first; each reads its partner at the scale it had then.
        let eps = |z: &Latents| predict(predictor, z, step, condition);
        if step.coefficients().1 == 0.0 {
            registers.apply(unmix).map_err(range)?;
        } else if self.edict.order().x_first(step) {
            let e = eps(&registers.apply((unmix, ReadSum { scale: scale_to, q })).map_err(range)?)?;
            let z = registers.update(e, (move_y, Read { scale: scale_from })).map_err(range)?;
            registers.update(eps(&z)?, move_x).map_err(range)?;
        } else {
            let e = eps(&registers.apply((unmix, Read { scale: scale_to })).map_err(range)?)?;
            let z = registers.update(e, (move_x, ReadSum { scale: scale_from, q })).map_err(range)?;
            registers.update(eps(&z)?, move_y).map_err(range)?;
        }
        *level = step.index();
        Ok(())
    }
}

/// Checks that a run from `level` can start from registers that stand at a level.
pub(super) fn check(
    registers: &Registers,
    grid: Grid,
    (stands, level): (usize, usize),
    run: &Trajectory,
) -> Result<(), StateError> {
    if stands != level {
        return Err(StateError::Level { level: stands, levels: run.run().len() + 1 });
    }
    if registers.grid() != grid {
        return Err(StateError::Grid { state: registers.grid(), sampler: grid });
    }
    Ok(())
}
