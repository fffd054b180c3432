//! There and back: what every configuration is judged by.

use std::fmt::Debug;

use edict_core::*;
use ndarray::ShapeError;

use crate::common::bits;
use crate::configuration::{Configuration, Model, Start};
use crate::float::{self, Reach};

/// A lattice sampler, as the soak needs it.
pub(crate) trait Exact: Sampler<State: PartialEq + Debug> {
    /// The state that a configuration begins from.
    fn begin(&self, configuration: &Configuration) -> Self::State;

    /// Whether a state has come back to where it began.
    fn returned(&self, back: &Self::State, start: &Self::State, run: &Trajectory) -> bool;

    /// How far the same run gets in floats, its latents rounded to the lattice's unit after each step if `coarse`.
    fn reach(&self, configuration: &Configuration, refusal: Refusal, coarse: bool) -> Reach;

    /// The integers of a state.
    fn registers(state: &Self::State) -> &Registers;

    /// The state with other integers.
    fn with(state: &Self::State, registers: Registers) -> Self::State;
}

impl Exact for LatticeEdict {
    fn begin(&self, configuration: &Configuration) -> LatticePair {
        let (run, x) = (&configuration.run, configuration.latents());
        match configuration.start {
            Start::Image => self.state_from_image(&x, run),
            Start::Noise => self.state_from_noise(&x, run),
            Start::Pair => self.enter(&CoupledPair { x, y: configuration.partner() }, run, 0),
        }
        .unwrap()
    }

    fn returned(&self, back: &LatticePair, start: &LatticePair, _: &Trajectory) -> bool {
        back == start
    }

    fn reach(&self, configuration: &Configuration, refusal: Refusal, coarse: bool) -> Reach {
        float::edict(self, configuration, refusal, coarse)
    }

    fn registers(state: &LatticePair) -> &Registers {
        state.registers()
    }

    fn with(state: &LatticePair, registers: Registers) -> LatticePair {
        LatticePair::new(registers, state.level())
    }
}

impl Exact for LatticeTwoStep {
    fn begin(&self, configuration: &Configuration) -> LatticeNeighbours {
        let (run, latents) = (&configuration.run, configuration.latents());
        match configuration.start {
            Start::Image => self.state_from_image(&latents, run),
            Start::Noise | Start::Pair => self.state_from_noise(&latents, run),
        }
        .unwrap()
    }

    /// An image and fresh noise have one latent: the neighbour they gain on the way stays with them.
    fn returned(&self, back: &LatticeNeighbours, start: &LatticeNeighbours, run: &Trajectory) -> bool {
        let latents = |state| bits(self.leave(state, run).unwrap().latents());
        latents(back) == latents(start)
    }

    fn reach(&self, configuration: &Configuration, refusal: Refusal, coarse: bool) -> Reach {
        float::two_step(self, configuration, refusal, coarse)
    }

    fn registers(state: &LatticeNeighbours) -> &Registers {
        state.registers()
    }

    fn with(state: &LatticeNeighbours, registers: Registers) -> LatticeNeighbours {
        LatticeNeighbours::new(registers, state.level(), state.step())
    }
}

/// How a round trip ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Completed,
    /// The way out was refused.
    Refused(Refusal),
    /// What must not be.
    Mismatch(&'static str),
}

/// Where a run was refused, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) step: usize,
    /// A register left its range; otherwise the network's answer was not finite.
    pub(crate) range: bool,
}

impl Refusal {
    /// Only these two are answers; any other error is a mistake of the library or of the test.
    pub(crate) fn of<S: Debug>(error: SampleError<ShapeError, S>) -> Self {
        match error {
            SampleError::Step(StepError::Range { step, .. }) => Self { step, range: true },
            SampleError::Step(StepError::NonFinite { step, .. }) => Self { step, range: false },
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Generating,
    Inverting,
}

/// Runs out and back, and a third time where the state that came back holds more than the one that began.
pub(crate) fn round_trip<S: Exact>(sampler: &S, configuration: &Configuration, model: &Model) -> Outcome {
    let Configuration { run, pieces, condition, .. } = configuration;
    let start = &sampler.begin(configuration);
    let walk = |from: &S::State, way: Way, pieces: &[Trajectory]| -> Result<S::State, Refusal> {
        let mut state = from.clone();
        for i in 0..pieces.len() {
            state = match way {
                Way::Generating => sampler.generate(&state, &pieces[i], model, condition, &mut ()),
                Way::Inverting => {
                    sampler.invert(&state, &pieces[pieces.len() - 1 - i], model, condition, &mut ())
                }
            }
            .map_err(Refusal::of)?;
        }
        Ok(state)
    };
    let (out, home) = match configuration.start {
        Start::Image => (Way::Inverting, Way::Generating),
        Start::Noise | Start::Pair => (Way::Generating, Way::Inverting),
    };
    let whole = std::slice::from_ref(run);
    let end = match walk(start, out, whole) {
        Ok(end) => end,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    if pieces.len() > 1 && walk(start, out, pieces).as_ref() != Ok(&end) {
        return Outcome::Mismatch("pieces do not compose");
    }
    if out == Way::Inverting && !S::registers(&end).carry().is_empty() {
        return Outcome::Mismatch("inverting an image has left a carry");
    }
    // The way home passes the same numbers, so it cannot be refused.
    let Ok(back) = walk(&end, home, pieces) else { return Outcome::Mismatch("the way back is refused") };
    if !sampler.returned(&back, start, run) {
        return Outcome::Mismatch("the start has not come back");
    }
    if back != *start && walk(&back, out, whole).as_ref() != Ok(&end) {
        return Outcome::Mismatch("the end has not come back");
    }
    Outcome::Completed
}
