//! EDICT in integers: every bit comes back.

mod common;

use common::*;
use edict_core::*;
use edict_testkit::{Discontinuous, Rounded, Rounding, Spy, TanhNetwork, normal};
use proptest::prelude::*;

type AnyModel = Box<dyn NoisePredictor<Condition = f64, Error = ndarray::ShapeError>>;

/// Smooth, discontinuous and of every precision.
fn model(kind: usize) -> AnyModel {
    let network = TanhNetwork::new(8, 5);
    match kind {
        0 => Box::new(network),
        1 => Box::new(Rounded::new(network, Rounding::F32)),
        2 => Box::new(Rounded::new(network, Rounding::F16)),
        3 => Box::new(Rounded::new(network, Rounding::BF16)),
        _ => Box::new(Fallible(Discontinuous)),
    }
}

fn steps() -> impl Strategy<Value = usize> {
    // Mostly as many as people use, some far more.
    prop_oneof![9 => 1usize..=60, 1 => 100usize..=400]
}

fn sampler(p: f64, leapfrog: bool, unit_bits: u32, spill_bits: u32) -> LatticeEdict {
    let order = if leapfrog { UpdateOrder::Leapfrog } else { UpdateOrder::Fixed };
    LatticeEdict::new(MixingWeight::Fixed(p), order)
        .unwrap()
        .with_grid(Grid::new(unit_bits, spill_bits).unwrap())
}

/// Whether a run ended because it left the lattice's range, which is an answer and no mistake.
fn refused<S: std::fmt::Debug>(error: &SampleError<ndarray::ShapeError, S>) -> bool {
    matches!(error, SampleError::Step(StepError::Range { .. } | StepError::NonFinite { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_image_comes_back_bit_for_bit(
        steps in steps(), strength in 0.0..=1.0, p in 0.3..=1.0, leapfrog: bool, kind in 0usize..5, seed: u64,
        unit_bits in 20u32..=44, spill_bits in 1u32..=8, condition in -1.0..1.0,
    ) {
        let (sampler, model) = (sampler(p, leapfrog, unit_bits, spill_bits), model(kind));
        let trajectory = trajectory(steps, strength);
        let start = sampler.state_from_image(&normal(&[2, 8], seed), &trajectory).unwrap();
        let noise = match sampler.invert(&start, &trajectory, &model, &condition, &mut ()) {
            Ok(noise) => noise,
            Err(error) => { prop_assert!(refused(&error), "{error}"); return Ok(()); }
        };
        prop_assert!(noise.registers().carry().is_empty(), "inverting an image leaves no carry");
        let back = sampler.generate(&noise, &trajectory, &model, &condition, &mut ()).unwrap();
        prop_assert_eq!(back, start);
    }

    #[test]
    fn noise_comes_back_bit_for_bit(
        steps in steps(), strength in 0.0..=1.0, p in 0.3..=1.0, leapfrog: bool, kind in 0usize..5, seed: u64,
        unit_bits in 20u32..=44, spill_bits in 1u32..=8, condition in -1.0..1.0,
    ) {
        let (sampler, model) = (sampler(p, leapfrog, unit_bits, spill_bits), model(kind));
        let trajectory = trajectory(steps, strength);
        let pair = CoupledPair { x: normal(&[2, 8], seed), y: normal(&[2, 8], !seed) };
        let start = sampler.enter(&pair, &trajectory, 0).unwrap();
        let image = match sampler.generate(&start, &trajectory, &model, &condition, &mut ()) {
            Ok(image) => image,
            Err(error) => { prop_assert!(refused(&error), "{error}"); return Ok(()); }
        };
        let back = sampler.invert(&image, &trajectory, &model, &condition, &mut ()).unwrap();
        prop_assert_eq!(back, start);
    }

    #[test]
    fn pieces_compose_and_the_network_sees_the_same_inputs_in_reverse(
        steps in 2usize..=40, p in 0.6..=1.0, cut in 0.0..=1.0, leapfrog: bool, seed: u64,
    ) {
        let (sampler, model) = (sampler(p, leapfrog, 40, 8), Spy::new(TanhNetwork::new(8, 5)));
        let whole = trajectory(steps, 1.0);
        let (noisy, clean) = whole.split_at((cut * steps as f64) as usize).unwrap();
        let start = sampler.enter(
            &CoupledPair { x: normal(&[1, 8], seed), y: normal(&[1, 8], !seed) }, &whole, 0,
        ).unwrap();
        let image = sampler.generate(&start, &whole, &model, &0.2, &mut ()).unwrap();
        let mut asked = model.take();
        let half = sampler.generate(&start, &noisy, &model, &0.2, &mut ()).unwrap();
        prop_assert_eq!(&sampler.generate(&half, &clean, &model, &0.2, &mut ()).unwrap(), &image);
        model.take();
        let half = sampler.invert(&image, &clean, &model, &0.2, &mut ()).unwrap();
        prop_assert_eq!(&sampler.invert(&half, &noisy, &model, &0.2, &mut ()).unwrap(), &start);
        asked.reverse();
        prop_assert_eq!(asked.len(), 2 * steps);
        prop_assert_eq!(model.take(), asked);
    }

    #[test]
    fn one_step_is_within_eight_units_of_the_step_in_f64(
        steps in 2usize..=100, at in 0.0..1.0, p in 0.3..=1.0, leapfrog: bool, invert: bool, seed: u64,
    ) {
        let lattice = sampler(p, leapfrog, 40, 8);
        let order = if leapfrog { UpdateOrder::Leapfrog } else { UpdateOrder::Fixed };
        let float = edict(p, order);
        let whole = trajectory(steps, 1.0);
        let level = (at * steps as f64) as usize;
        let (_, rest) = whole.split_at(level).unwrap();
        let (step, _) = rest.split_at(level + 1).unwrap();
        let model = TanhNetwork::new(8, 5);
        let from = if invert { level + 1 } else { level };
        let pair = CoupledPair { x: normal(&[1, 8], seed), y: normal(&[1, 8], !seed) };
        // From the same state: that which stands on the lattice.
        let state = lattice.enter(&pair, &whole, from).unwrap();
        let pair = lattice.leave(&state, &whole).unwrap();
        let (exact, floating) = if invert {
            (lattice.invert(&state, &step, &model, &0.2, &mut ()).unwrap(),
             float.invert(&pair, &step, &model, &0.2, &mut ()).unwrap())
        } else {
            (lattice.generate(&state, &step, &model, &0.2, &mut ()).unwrap(),
             float.generate(&pair, &step, &model, &0.2, &mut ()).unwrap())
        };
        let end = lattice.leave(&exact, &whole).unwrap();
        // In units of the level the step leads to. `y` is rounded where the difference is taken from `x`, where it is put back, and in
        // the mixing, half a unit each; `x` once more where it is read; the difference by half a unit in each of its two updates. That is
        // 3 units, and half of one when leaving; what is read with up to 1.5 units of it moves the other latent by as much times the
        // network's slope and `|b| < 1`. Inversion is no worse for a small weight: the register of the difference goes through
        // the mixing as it is, nothing is divided by p. (150,000 steps of as many networks, p from .85 on: at most 3.8 units.)
        let alpha_bar = whole.alpha_bars()[exact.level()];
        let bound = 8.0 * 2f64.powi(-40) * (alpha_bar / whole.end_alpha_bar()).sqrt();
        prop_assert!(pair_difference(&end, &floating) <= bound, "{:e} {bound:e}", pair_difference(&end, &floating));
    }

    #[test]
    fn a_whole_run_is_that_of_f64_up_to_the_lattice_and_its_growth(
        steps in 2usize..=60, p in 0.9..=1.0, invert: bool, seed: u64,
    ) {
        let (lattice, float) = (sampler(p, true, 40, 8), edict(p, UpdateOrder::Leapfrog));
        let (whole, model) = (trajectory(steps, 1.0), TanhNetwork::new(8, 5));
        let end = if invert { steps } else { 0 };
        let pair = CoupledPair { x: normal(&[1, 8], seed), y: normal(&[1, 8], seed) };
        let state = lattice.enter(&pair, &whole, end).unwrap();
        let pair = lattice.leave(&state, &whole).unwrap();
        let run = |pair: &CoupledPair| if invert {
            float.invert(pair, &whole, &model, &0.2, &mut ()).unwrap()
        } else {
            float.generate(pair, &whole, &model, &0.2, &mut ()).unwrap()
        };
        let floating = run(&pair);
        let exact = if invert {
            lattice.invert(&state, &whole, &model, &0.2, &mut ()).unwrap()
        } else {
            lattice.generate(&state, &whole, &model, &0.2, &mut ()).unwrap()
        };
        let exact = lattice.leave(&exact, &whole).unwrap();
        // Growth: the change of the result for a change of the input by a unit, each latent by itself and in either sense, at
        // the coarsest unit of the run's levels.
        let unit = 2f64.powi(-40);
        let mut growth: f64 = 0.0;
        for (dx, dy) in [(unit, 0.0), (0.0, unit), (unit, unit), (unit, -unit)] {
            let moved = CoupledPair { x: &pair.x + dx, y: &pair.y + dy };
            growth = growth.max(pair_difference(&run(&moved), &floating) / unit);
        }
        let bound = 8.0 * unit * (1.0 + growth);
        let found = pair_difference(&exact, &floating);
        prop_assert!(found <= bound, "{found:e} {bound:e} growth {growth}");
    }

    #[test]
    fn latents_on_the_lattice_enter_and_leave_unchanged(seed: u64, steps in 1usize..=60) {
        let sampler = LatticeEdict::default();
        let trajectory = trajectory(steps, 1.0);
        // Every f16, and every f32 down to 2^-16, stands on a lattice of unit 2^-40.
        let image = normal(&[2, 8], seed).mapv(|v| f64::from((v + v.signum() * 1e-4) as f32));
        let state = sampler.state_from_image(&image, &trajectory).unwrap();
        prop_assert_eq!(bits(&sampler.image(&state, &trajectory).unwrap()), bits(&image));
        let again = sampler.enter(&sampler.leave(&state, &trajectory).unwrap(), &trajectory, steps).unwrap();
        prop_assert_eq!(again, state);
    }
}

#[test]
fn the_float_sampler_fails_where_the_lattice_does_not() {
    // The same image, network and weight: f64 returns it up to rounding, integers to the last bit.
    let (model, trajectory) = (TanhNetwork::new(8, 5), trajectory(60, 1.0));
    let image = normal(&[1, 8], 3).mapv(|v| f64::from(v as f32));
    let float = edict(0.9, UpdateOrder::Leapfrog);
    let (error, _) = image_round_trip(&float, &float, &image, &trajectory, &model, &0.2);
    assert!(error > 0.0);
    let lattice = sampler(0.9, true, 40, 8);
    let start = lattice.state_from_image(&image, &trajectory).unwrap();
    let noise = lattice.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
    let back = lattice.generate(&noise, &trajectory, &model, &0.2, &mut ()).unwrap();
    assert_eq!(bits(&lattice.image(&back, &trajectory).unwrap()), bits(&image));
}

#[test]
fn a_network_that_answers_differently_is_not_exact() {
    // The promise needs equal answers: a network that drifts by one part in 1e9 must not pass.
    let drift = std::cell::Cell::new(1.0);
    let model = FnPredictor::new(|z: ndarray::ArrayViewD<'_, f64>, _: Timestep, _: &()| -> Latents {
        drift.set(drift.get() * (1.0 + 1e-9));
        z.mapv(|v: f64| v.sin() * drift.get())
    });
    let (sampler, trajectory) = (LatticeEdict::default(), trajectory(20, 1.0));
    let start = sampler.state_from_image(&normal(&[1, 8], 3), &trajectory).unwrap();
    let noise = sampler.invert(&start, &trajectory, &model, &(), &mut ()).unwrap();
    let back = sampler.generate(&noise, &trajectory, &model, &(), &mut ()).unwrap();
    assert_ne!(back, start);
}

#[test]
fn leaving_the_range_names_step_and_value_and_changes_nothing() {
    let (model, trajectory) = (TanhNetwork::new(8, 5), trajectory(100, 1.0));
    let sampler = sampler(0.5, true, 40, 8);
    let start = sampler.state_from_image(&normal(&[1, 8], 3), &trajectory).unwrap();
    let kept = start.clone();
    let error = sampler.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap_err();
    match &error {
        SampleError::Step(StepError::Range { step, value, .. }) => {
            assert!(*step < 99 && value.abs() > 1e3, "{error}");
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("mixing weight"), "{error}");
    assert_eq!(start, kept);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (sampler, trajectory) = (LatticeEdict::default(), trajectory(10, 1.0));
    let enter = |value: f64| {
        sampler.state_from_image(&Latents::from_elem(vec![1, 2], value), &trajectory).unwrap_err().to_string()
    };
    assert!(enter(f64::NAN).contains("finite") && enter(f64::INFINITY).contains("finite"));
    assert!(enter(1024.0).contains("`x` holds 1024") && enter(1e30).contains("below"));
    sampler.state_from_image(&Latents::from_elem(vec![1, 2], 1023.9), &trajectory).unwrap();
    // A state of another level.
    let image = sampler.state_from_image(&normal(&[1, 8], 3), &trajectory).unwrap();
    let model = TanhNetwork::new(8, 5);
    let error = sampler.generate(&image, &trajectory, &model, &0.0, &mut ()).unwrap_err();
    assert!(matches!(error, SampleError::State(StateError::Level { level: 10, .. })), "{error}");
    assert!(LatticeEdict::new(MixingWeight::Fixed(1e-6), UpdateOrder::Leapfrog).is_err());
    for (unit_bits, spill_bits) in [(0, 8), (49, 8), (40, 0), (40, 9)] {
        assert!(Grid::new(unit_bits, spill_bits).is_err());
    }
}

#[test]
fn strength_0_returns_its_input() {
    let (sampler, none) = (LatticeEdict::default(), trajectory(10, 0.0));
    let start = sampler.state_from_image(&normal(&[1, 8], 3), &none).unwrap();
    let model = TanhNetwork::new(8, 5);
    assert_eq!(sampler.invert(&start, &none, &model, &0.0, &mut ()).unwrap(), start);
    assert_eq!(sampler.generate(&start, &none, &model, &0.0, &mut ()).unwrap(), start);
}

#[test]
fn a_state_is_rebuilt_from_its_parts() {
    let (sampler, trajectory, model) = (LatticeEdict::default(), trajectory(40, 1.0), TanhNetwork::new(8, 5));
    let pair = CoupledPair { x: normal(&[1, 8], 1), y: normal(&[1, 8], 2) };
    let start = sampler.enter(&pair, &trajectory, 0).unwrap();
    let image = sampler.generate(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
    // From noise the difference of the pair has gone to the carry.
    assert!(!image.registers().carry().is_empty());
    let registers = image.registers();
    let rebuilt = Registers::from_parts(
        registers.values().map(Clone::clone),
        registers.carry().to_vec(),
        registers.grid(),
    );
    assert_eq!(rebuilt.as_ref(), Ok(registers));
    assert_eq!(LatticePair::new(rebuilt.unwrap(), image.level()), image);
    let [v, w] = registers.values().map(Clone::clone);
    let grid = registers.grid();
    let broken = Registers::from_parts([v.clone(), w.mapv(|_| i64::MAX)], Vec::new(), grid);
    assert_eq!(broken, Err(StateError::Registers));
    let other = w.clone().into_shape_with_order(vec![8]).unwrap().into_dyn();
    assert_eq!(Registers::from_parts([v, other], Vec::new(), grid), Err(StateError::Registers));
}

#[test]
fn a_state_of_another_lattice_is_refused() {
    let (trajectory, model) = (trajectory(10, 1.0), TanhNetwork::new(8, 5));
    let fine = LatticeEdict::default();
    let coarse = fine.with_grid(Grid::new(30, 8).unwrap());
    let state = coarse.state_from_image(&normal(&[1, 8], 3), &trajectory).unwrap();
    let error = fine.invert(&state, &trajectory, &model, &0.0, &mut ()).unwrap_err();
    assert!(matches!(error, SampleError::State(StateError::Grid { .. })), "{error}");
}

/// Values that are finer than the lattice, or that it has no sign for.
fn awkward() -> ndarray::ArrayD<f32> {
    let mut values =
        vec![0.0, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE, -1e-38, 1e-13, 3e-7, -2.0f32.powi(-41), 1.0, -3.25];
    values.extend(normal(&[5], 9).iter().map(|v| *v as f32 * 1e-5));
    ndarray::ArrayD::from_shape_vec(vec![2, 8], values).unwrap()
}

#[test]
fn images_of_single_precision_come_back_bit_for_bit_however_fine() {
    let (trajectory, model, image) = (trajectory(20, 1.0), TanhNetwork::new(8, 5), awkward());
    let bits = |values: &ndarray::ArrayD<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let edict = LatticeEdict::default();
    let start = edict.state_from_f32(&image, &trajectory).unwrap();
    let noise = edict.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
    let back = edict.generate(&noise, &trajectory, &model, &0.2, &mut ()).unwrap();
    assert_eq!(bits(&edict.image_f32(&back, &trajectory).unwrap()), bits(&image));
    // Without the exceptions some are lost, or this test would say nothing.
    let plain = edict.image(&back, &trajectory).unwrap().mapv(|v| v as f32);
    assert_ne!(bits(&plain), bits(&image));
    // An edit's values are its own: what moved does not fall back.
    let edited = edict.generate(&noise, &trajectory, &model, &0.9, &mut ()).unwrap();
    let expected = edict.image(&edited, &trajectory).unwrap().mapv(|v| v as f32);
    assert_eq!(bits(&edict.image_f32(&edited, &trajectory).unwrap()), bits(&expected));
    let two_step = LatticeTwoStep::default();
    let start = two_step.state_from_f32(&image, &trajectory).unwrap();
    let noise = two_step.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
    let back = two_step.generate(&noise, &trajectory, &model, &0.2, &mut ()).unwrap();
    assert_eq!(bits(&two_step.image_f32(&back, &trajectory).unwrap()), bits(&image));
}
