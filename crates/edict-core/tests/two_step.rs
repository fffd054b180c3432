//! O-BELM and BDIA, in f64 and on the lattice.

mod common;

use common::*;
use edict_core::*;
use edict_testkit::{Discontinuous, Rounded, Rounding, Spy, TanhNetwork, normal};
use proptest::prelude::*;

fn rule(gamma: Option<f64>) -> TwoStep {
    TwoStep::new(gamma.map_or(TwoStepRule::Belm, |gamma| TwoStepRule::Bdia { gamma })).unwrap()
}

fn gammas() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(1.0)), 2 => (0.9..=1.0).prop_map(Some)]
}

/// Trajectories with and without a last transition of zero width.
fn any_trajectory(steps: usize, strength: f64, offset: usize, alpha_one: bool) -> Trajectory {
    let schedule = schedule();
    let schedule = if alpha_one { schedule.with_final_alpha_bar(1.0).unwrap() } else { schedule };
    Trajectory::builder(steps).offset(offset).strength(strength).build(&schedule).unwrap()
}

/// The published update of O-BELM (arXiv:2410.07273), in its own symbols: the latents cleaner than `x`, the noisier being `older`.
fn published_belm([older, x, e]: [f64; 3], [bar_older, bar, bar_next]: [f64; 3]) -> f64 {
    let ratio = |bar: f64| ((1.0 - bar) / bar).sqrt();
    let (h, h_older) = (ratio(bar) - ratio(bar_next), ratio(bar_older) - ratio(bar));
    let (alpha_older, alpha, alpha_next) = (bar_older.sqrt(), bar.sqrt(), bar_next.sqrt());
    (h / h_older).powi(2) * (alpha_next / alpha_older) * older
        + (1.0 - (h / h_older).powi(2)) * (alpha_next / alpha) * x
        - h * (h + h_older) / h_older * alpha_next * e
}

/// The published update of BDIA (arXiv:2307.10829): `gamma` of what DDIM's step back to `older` leaves, beside DDIM's step on.
fn published_bdia(gamma: f64, [older, x, e]: [f64; 3], [bar_older, bar, bar_next]: [f64; 3]) -> f64 {
    let ddim = |to: f64| {
        let a = (to / bar).sqrt();
        a * x + ((1.0 - to).sqrt() - a * (1.0 - bar).sqrt()) * e
    };
    gamma * older - gamma * ddim(bar_older) + ddim(bar_next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn steps_are_the_published_ones(steps in 2usize..=100, at in 0.0..1.0, gamma in gammas(), seed: u64) {
        let trajectory = any_trajectory(steps, 1.0, 1, false);
        let index = 1 + (at * (steps - 1) as f64) as usize;
        let bars = trajectory.alpha_bars();
        let (older, x) = (normal(&[1, 8], seed), normal(&[1, 8], !seed));
        let model = TanhNetwork::new(8, 5);
        let step = trajectory.run()[index];
        let e = model.predict(x.view(), step.timestep(), &0.2).unwrap();
        let mut state = Neighbours::new(x.clone(), index, older.clone(), index - 1).unwrap();
        rule(gamma).generate_step(&mut state, &trajectory, &step, &model, &0.2).unwrap();
        let bars = [bars[index - 1], bars[index], bars[index + 1]];
        for i in 0..8 {
            let inputs = [older[[0, i]], x[[0, i]], e[[0, i]]];
            let expected = match gamma {
                None => published_belm(inputs, bars),
                Some(gamma) => published_bdia(gamma, inputs, bars),
            };
            // Three products and two sums; the widths are differences of ratios, which lose up to seven bits at 1000 steps' distance.
            let size = 1.0 + inputs.iter().map(|v| v.abs()).sum::<f64>() + expected.abs();
            prop_assert!((state.latents()[[0, i]] - expected).abs() <= 1e-12 * size);
        }
        prop_assert_eq!(state.neighbour().unwrap(), &x);
        // And back.
        rule(gamma).invert_step(&mut state, &trajectory, &step, &model, &0.2).unwrap();
        prop_assert_eq!(state.level(), index);
        prop_assert_eq!(state.latents(), &x);
        let back = trajectory.run()[index - 1];
        rule(gamma).invert_step(&mut state, &trajectory, &back, &model, &0.2).unwrap();
        let [k0, ..] = [state.latents()];
        prop_assert!(max_difference(k0, &older) <= 1e-10, "{:e}", max_difference(k0, &older));
    }

    #[test]
    fn an_image_comes_back_bit_for_bit(
        steps in 1usize..=80, strength in 0.0..=1.0, gamma in gammas(), kind in 0usize..5, seed: u64,
        offset in 0usize..=1, alpha_one: bool, unit_bits in 20u32..=44, spill_bits in 1u32..=8,
    ) {
        let trajectory = any_trajectory(steps, strength, offset, alpha_one);
        let sampler = LatticeTwoStep::new(rule(gamma)).unwrap().with_grid(Grid::new(unit_bits, spill_bits).unwrap());
        let start = sampler.state_from_image(&normal(&[2, 8], seed), &trajectory).unwrap();
        let image = sampler.image(&start, &trajectory).unwrap();
        let run = |model: &dyn NoisePredictor<Condition = f64, Error = ndarray::ShapeError>| -> Result<(), TestCaseError> {
            let noise = match sampler.invert(&start, &trajectory, model, &0.2, &mut ()) {
                Ok(noise) => noise,
                Err(SampleError::Step(StepError::Range { .. })) => return Ok(()),
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            };
            prop_assert!(noise.registers().carry().is_empty(), "inverting an image leaves no carry");
            let back = sampler.generate(&noise, &trajectory, model, &0.2, &mut ()).unwrap();
            prop_assert_eq!(bits(&sampler.image(&back, &trajectory).unwrap()), bits(&image));
            // From here on both directions are bijections of the whole state.
            let again = sampler.invert(&back, &trajectory, model, &0.2, &mut ()).unwrap();
            prop_assert_eq!(again, noise);
            Ok(())
        };
        let network = TanhNetwork::new(8, 5);
        match kind {
            0 => run(&network)?,
            1 => run(&Rounded::new(network, Rounding::F32))?,
            2 => run(&Rounded::new(network, Rounding::F16))?,
            3 => run(&Rounded::new(network, Rounding::BF16))?,
            _ => run(&Fallible(Discontinuous))?,
        }
    }

    #[test]
    fn noise_comes_back_bit_for_bit(
        steps in 1usize..=80, strength in 0.0..=1.0, gamma in gammas(), seed: u64, offset in 0usize..=1,
        unit_bits in 20u32..=44, spill_bits in 1u32..=8, cut in 0.0..=1.0,
    ) {
        let trajectory = any_trajectory(steps, strength, offset, false);
        let sampler = LatticeTwoStep::new(rule(gamma)).unwrap().with_grid(Grid::new(unit_bits, spill_bits).unwrap());
        let model = TanhNetwork::new(8, 5);
        let start = sampler.state_from_noise(&normal(&[2, 8], seed), &trajectory).unwrap();
        let noise = sampler.leave(&start, &trajectory).unwrap();
        let image = sampler.generate(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
        let back = sampler.invert(&image, &trajectory, &model, &0.2, &mut ()).unwrap();
        let returned = sampler.leave(&back, &trajectory).unwrap();
        prop_assert_eq!(bits(returned.latents()), bits(noise.latents()));
        // In pieces too, both ways.
        let (noisy, clean) = trajectory.split_at((cut * trajectory.len() as f64) as usize).unwrap();
        let half = sampler.generate(&back, &noisy, &model, &0.2, &mut ()).unwrap();
        prop_assert_eq!(&sampler.generate(&half, &clean, &model, &0.2, &mut ()).unwrap(), &image);
        let half = sampler.invert(&image, &clean, &model, &0.2, &mut ()).unwrap();
        prop_assert_eq!(&sampler.invert(&half, &noisy, &model, &0.2, &mut ()).unwrap(), &back);
    }

    #[test]
    fn one_step_is_within_eight_units_of_the_step_in_f64(
        steps in 3usize..=100, at in 0.0..1.0, gamma in gammas(), invert: bool, seed: u64,
    ) {
        let trajectory = any_trajectory(steps, 1.0, 1, false);
        let (float, lattice) = (rule(gamma), LatticeTwoStep::new(rule(gamma)).unwrap());
        let model = TanhNetwork::new(8, 5);
        let index = 1 + (at * (steps - 1) as f64) as usize;
        // A state of a run, so that its difference has the size that the lattice is laid for.
        let start = lattice.state_from_noise(&normal(&[1, 8], seed), &trajectory).unwrap();
        let (noisy, rest) = trajectory.split_at(index).unwrap();
        let (step, _) = rest.split_at(index + 1).unwrap();
        let state = lattice.generate(&start, &noisy, &model, &0.2, &mut ()).unwrap();
        let (from, piece) = if invert {
            let (one, _) = noisy.split_at(index).unwrap();
            let (_, back) = one.split_at(index - 1).unwrap();
            (lattice.generate(&state, &step, &model, &0.2, &mut ()).unwrap(), back)
        } else {
            (state, step.clone())
        };
        let (exact, floating) = if invert {
            let exact = lattice.invert(&from, &step, &model, &0.2, &mut ()).unwrap();
            let exact = lattice.invert(&exact, &piece, &model, &0.2, &mut ()).unwrap();
            let floating = lattice.leave(&from, &trajectory).unwrap();
            let floating = float.invert(&floating, &step, &model, &0.2, &mut ()).unwrap();
            (exact, float.invert(&floating, &piece, &model, &0.2, &mut ()).unwrap())
        } else {
            let floating = lattice.leave(&from, &trajectory).unwrap();
            (lattice.generate(&from, &piece, &model, &0.2, &mut ()).unwrap(),
             float.generate(&floating, &piece, &model, &0.2, &mut ()).unwrap())
        };
        let exact = lattice.leave(&exact, &trajectory).unwrap();
        // The inverted difference was made smaller by rho in generation, and s_j is what its unit is worth then. The floats begin from
        // latents on the lattice, whose difference is off the finer one that the register holds by half a unit, and divide it by rho.
        let (h, rho, s) = factors(&trajectory, gamma, index);
        prop_assert!(h > 0.0);
        let units = if invert { 8.0 * (s / rho).max(1.0) + 0.5 / rho } else { 8.0 };
        let bound = units * 2f64.powi(-40);
        prop_assert!(max_difference(exact.latents(), floating.latents()) <= bound,
            "{:e} {bound:e}", max_difference(exact.latents(), floating.latents()));
    }
}

/// `h`, `rho` and `s` of a step, written out from their definitions.
fn factors(trajectory: &Trajectory, gamma: Option<f64>, index: usize) -> (f64, f64, f64) {
    let bars = trajectory.alpha_bars();
    let ratio = |level: usize| ((1.0 - bars[level]) / bars[level]).sqrt();
    let h = |j: usize| ratio(j) - ratio(j + 1);
    let rho = |j: usize| match gamma {
        None => (h(j) / h(j - 1)).powi(2),
        Some(gamma) => gamma * (bars[j - 1] / bars[j + 1]).sqrt(),
    };
    let mut s = 1.0;
    for j in 1..=index {
        s *= rho(j);
        while s < 1.0 / 256.0 {
            s *= 256.0;
        }
    }
    (h(index), rho(index), s)
}

#[test]
fn images_and_noise_come_back_in_f64() {
    let model = TanhNetwork::new(8, 5);
    for gamma in [None, Some(1.0), Some(0.96)] {
        let (sampler, trajectory) = (rule(gamma), any_trajectory(50, 1.0, 1, false));
        let image = normal(&[2, 8], 4);
        let start = sampler.state_from_image(&image, &trajectory).unwrap();
        let noise = sampler.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
        let back = sampler.generate(&noise, &trajectory, &model, &0.2, &mut ()).unwrap();
        // Inversion enlarges a rounding error by at most 92 (numbers of the schedule at 50 steps) or gamma^-50, each of 50 steps
        // rounds about four times at the size of the largest latent, which is below 100 here.
        let bound = 92.0 * 50.0 * 4.0 * f64::EPSILON * 100.0;
        assert!(max_difference(back.latents(), &image) < bound, "{gamma:?}");
        let start = sampler.state_from_noise(&normal(&[2, 8], 5), &trajectory).unwrap();
        let image = sampler.generate(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
        let back = sampler.invert(&image, &trajectory, &model, &0.2, &mut ()).unwrap();
        assert!(max_difference(back.latents(), start.latents()) < bound, "{gamma:?}");
        // Keeping one latent of the two is not enough.
        let alone = sampler.state_from_noise(noise.latents(), &trajectory).unwrap();
        let lost = sampler.generate(&alone, &trajectory, &model, &0.2, &mut ()).unwrap();
        assert!(max_difference(lost.latents(), start.latents()) > 1e6 * bound, "{gamma:?}");
    }
}

#[test]
fn a_run_of_n_steps_calls_the_network_n_times_and_once_less_from_a_pair() {
    for (offset, wide) in [(1, 20), (0, 19)] {
        let trajectory = any_trajectory(20, 1.0, offset, false);
        let model = Spy::new(TanhNetwork::new(8, 5));
        let sampler = LatticeTwoStep::default();
        let start = sampler.state_from_image(&normal(&[1, 8], 1), &trajectory).unwrap();
        let noise = sampler.invert(&start, &trajectory, &model, &0.2, &mut ()).unwrap();
        let mut inverting = model.take();
        assert_eq!(inverting.len(), wide);
        sampler.generate(&noise, &trajectory, &model, &0.2, &mut ()).unwrap();
        // The same questions in reverse; the first of inversion, at the image, is not asked again.
        let generating = model.take();
        inverting.reverse();
        assert_eq!(generating[..], inverting[..wide - 1]);
        let fresh = sampler.state_from_noise(&normal(&[1, 8], 1), &trajectory).unwrap();
        sampler.generate(&fresh, &trajectory, &model, &0.2, &mut ()).unwrap();
        assert_eq!(model.take().len(), wide);
    }
}

#[test]
fn what_cannot_be_used_is_refused() {
    for gamma in [0.0, -1.0, 1.01, f64::NAN] {
        assert!(TwoStep::new(TwoStepRule::Bdia { gamma }).is_err(), "{gamma}");
    }
    let tiny = TwoStep::new(TwoStepRule::Bdia { gamma: 1e-300 }).unwrap();
    assert_eq!(LatticeTwoStep::new(tiny), Err(ConfigError::LatticeGamma(1e-300)));
    let (a, b) = (normal(&[1, 8], 1), normal(&[2, 8], 1));
    assert!(matches!(Neighbours::new(a.clone(), 0, b, 0), Err(StateError::PairShape { .. })));
    let (trajectory, model) = (any_trajectory(10, 1.0, 1, false), TanhNetwork::new(8, 5));
    let far = Neighbours::new(a.clone(), 0, a.clone(), 5).unwrap();
    let error = TwoStep::default().generate(&far, &trajectory, &model, &0.0, &mut ()).unwrap_err();
    assert!(matches!(error, SampleError::State(StateError::Level { .. })), "{error}");
    let nan = TwoStep::default().state_from_image(&(a * f64::NAN), &trajectory).unwrap();
    let error = TwoStep::default().invert(&nan, &trajectory, &model, &0.0, &mut ()).unwrap_err();
    assert!(matches!(error, SampleError::State(StateError::NonFinite { .. })), "{error}");
}
