//! What a run of the soak is made of: everything follows from one seed.

use edict_core::*;
use edict_testkit::{Discontinuous, Rounded, Rounding, TanhNetwork, normal};
use ndarray::ShapeError;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::common::{Fallible, schedule};
use crate::trip::Exact;

pub(crate) type Model = Box<dyn NoisePredictor<Condition = Guidance<f64>, Error = ShapeError>>;

/// Elements of a sample.
const WIDTH: usize = 8;

/// The bits that EDICT's inversion blows rounding errors up by, `2 n log2(1/p)`, stay below this in most configurations.
///
/// The registers hold 62 bits, of which the unit takes 20 to 44; what is left for growth is 18 to 42 bits and whatever the pair was
/// closer than 1. So this brings the finer lattices to their edge and leaves the coarser room. Weights drawn from all of
/// `[.3, 1]` whatever the number of steps would be refused more often than not, which tests little.
const GROWTH: f64 = 40.0;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Method {
    Edict { weight: f64, order: UpdateOrder },
    TwoStep(TwoStepRule),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Image,
    Noise,
    /// Noise whose two latents differ, for EDICT alone.
    Pair,
}

#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) seed: u64,
    pub(crate) method: Method,
    pub(crate) start: Start,
    pub(crate) grid: Grid,
    pub(crate) run: Trajectory,
    /// The run again, in one piece or several.
    pub(crate) pieces: Vec<Trajectory>,
    pub(crate) rounding: Option<Rounding>,
    pub(crate) discontinuous: bool,
    pub(crate) scale: f64,
    pub(crate) condition: Guidance<f64>,
    pub(crate) batch: usize,
    /// Latents are normal with this standard deviation.
    pub(crate) amplitude: f64,
}

/// The schedule of Stable Diffusion, which ends at the alpha-bar of timestep 0, and the same ending at 1.
pub(crate) struct Schedules([NoiseSchedule; 2]);

impl Schedules {
    pub(crate) fn new() -> Self {
        Self([schedule(), schedule().with_final_alpha_bar(1.0).unwrap()])
    }
}

impl Configuration {
    pub(crate) fn draw(seed: u64, schedules: &Schedules) -> Self {
        let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
        let run = draw.run(schedules);
        let pieces = if draw.one_in(4) { draw.pieces(&run) } else { vec![run.clone()] };
        let method = draw.method(run.len());
        let start = match method {
            _ if draw.one_in(2) => Start::Image,
            Method::Edict { .. } if draw.one_in(2) => Start::Pair,
            _ => Start::Noise,
        };
        let grid = Grid::new(20 + draw.below(25) as u32, 1 + draw.below(8) as u32).unwrap();
        // Latents of 2^50 units are refused, which no value of a normal distribution is if an eighth of them is its deviation.
        let level = if start == Start::Image { run.end_alpha_bar() } else { run.alpha_bars()[0] };
        let most = (47.0 - f64::from(grid.unit_bits())).exp2() * (level / run.end_alpha_bar()).sqrt();
        Self {
            seed,
            method,
            start,
            grid,
            run,
            pieces,
            rounding: [None, Some(Rounding::F32), Some(Rounding::F16), Some(Rounding::BF16)][draw.below(4)],
            discontinuous: draw.one_in(4),
            scale: if draw.one_in(2) { 1.0 } else { [0.0, 3.0, 7.5, draw.between(1.0, 8.0)][draw.below(4)] },
            condition: Guidance { positive: draw.between(-1.0, 1.0), negative: draw.between(-1.0, 1.0) },
            batch: 1 + draw.below(3),
            // Up to the largest latents let in, which leave the fast path of the arithmetic.
            amplitude: if draw.one_in(8) { draw.between(0.0, most.log2().max(0.0)).exp2() } else { 1.0 }
                .min(most),
        }
    }

    /// Does something with the sampler.
    pub(crate) fn visit<V: Visit>(&self, visit: V) -> V::Output {
        match self.method {
            Method::Edict { weight, order } => {
                let sampler = LatticeEdict::new(MixingWeight::Fixed(weight), order).unwrap();
                visit.with(sampler.with_grid(self.grid))
            }
            Method::TwoStep(rule) => {
                visit.with(LatticeTwoStep::new(TwoStep::new(rule).unwrap()).unwrap().with_grid(self.grid))
            }
        }
    }

    pub(crate) fn model(&self) -> Model {
        if self.discontinuous {
            self.rounded(Fallible(Discontinuous))
        } else {
            self.rounded(TanhNetwork::new(WIDTH, self.seed))
        }
    }

    fn rounded<P>(&self, network: P) -> Model
    where
        P: NoisePredictor<Condition = f64, Error = ShapeError> + 'static,
    {
        let scale = GuidanceScale::constant(self.scale).unwrap();
        match self.rounding {
            None => Box::new(Guided::new(network, scale)),
            Some(rounding) => Box::new(Guided::new(Rounded::new(network, rounding), scale)),
        }
    }

    pub(crate) fn latents(&self) -> Latents {
        normal(&[self.batch, WIDTH], self.seed) * self.amplitude
    }

    /// Other latents of the same shape.
    pub(crate) fn partner(&self) -> Latents {
        normal(&[self.batch, WIDTH], !self.seed) * self.amplitude
    }
}

/// What is done with whichever sampler a configuration has.
pub(crate) trait Visit {
    type Output;

    fn with<S: Exact>(self, sampler: S) -> Self::Output;
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, count: usize) -> usize {
        // The bias of a remainder of 64 bits is far below what any of this could notice.
        (self.0.next_u64() % count as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn run(&mut self, schedules: &Schedules) -> Trajectory {
        let schedule = &schedules.0[self.below(2)];
        let steps = if self.one_in(64) { 100 + self.below(901) } else { 1 + self.below(60) };
        let strength = if self.one_in(2) { 1.0 } else { self.between(0.0, 1.0) };
        let builder = Trajectory::builder(steps).strength(strength);
        let builder = match self.below(8) {
            0 => builder.spacing(TimestepSpacing::Trailing),
            1 => builder.spacing(TimestepSpacing::Linspace),
            // An offset would lead out of training where the first timestep is its last.
            2..=4 if steps < 1000 => builder.offset(1),
            _ => builder,
        };
        builder.build(schedule).unwrap()
    }

    fn pieces(&mut self, run: &Trajectory) -> Vec<Trajectory> {
        let mut cuts: Vec<usize> = (0..1 + self.below(3)).map(|_| self.below(run.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut rest = run.clone();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut).unwrap();
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }

    fn method(&mut self, steps: usize) -> Method {
        match self.below(20) {
            0..12 => {
                let weight = match self.below(16) {
                    0 => 1.0,
                    1..=3 => self.between(0.3, 1.0),
                    _ => (-self.between(0.0, GROWTH) / (2.0 * steps.max(1) as f64)).exp2().max(0.3),
                };
                let order = [UpdateOrder::Leapfrog, UpdateOrder::Fixed][self.below(2)];
                Method::Edict { weight, order }
            }
            12..15 => Method::TwoStep(TwoStepRule::Belm),
            _ => Method::TwoStep(TwoStepRule::Bdia {
                gamma: match self.below(8) {
                    0 => 1.0,
                    1 => self.between(0.5, 0.9),
                    _ => self.between(0.9, 1.0),
                },
            }),
        }
    }
}
