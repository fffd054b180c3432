//! Runs that are wrong on purpose: the check that passes all the others must say so.

use std::cell::Cell;

use edict_core::*;
use ndarray::ArrayViewD;

use crate::configuration::{Configuration, Model, Schedules, Start, Visit};
use crate::float::Reach;
use crate::trip::{Exact, Outcome, Refusal, round_trip};

/// A network that drifts by one part in 1e9 a call.
struct Drifting {
    network: Model,
    drift: Cell<f64>,
}

impl NoisePredictor for Drifting {
    type Condition = Guidance<f64>;
    type Error = ndarray::ShapeError;

    fn predict(
        &self,
        z: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &Guidance<f64>,
    ) -> Result<Latents, Self::Error> {
        self.drift.set(self.drift.get() * (1.0 + 1e-9));
        Ok(self.network.predict(z, t, condition)? * self.drift.get())
    }
}

/// A sampler that flips the last bit of one register before one step of generation.
struct Flipping<S> {
    sampler: S,
    step: usize,
}

impl<S: Exact> Sampler for Flipping<S> {
    type State = S::State;

    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<S::State, StateError> {
        self.sampler.state_from_image(image, run)
    }

    fn state_from_noise(&self, noise: &Latents, run: &Trajectory) -> Result<S::State, StateError> {
        self.sampler.state_from_noise(noise, run)
    }

    fn image(&self, state: &S::State, run: &Trajectory) -> Result<Latents, StateError> {
        self.sampler.image(state, run)
    }

    fn check(&self, state: &S::State, run: &Trajectory, level: usize) -> Result<(), StateError> {
        self.sampler.check(state, run, level)
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut S::State,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        if step.index() == self.step {
            let registers = S::registers(state);
            let mut values = registers.values().map(Clone::clone);
            values[step.index() % 2].iter_mut().take(1).for_each(|value| *value ^= 1);
            let flipped = Registers::from_parts(values, registers.carry().to_vec(), registers.grid());
            *state = S::with(state, flipped.unwrap());
        }
        self.sampler.generate_step(state, run, step, predictor, condition)
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut S::State,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        self.sampler.invert_step(state, run, step, predictor, condition)
    }
}

impl<S: Exact> Exact for Flipping<S> {
    fn begin(&self, configuration: &Configuration) -> S::State {
        self.sampler.begin(configuration)
    }

    fn returned(&self, back: &S::State, start: &S::State, run: &Trajectory) -> bool {
        self.sampler.returned(back, start, run)
    }

    fn reach(&self, configuration: &Configuration, refusal: Refusal, coarse: bool) -> Reach {
        self.sampler.reach(configuration, refusal, coarse)
    }

    fn registers(state: &S::State) -> &Registers {
        S::registers(state)
    }

    fn with(state: &S::State, registers: Registers) -> S::State {
        S::with(state, registers)
    }
}

/// Runs a configuration with something broken.
struct Break<'a>(&'a Configuration, Broken);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    Nothing,
    Network,
    State,
}

impl Visit for Break<'_> {
    type Output = Outcome;

    fn with<S: Exact>(self, sampler: S) -> Outcome {
        let Self(configuration, broken) = self;
        let model = configuration.model();
        match broken {
            Broken::Nothing => round_trip(&sampler, configuration, &model),
            Broken::Network => {
                let model: Model = Box::new(Drifting { network: model, drift: Cell::new(1.0) });
                round_trip(&sampler, configuration, &model)
            }
            Broken::State => {
                let step = configuration.run.len() / 2;
                round_trip(&Flipping { sampler, step }, configuration, &model)
            }
        }
    }
}

/// Configurations that complete, and have more than two steps that change anything.
fn sound() -> impl Iterator<Item = Configuration> {
    let schedules = Schedules::new();
    let configurations = (0..400).map(move |seed| Configuration::draw(seed, &schedules));
    configurations.filter(|configuration| {
        let steps = configuration.run.steps().iter();
        let moving = steps.filter(|step| step.alpha_bar_from() < step.alpha_bar_to()).count();
        moving > 2 && configuration.visit(Break(configuration, Broken::Nothing)) == Outcome::Completed
    })
}

#[test]
fn a_drifting_network_and_a_flipped_bit_are_mismatches() {
    let (mut flipped, mut drifted) = (0, 0);
    for configuration in sound() {
        let found = configuration.visit(Break(&configuration, Broken::State));
        assert!(matches!(found, Outcome::Mismatch(_)), "{found:?}, {configuration:?}");
        flipped += 1;
        // On a coarser lattice a drift of 1e-9 a call may be rounded away.
        if configuration.grid.unit_bits() >= 36 {
            let found = configuration.visit(Break(&configuration, Broken::Network));
            assert!(matches!(found, Outcome::Mismatch(_)), "{found:?}, {configuration:?}");
            drifted += 1;
        }
    }
    assert!(flipped > 200 && drifted > 50, "{flipped} {drifted}");
}

/// Whether a completed run comes to the edge in floats.
struct Far<'a>(&'a Configuration);

impl Visit for Far<'_> {
    type Output = bool;

    fn with<S: Exact>(self, sampler: S) -> bool {
        let Self(configuration) = self;
        // As if the last step made had been refused.
        let last = if configuration.start == Start::Image { 0 } else { configuration.run.len() - 1 };
        let refusal = Refusal { step: last, range: true };
        sampler.reach(configuration, refusal, false).is_at_the_edge(refusal, configuration.rounding, 1.0)
    }
}

#[test]
fn floats_do_not_confirm_a_refusal_without_reason() {
    let mut checked = 0;
    for configuration in sound() {
        assert!(!configuration.visit(Far(&configuration)), "{configuration:?}");
        checked += 1;
    }
    assert!(checked > 200, "{checked}");
}
