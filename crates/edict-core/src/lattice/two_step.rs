//! The two-step samplers on the lattice.

use ndarray::ArrayD;

use super::edict::{check, range_error, register, units_at};
use super::grid::{DifferenceUnit, Grid};
use super::integer::Integers;
use super::pass::{AddDifference, Changes, Element, Operation, Read, ReadSum};
use super::registers::Registers;
use super::single::Exceptions;
use crate::sampler::predict;
use crate::two_step::{Move, check_place, generating, inverting, is_wide, width};
use crate::{
    ConfigError, Latents, Neighbours, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory,
    TwoStep, TwoStepRule,
};

/// O-BELM and BDIA in integers: exact to the last bit, at one network call a step.
///
/// As [`LatticeEdict`](crate::LatticeEdict) for EDICT: the updates of [`TwoStep`] with every increment rounded to a lattice of unit
/// `2^-k`, so that each can be taken back whatever the network says. It needs a predictor that gives bitwise equal answers to
/// bitwise equal questions.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct LatticeTwoStep {
    two_step: TwoStep,
    grid: Grid,
}

/// The state of [`LatticeTwoStep`]: two neighbouring latents as integers.
///
/// The first register is the cleaner of the two, the second their difference. [`LatticeTwoStep::leave`] turns them into latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatticeNeighbours {
    registers: Registers,
    level: usize,
    step: Option<usize>,
}

impl LatticeNeighbours {
    /// Makes the state that stands at `level` of its run, 0 being the noisy end; `step` is the index of the step between its two
    /// latents, or `None` where there is one latent only.
    pub fn new(registers: Registers, level: usize, step: Option<usize>) -> Self {
        Self { registers, level, step }
    }

    /// Returns the integers.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Returns the level the state stands at: 0 at the noisy end of the run.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Returns the index of the step between the two latents.
    pub fn step(&self) -> Option<usize> {
        self.step
    }
}

impl LatticeTwoStep {
    /// Makes the sampler whose steps in floats are those of `two_step`.
    ///
    /// # Errors
    /// [`ConfigError::LatticeGamma`] if `gamma` is below `2^-16`.
    pub fn new(two_step: TwoStep) -> Result<Self, ConfigError> {
        match two_step.rule() {
            // Far below any use; keeps a difference unit away from underflow, and carry planes to two a step.
            TwoStepRule::Bdia { gamma } if gamma < 1.0 / 65536.0 => Err(ConfigError::LatticeGamma(gamma)),
            _ => Ok(Self { two_step, grid: Grid::default() }),
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
    pub fn float(&self) -> TwoStep {
        self.two_step
    }

    /// Returns the latents of a state, each rounded once from the lattice to `f64`.
    ///
    /// # Errors
    /// [`StateError`] if the run has no such level or a value has left the lattice's range.
    pub fn leave(&self, state: &LatticeNeighbours, run: &Trajectory) -> Result<Neighbours, StateError> {
        let LatticeNeighbours { registers, level, step } = state;
        check_place(run, *level, *step, *level)?;
        let v = registers.read(Read { scale: 1.0 }).map_err(|_| StateError::Registers)?;
        let Some(step) = *step else {
            return Ok(Neighbours::alone(v / units_at(self.grid, run, *level)?, *level));
        };
        let worth = self.unit(run, &run.run()[step]).worth;
        let cleaner = v / units_at(self.grid, run, step + 1)?;
        let noisier = registers.read(ReadSum { scale: 1.0, q: -worth }).map_err(|_| StateError::Registers)?;
        let noisier = noisier / units_at(self.grid, run, step)?;
        let (latents, neighbour) = if *level <= step { (noisier, cleaner) } else { (cleaner, noisier) };
        Neighbours::new(latents, *level, neighbour, step)
    }

    /// Makes the state of an image of single precision, which comes back from [`Self::image_f32`] bit for bit, values finer than
    /// the lattice included.
    ///
    /// # Errors
    /// As [`Sampler::state_from_image`].
    pub fn state_from_f32(
        &self,
        image: &ArrayD<f32>,
        run: &Trajectory,
    ) -> Result<LatticeNeighbours, StateError> {
        let mut state = self.state_from_image(&image.mapv(f64::from), run)?;
        state.registers.exceptions = Exceptions::of(image, self.grid);
        Ok(state)
    }

    /// Returns the image of a state in single precision; see [`Self::state_from_f32`].
    ///
    /// # Errors
    /// As [`Sampler::image`].
    pub fn image_f32(&self, state: &LatticeNeighbours, run: &Trajectory) -> Result<ArrayD<f32>, StateError> {
        Ok(state.registers.exceptions.restore(&self.image(state, run)?, self.grid))
    }

    fn alone(
        &self,
        latents: &Latents,
        run: &Trajectory,
        level: usize,
    ) -> Result<LatticeNeighbours, StateError> {
        let v = register("z", latents, units_at(self.grid, run, level)?)?;
        let w = ArrayD::zeros(v.raw_dim());
        Ok(LatticeNeighbours::new(Registers::new(v, w, Vec::new(), self.grid), level, None))
    }

    /// Walks what a difference unit is worth from the noisy end of the run to the transition of a step: it follows the factor
    /// that the last difference takes over each step, so that its register keeps every bit.
    fn unit(&self, run: &Trajectory, step: &Step) -> DifferenceUnit {
        let mut unit = DifferenceUnit { worth: 1.0, spills: 0 };
        let mut previous: Option<&Step> = None;
        for next in run.run().iter().take(step.index() + 1).filter(|step| is_wide(step)) {
            if let Some(previous) = previous {
                unit = self.grid.refine(self.two_step.transition(previous, next).rho * unit.worth);
            }
            previous = Some(next);
        }
        unit
    }

    /// Lattice units that a unit of noise moves `u` by, per unit of `width`.
    fn noise_units(&self, run: &Trajectory, width: f64) -> f64 {
        width * run.end_alpha_bar().sqrt() * self.grid.units_at_image()
    }
}

/// The difference becomes that of the first transition, `-h eps`: `w = -noise z`.
struct Begin {
    noise: f64,
}

impl Operation for Begin {
    const CHANGES: Changes = Changes::W;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        Element { w: -integers.round(element.z * self.noise), ..element }
    }
}

/// The difference becomes that of the next transition, or that of the one before: `w = -(w + noise z)` either way.
struct Turn {
    noise: f64,
}

impl Operation for Turn {
    const CHANGES: Changes = Changes::W;

    #[inline(always)]
    fn of<I: Integers>(&self, integers: &mut I, element: Element) -> Element {
        let by = integers.round(element.z * self.noise);
        Element { w: -integers.add(element.w, by), ..element }
    }
}

impl Sampler for LatticeTwoStep {
    type State = LatticeNeighbours;

    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<LatticeNeighbours, StateError> {
        self.alone(image, run, run.run().len())
    }

    fn state_from_noise(&self, noise: &Latents, run: &Trajectory) -> Result<LatticeNeighbours, StateError> {
        self.alone(noise, run, 0)
    }

    fn image(&self, state: &LatticeNeighbours, run: &Trajectory) -> Result<Latents, StateError> {
        Ok(self.leave(state, run)?.latents().clone())
    }

    fn check(&self, state: &LatticeNeighbours, run: &Trajectory, level: usize) -> Result<(), StateError> {
        check_place(run, state.level, state.step, level)?;
        check(&state.registers, self.grid, (state.level, level), run)
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        LatticeNeighbours { registers, level, step: held }: &mut LatticeNeighbours,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let range = |error| range_error(error, self.grid, step);
        let scale = self.grid.scale(run, step.alpha_bar_from());
        match generating(run, *held, step) {
            Move::Stay | Move::Cross => {}
            Move::Begin => {
                let worth = self.unit(run, step).worth;
                let noise = self.noise_units(run, width(step)) / worth;
                let z = registers.apply(Read { scale }).map_err(range)?;
                let e = predict(predictor, &z, step, condition)?;
                registers.update(e, (Begin { noise }, AddDifference { q: worth })).map_err(range)?;
                *held = Some(step.index());
            }
            Move::Update([previous, step]) => {
                let DifferenceUnit { worth, spills } = self.unit(run, step);
                let numbers = self.two_step.transition(previous, step);
                let noise = self.noise_units(run, numbers.noise) / worth;
                let z = registers.apply(Read { scale }).map_err(range)?;
                let e = predict(predictor, &z, step, condition)?;
                for _ in 0..spills {
                    registers.spill();
                }
                registers.update(e, (Turn { noise }, AddDifference { q: worth })).map_err(range)?;
                *held = Some(step.index());
            }
        }
        *level = step.index() + 1;
        Ok(())
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        LatticeNeighbours { registers, level, step: held }: &mut LatticeNeighbours,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let range = |error| range_error(error, self.grid, step);
        match inverting(run, *held, step) {
            Move::Stay | Move::Cross => {}
            Move::Begin => {
                let worth = self.unit(run, step).worth;
                let noise = self.noise_units(run, width(step)) / worth;
                let scale = self.grid.scale(run, step.alpha_bar_to());
                let z = registers.apply(Read { scale }).map_err(range)?;
                let e = predict(predictor, &z, step, condition)?;
                registers.update(e, Begin { noise }).map_err(range)?;
                *held = Some(step.index());
            }
            Move::Update([previous, later]) => {
                let DifferenceUnit { worth, spills } = self.unit(run, later);
                let numbers = self.two_step.transition(previous, later);
                let noise = self.noise_units(run, numbers.noise) / worth;
                let scale = self.grid.scale(run, later.alpha_bar_from());
                let z = registers.apply((AddDifference { q: -worth }, Read { scale })).map_err(range)?;
                let e = predict(predictor, &z, later, condition)?;
                registers.update(e, Turn { noise }).map_err(range)?;
                for _ in 0..spills {
                    registers.unspill().map_err(range)?;
                }
                *held = Some(previous.index());
            }
        }
        *level = step.index();
        Ok(())
    }
}
