//! The lattice where no image or network in its right mind leads: every state and every number is returned bit for bit or refused.

mod common;

use std::cell::Cell;
use std::convert::Infallible;

use common::*;
use edict_core::*;
use edict_testkit::{Elementwise, TanhNetwork, normal};
use half::f16;
use ndarray::{ArrayD, ArrayViewD};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const WIDTH: usize = 6;

/// A network that answers with a hash of the bits it is asked about: mostly of the size of noise, sometimes absurd, always finite.
struct Garbage;

impl NoisePredictor for Garbage {
    type Condition = ();
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, (): &()) -> Result<Latents, Infallible> {
        Ok(z.mapv(|z| {
            // The finaliser of splitmix64.
            let mut bits = z.to_bits() ^ (t.get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            let unit = (bits >> 12) as f64 / (1u64 << 52) as f64 - 0.5;
            match bits % 64 {
                0 => unit * 1e9,
                1 => unit * 1e-310,
                2 => -0.0,
                _ => unit * 8.0,
            }
        }))
    }
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, count: u64) -> u64 {
        self.0.next_u64() % count
    }

    /// Integers of up to a random number of bits, 62 at most: the whole range of a register.
    fn register(&mut self) -> ArrayD<i64> {
        let bits = self.below(63) as u32;
        ArrayD::from_shape_simple_fn(vec![1, WIDTH], || {
            let magnitude = (self.0.next_u64() & ((1 << bits) - 1)) as i64;
            if self.0.next_u64() & 1 == 0 { magnitude } else { -magnitude }
        })
    }

    fn registers(&mut self) -> Registers {
        let grid = Grid::new(1 + self.below(48) as u32, 1 + self.below(8) as u32).unwrap();
        let planes = (0..self.below(5)).map(|_| {
            ArrayD::from_shape_simple_fn(vec![1, WIDTH], || {
                (self.0.next_u64() as u8) >> (8 - grid.spill_bits())
            })
        });
        let planes = planes.collect();
        Registers::from_parts([self.register(), self.register()], planes, grid).unwrap()
    }

    fn run(&mut self) -> Trajectory {
        let steps = 2 + self.below(60) as usize;
        Trajectory::builder(steps).offset(self.below(2) as usize).build(&schedule()).unwrap()
    }
}

/// The piece of a run from one level to another.
fn piece(run: &Trajectory, from: usize, to: usize) -> Trajectory {
    run.split_at(to).unwrap().0.split_at(from).unwrap().1
}

/// Counts what completes and what is refused; whatever else comes is a mistake.
#[derive(Debug, Default)]
struct Count {
    completed: u64,
    refused: u64,
}

impl Count {
    /// Runs a walk, whose first stretch may be refused; those that lead back may not.
    fn walk<S: Sampler<State: PartialEq + std::fmt::Debug>>(
        &mut self,
        sampler: &S,
        start: &S::State,
        stretches: &[(bool, Trajectory)],
        what: &dyn std::fmt::Debug,
    ) {
        let kept = start.clone();
        let mut state = start.clone();
        for (i, (generating, piece)) in stretches.iter().enumerate() {
            let made = if *generating {
                sampler.generate(&state, piece, &Garbage, &(), &mut ())
            } else {
                sampler.invert(&state, piece, &Garbage, &(), &mut ())
            };
            match made {
                Ok(next) => state = next,
                Err(SampleError::Step(StepError::Range { .. })) if i == 0 => {
                    self.refused += 1;
                    assert_eq!(*start, kept);
                    return;
                }
                Err(other) => panic!("{other}: stretch {i} of {what:?}"),
            }
        }
        assert_eq!(state, kept, "{what:?}");
        self.completed += 1;
    }

    /// Both must happen for a test of both to mean anything.
    fn assert_both(&self) {
        println!("{self:?}");
        assert!(self.completed > 1000 && self.refused > 1000, "{self:?}");
    }
}

#[test]
fn a_step_of_edict_is_a_bijection_of_all_registers() {
    let mut count = Count::default();
    for seed in 0..20_000 {
        let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
        let (registers, run) = (draw.registers(), draw.run());
        // Down to the smallest weight there is.
        let p = (-16.0 * (draw.below(1 << 20) as f64 / f64::from(1 << 20)).powi(3)).exp2();
        let order = [UpdateOrder::Leapfrog, UpdateOrder::Fixed][draw.below(2) as usize];
        let sampler = LatticeEdict::new(MixingWeight::Fixed(p), order).unwrap().with_grid(registers.grid());
        let level = draw.below(run.len() as u64) as usize;
        let step = piece(&run, level, level + 1);
        for generating in [true, false] {
            let start = LatticePair::new(registers.clone(), if generating { level } else { level + 1 });
            let there_and_back = [(generating, step.clone()), (!generating, step.clone())];
            count.walk(&sampler, &start, &there_and_back, &(seed, generating));
        }
    }
    count.assert_both();
}

#[test]
fn a_step_of_the_two_step_samplers_is_a_bijection_of_all_registers() {
    let mut count = Count::default();
    for seed in 0..20_000 {
        let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
        let (registers, run) = (draw.registers(), draw.run());
        let rule = match draw.below(3) {
            0 => TwoStepRule::Belm,
            _ => TwoStepRule::Bdia { gamma: 1.0 - 0.9 * draw.below(1 << 20) as f64 / f64::from(1 << 20) },
        };
        let sampler = LatticeTwoStep::new(TwoStep::new(rule).unwrap()).unwrap().with_grid(registers.grid());
        // Both steps around the level change something: the last of a run without an offset does not.
        let wide = |step: &Step| step.alpha_bar_from() < step.alpha_bar_to();
        let steps = run.steps().iter().filter(|step| wide(step)).count();
        if steps < 2 {
            continue;
        }
        let level = 1 + draw.below(steps as u64 - 1) as usize;
        let (before, after) = (piece(&run, level - 1, level), piece(&run, level, level + 1));
        // A state holds the transition before or after its level; a step over the one held only moves it along.
        let start = LatticeNeighbours::new(registers.clone(), level, Some(level - 1));
        let walk =
            [(true, after.clone()), (false, piece(&run, level - 1, level + 1)), (true, before.clone())];
        count.walk(&sampler, &start, &walk, &seed);
        let start = LatticeNeighbours::new(registers, level, Some(level));
        let walk = [(false, before), (true, piece(&run, level - 1, level + 1)), (false, after)];
        count.walk(&sampler, &start, &walk, &seed);
    }
    count.assert_both();
}

#[test]
fn a_garbage_network_is_one() {
    // Else the tests above would say nothing about jumps: neighbours in the last bit get answers that have nothing in common.
    let z = normal(&[1, 1000], 3);
    let next = z.mapv(f64::next_up);
    let [a, b] = [z, next].map(|z| Garbage.predict(z.view(), Timestep::new(7), &()).unwrap());
    let apart = a.iter().zip(&b).filter(|(a, b)| (**a - **b).abs() > 0.1).count();
    assert!(apart > 900, "{apart}");
}

#[test]
fn carry_planes_with_more_bits_than_the_lattice_spills_are_refused() {
    let (v, w) = (ArrayD::from_elem(vec![1, 2], 5i64), ArrayD::from_elem(vec![1, 2], -7i64));
    for bits in 1..=8 {
        let grid = Grid::new(40, bits).unwrap();
        for byte in 0..=255u8 {
            let plane = ArrayD::from_elem(vec![1, 2], byte);
            let made = Registers::from_parts([v.clone(), w.clone()], vec![plane], grid);
            assert_eq!(made.is_ok(), u32::from(byte) < 1 << bits, "{bits} {byte}: {made:?}");
        }
    }
}

/// Numbers that software forgets: signed zeros, denormals, borders of formats and of the lattice, and no numbers at all.
fn adversarial() -> Vec<f64> {
    let mut values = vec![0.0, 5e-324, 1e-310, f64::MIN_POSITIVE, 1e-45, 1e-30, f64::EPSILON, 0.5, 1.0];
    for border in [2f64.powi(-41), 2f64.powi(-40), 1024.0, 2f64.powi(22), 65504.0, f64::from(f32::MAX)] {
        values.extend([border.next_down(), border, border.next_up()]);
    }
    values.extend([1e30, f64::MAX, f64::INFINITY, f64::NAN]);
    values.iter().flat_map(|value| [*value, -*value]).collect()
}

#[test]
fn any_number_enters_within_half_a_unit_or_is_refused() {
    let run = trajectory(7, 1.0);
    for grid in [Grid::default(), Grid::new(1, 1).unwrap(), Grid::new(48, 8).unwrap()] {
        let unit = 2f64.powi(-(grid.unit_bits() as i32));
        let limit = 2f64.powi(50 - grid.unit_bits() as i32);
        let (edict, two_step) =
            (LatticeEdict::default().with_grid(grid), LatticeTwoStep::default().with_grid(grid));
        for value in adversarial() {
            let image = Latents::from_shape_vec(vec![1, 3], vec![0.25, value, -0.5]).unwrap();
            let entered = [
                edict.state_from_image(&image, &run).map(|state| edict.image(&state, &run).unwrap()),
                two_step.state_from_image(&image, &run).map(|state| two_step.image(&state, &run).unwrap()),
            ];
            for found in entered {
                match found {
                    Ok(found) => {
                        assert!(value.abs() < limit, "{value:e}");
                        // The coarsest lattice has no quarter.
                        assert!(max_difference(&found, &image) <= unit / 2.0, "{value:e}: {found}");
                    }
                    Err(StateError::TooLarge { .. }) => assert!(value.abs() >= limit, "{value:e}"),
                    Err(StateError::NonFinite { .. }) => assert!(!value.is_finite(), "{value:e}"),
                    Err(other) => panic!("{value:e}: {other}"),
                }
            }
            // Noise too, whose unit is finer; and a pair of two such numbers.
            if let Ok(state) = two_step.state_from_noise(&image, &run) {
                let found = two_step.leave(&state, &run).unwrap();
                assert!(max_difference(found.latents(), &image) <= unit / 2.0, "{value:e}");
            }
            for other in adversarial() {
                let pair = CoupledPair { x: image.clone(), y: Latents::from_elem(vec![1, 3], other) };
                if let Ok(state) = edict.enter(&pair, &run, 3) {
                    assert!(value.is_finite() && other.is_finite());
                    edict.leave(&state, &run).unwrap();
                }
            }
            let single = image.mapv(|v| v as f32);
            if let Ok(state) = edict.state_from_f32(&single, &run) {
                let back = edict.image_f32(&state, &run).unwrap();
                assert_eq!(back.mapv(f32::to_bits), single.mapv(f32::to_bits), "{value:e}");
            }
        }
    }
}

/// Answers as a network, but for one element of one call.
struct Once {
    network: TanhNetwork,
    at: usize,
    value: f64,
    calls: Cell<usize>,
}

impl NoisePredictor for Once {
    type Condition = f64;
    type Error = ndarray::ShapeError;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &f64) -> Result<Latents, Self::Error> {
        let mut eps = self.network.predict(z, t, c)?;
        if self.calls.replace(self.calls.get() + 1) == self.at {
            eps[[0, 3]] = self.value;
        }
        Ok(eps)
    }
}

/// Runs out with one absurd answer, and back with the same one.
fn survives<S: Sampler<State: PartialEq + std::fmt::Debug>>(
    sampler: &S,
    run: &Trajectory,
    (inverting, at, value, calls): (bool, usize, f64, usize),
    bits_of: impl Fn(&S::State) -> Vec<u64>,
) {
    let what = format!("{value:e} at call {at}, inverting {inverting}");
    let walk = |from: &S::State, inverting, at| {
        let model = Once { network: TanhNetwork::new(8, 5), at, value, calls: Cell::new(0) };
        if inverting {
            sampler.invert(from, run, &model, &0.2, &mut ())
        } else {
            sampler.generate(from, run, &model, &0.2, &mut ())
        }
    };
    let latents = normal(&[1, 8], 3);
    let start = if inverting {
        sampler.state_from_image(&latents, run)
    } else {
        sampler.state_from_noise(&latents, run)
    };
    let start = start.unwrap();
    let kept = start.clone();
    match walk(&start, inverting, at) {
        Ok(end) => {
            assert!(value.is_finite(), "{what}");
            // The call is the same one from the other end.
            let back = walk(&end, !inverting, calls - 1 - at).unwrap();
            assert_eq!(bits_of(&back), bits_of(&start), "{what}");
        }
        // A register holds 2^62 units of 2^-40, and a step of this run takes a thousandth of the noise at least.
        Err(SampleError::Step(StepError::Range { .. })) => {
            assert!(value.is_finite() && value.abs() > 1e3, "{what}");
        }
        Err(SampleError::Step(StepError::NonFinite { .. })) => assert!(!value.is_finite(), "{what}"),
        Err(other) => panic!("{what}: {other}"),
    }
    assert_eq!(start, kept);
}

#[test]
fn any_number_predicted_is_taken_back_or_refused() {
    let run = trajectory(4, 1.0);
    let (edict, two_step) = (LatticeEdict::default(), LatticeTwoStep::default());
    for (value, inverting) in adversarial().into_iter().flat_map(|value| [(value, true), (value, false)]) {
        for at in 0..8 {
            survives(&edict, &run, (inverting, at, value, 8), |state| {
                let CoupledPair { x, y } = edict.leave(state, &run).unwrap();
                [bits(&x), bits(&y)].concat()
            });
        }
        // The first call, with one latent alone, is not asked again on the way back.
        for at in 1..4 {
            survives(&two_step, &run, (inverting, at, value, 4), |state| {
                bits(two_step.leave(state, &run).unwrap().latents())
            });
        }
    }
}

/// Every pattern of 16 bits as a number of half precision, and whether it is one.
fn halves() -> (Vec<f16>, Vec<f16>) {
    (0..=u16::MAX).map(f16::from_bits).partition(|value| value.is_finite())
}

#[test]
fn every_finite_f16_is_an_image_that_comes_back_bit_for_bit() {
    let (finite, others) = halves();
    assert_eq!((finite.len(), others.len()), (63_488, 2048));
    let run = trajectory(9, 1.0);
    let model = Elementwise(|z: f64, t: Timestep, c: f64| (z + c).sin() + t.get() as f64 / 1000.0);
    // The coarsest lattice that has the smallest of them, 2^-24, and the finest that has room for the largest, 65504.
    for unit_bits in [24, 34] {
        let grid = Grid::new(unit_bits, 8).unwrap();
        let (edict, two_step) =
            (LatticeEdict::default().with_grid(grid), LatticeTwoStep::default().with_grid(grid));
        let image =
            ArrayD::from_shape_vec(vec![8, 7936], finite.iter().map(|v| v.to_f32()).collect()).unwrap();
        let bits = |image: &ArrayD<f32>| image.mapv(f32::to_bits);

        let start = edict.state_from_f32(&image, &run).unwrap();
        assert_eq!(bits(&edict.image_f32(&start, &run).unwrap()), bits(&image));
        let noise = edict.invert(&start, &run, &model, &0.2, &mut ()).unwrap();
        let back = edict.generate(&noise, &run, &model, &0.2, &mut ()).unwrap();
        assert_eq!(bits(&edict.image_f32(&back, &run).unwrap()), bits(&image));

        let start = two_step.state_from_f32(&image, &run).unwrap();
        assert_eq!(bits(&two_step.image_f32(&start, &run).unwrap()), bits(&image));
        let noise = two_step.invert(&start, &run, &model, &0.2, &mut ()).unwrap();
        let back = two_step.generate(&noise, &run, &model, &0.2, &mut ()).unwrap();
        assert_eq!(bits(&two_step.image_f32(&back, &run).unwrap()), bits(&image));

        // In f64 as well, but for -0: the lattice has one zero.
        let latents = image.mapv(f64::from);
        let start = edict.state_from_image(&latents, &run).unwrap();
        let found = edict.image(&start, &run).unwrap();
        let differ = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits();
        let lost: Vec<_> = found.iter().zip(&latents).filter(|pair| differ(*pair)).collect();
        assert_eq!(lost.iter().map(|(_, b)| b.to_bits()).collect::<Vec<_>>(), [(-0.0f64).to_bits()]);
    }
    for value in others {
        let image = ArrayD::from_elem(vec![1, 1], value.to_f32());
        assert!(LatticeEdict::default().state_from_f32(&image, &run).is_err(), "{value}");
        assert!(LatticeTwoStep::default().state_from_f32(&image, &run).is_err(), "{value}");
    }
}
