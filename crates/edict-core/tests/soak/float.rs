//! The same run in floats, which must want to leave the lattice too where the lattice refused.

use edict_core::*;
use edict_testkit::Rounding;

use crate::common::largest;
use crate::configuration::{Configuration, Start};
use crate::trip::{Exact, Refusal};

/// A register's range: `2^62`.
const RANGE: f64 = (1u64 << 62) as f64;

/// The largest input that a network of half precision takes as a number.
const HALF: f64 = 65519.0;

/// How far a run in floats got, as shares of what a lattice and a network can hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    /// The largest register that its latents would need, as a share of the range.
    pub(crate) register: f64,
    /// The largest latent, as a share of the range of half precision.
    half: f64,
    /// It ended with values that are not finite.
    pub(crate) overflowed: bool,
}

impl Reach {
    /// Whether this run comes, within a factor, to the edge at which a lattice was refused.
    ///
    /// The states seen end with that after the refused step, so a register that left its range within the step is seen but for what the
    /// network adds after it, less than 2^57 units.
    pub(crate) fn is_at_the_edge(&self, refusal: Refusal, rounding: Option<Rounding>, factor: f64) -> bool {
        let edge = |share: f64| share * factor >= 1.0;
        let half = rounding == Some(Rounding::F16) && edge(self.half);
        self.overflowed || if refusal.range { edge(self.register) } else { half }
    }
}

/// What is seen of a state at a level.
type Look<'a, S> = Box<dyn Fn(&S, usize) -> [f64; 2] + 'a>;

/// A run in floats, and how its states look on a lattice.
struct Run<'a, S: Sampler> {
    sampler: S,
    configuration: &'a Configuration,
    /// The largest register that a state at a level needs, and its largest latent.
    registers: Look<'a, S::State>,
    /// Rounds the latents of a state at a level to the lattice's unit.
    round: Box<dyn Fn(S::State, usize) -> S::State + 'a>,
}

impl<S: Sampler> Run<'_, S> {
    /// Runs from a start to the refused step.
    fn reach(&self, start: S::State, refusal: Refusal, coarse: bool) -> Reach {
        let Self { sampler, configuration, .. } = self;
        let Configuration { run, condition, .. } = configuration;
        let (model, inverting) = (configuration.model(), configuration.start == Start::Image);
        let (mut state, mut reach) = (start, Reach::default());
        let steps: Vec<&Step> =
            if inverting { run.steps().iter().rev().collect() } else { run.steps().iter().collect() };
        for step in steps {
            let made = if inverting {
                sampler.invert_step(&mut state, run, step, &model, condition)
            } else {
                sampler.generate_step(&mut state, run, step, &model, condition)
            };
            match made {
                Ok(()) => {}
                Err(StepError::NonFinite { .. }) => return Reach { overflowed: true, ..reach },
                Err(other) => panic!("{other}"),
            }
            let level = if inverting { step.index() } else { step.index() + 1 };
            if coarse {
                state = (self.round)(state, level);
            }
            let [register, latent] = (self.registers)(&state, level);
            reach.register = reach.register.max(register / RANGE);
            reach.half = reach.half.max(latent / HALF);
            if step.index() == refusal.step {
                break;
            }
        }
        reach
    }
}

/// Lattice units per unit of a latent at a level: `2^k sqrt(A_end / A)`.
fn units(configuration: &Configuration, level: usize) -> f64 {
    let run = &configuration.run;
    f64::from(configuration.grid.unit_bits()).exp2() * (run.end_alpha_bar() / run.alpha_bars()[level]).sqrt()
}

/// Raises the worth of a difference unit by whole carry planes until it is at least one plane's last bit.
fn raise(mut worth: f64, grid: Grid) -> f64 {
    let plane = f64::from(grid.spill_bits()).exp2();
    while worth < 1.0 / plane {
        worth *= plane;
    }
    worth
}

/// EDICT's registers are `y` and `(x - y) / q`, `q = p^(2 level)` raised by carry planes; `x` is their sum, rounded to a register too.
pub(crate) fn edict(
    sampler: &LatticeEdict,
    configuration: &Configuration,
    refusal: Refusal,
    coarse: bool,
) -> Reach {
    let run = &configuration.run;
    let p = sampler.float().mixing_weight().resolve(run);
    let mut worths = vec![1.0];
    for level in 0..run.len() {
        worths.push(raise(worths[level] * p * p, configuration.grid));
    }
    let lattice_units = |level| units(configuration, level);
    Run {
        sampler: sampler.float(),
        configuration,
        registers: Box::new(move |pair: &CoupledPair, level| {
            let latent = largest(&pair.x).max(largest(&pair.y));
            let register = latent.max(largest(&(&pair.x - &pair.y)) / worths[level]);
            [register * lattice_units(level), latent]
        }),
        round: Box::new(move |CoupledPair { x, y }, level| {
            let [x, y] = [x, y].map(|z| rounded(z, lattice_units(level)));
            CoupledPair { x, y }
        }),
    }
    .reach(sampler.leave(&sampler.begin(configuration), run).unwrap(), refusal, coarse)
}

/// The registers of the two-step samplers are a latent and the difference `u_{j+1} - u_j` of `u = z / alpha`, divided by the product
/// of the factors `rho` that it has taken, raised by carry planes.
pub(crate) fn two_step(
    sampler: &LatticeTwoStep,
    configuration: &Configuration,
    refusal: Refusal,
    coarse: bool,
) -> Reach {
    let run = &configuration.run;
    let bars = run.alpha_bars();
    let ratio = |level: usize| ((1.0 - bars[level]) / bars[level]).sqrt();
    let width = |step: usize| ratio(step) - ratio(step + 1);
    let mut worths = vec![1.0; run.len()];
    let mut last = None;
    for step in (0..run.len()).filter(|step| width(*step) > 0.0) {
        if let Some(last) = last {
            let rho = match sampler.float().rule() {
                TwoStepRule::Belm => (width(step) / width(last)).powi(2),
                TwoStepRule::Bdia { gamma } => gamma * (bars[last] / bars[step + 1]).sqrt(),
            };
            worths[step] = raise(rho * worths[last], configuration.grid);
        }
        last = Some(step);
    }
    let across = |level: usize, step: usize| if level <= step { step + 1 } else { step };
    let lattice_units = |level| units(configuration, level);
    Run {
        sampler: sampler.float(),
        configuration,
        registers: Box::new(move |state: &Neighbours, level| {
            let latent = largest(state.latents());
            let here = state.latents() * lattice_units(level);
            let (Some(neighbour), Some(step)) = (state.neighbour(), state.step()) else {
                return [largest(&here), latent];
            };
            let there = neighbour * lattice_units(across(level, step));
            let difference = largest(&(&here - &there)) / worths[step];
            [difference.max(largest(&here)).max(largest(&there)), latent.max(largest(neighbour))]
        }),
        round: Box::new(move |state, level| {
            let here = rounded(state.latents().clone(), lattice_units(level));
            let (Some(neighbour), Some(step)) = (state.neighbour(), state.step()) else {
                return Neighbours::alone(here, level);
            };
            let there = rounded(neighbour.clone(), lattice_units(across(level, step)));
            Neighbours::new(here, level, there, step).unwrap()
        }),
    }
    .reach(sampler.leave(&sampler.begin(configuration), run).unwrap(), refusal, coarse)
}

fn rounded(latents: Latents, units: f64) -> Latents {
    latents.mapv_into(|value| (value * units).round_ties_even() / units)
}
