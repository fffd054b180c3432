//! Runs whose result is known without running them.

mod common;

use common::*;
use edict_core::*;
use edict_testkit::{Elementwise, GaussianData, normal, tolerance};
use proptest::prelude::*;

type Model = Elementwise<fn(f64, Timestep, f64) -> f64>;

const SILENT: Model = Elementwise(|_, _, _| 0.0);

proptest! {
    #[test]
    fn without_noise_an_equal_pair_is_scaled(steps in 1usize..=60, strength in 0.05..=1.0, p in 0.85..=1.0, seed: u64) {
        let trajectory = trajectory(steps, strength);
        prop_assume!(!trajectory.is_empty());
        let (first, last) = (trajectory.steps()[0], trajectory.steps()[trajectory.len() - 1]);
        let gain = (last.alpha_bar_to() / first.alpha_bar_from()).sqrt();
        let noise = normal(&[1, 12], seed);
        let sampler = edict(p, UpdateOrder::Leapfrog);
        let image = sampler.generate(&CoupledPair::equal_to(&noise), &trajectory, &SILENT, &0.0, &mut ()).unwrap();
        let expected = &noise * gain;
        // Per step and latent: a, its product, three operations of the mixing.
        let bound = tolerance::accumulated(5 * trajectory.len(), largest(&expected).max(largest(&noise)));
        prop_assert!(max_difference(&image.x, &expected) <= bound);
        prop_assert!(max_difference(&image.y, &expected) <= bound);
    }

    #[test]
    fn without_noise_sum_and_difference_scale_by_their_own_factors(
        steps in 1usize..=60, p in 0.85..=1.0, seed: u64,
    ) {
        let trajectory = trajectory(steps, 1.0);
        let n = trajectory.len();
        let gain = (trajectory.steps()[n - 1].alpha_bar_to() / trajectory.steps()[0].alpha_bar_from()).sqrt();
        let start = CoupledPair { x: normal(&[1, 12], seed), y: normal(&[1, 12], !seed) };
        let end = edict(p, UpdateOrder::Leapfrog).generate(&start, &trajectory, &SILENT, &0.0, &mut ()).unwrap();
        let largest = [&start.x, &start.y, &end.x, &end.y].map(largest).into_iter().fold(0.0, f64::max);
        let bound = tolerance::accumulated(10 * n, largest);

        let sum = |pair: &CoupledPair| &pair.x * p + &pair.y;
        prop_assert!(max_difference(&sum(&end), &(sum(&start) * gain)) <= bound);
        let factor = gain * p.powi(2 * n as i32);
        let difference = |pair: &CoupledPair| &pair.x - &pair.y;
        prop_assert!(max_difference(&difference(&end), &(difference(&start) * factor)) <= bound);
    }

    #[test]
    fn mixing_alone_keeps_p_x_plus_y_and_contracts_the_difference(p in 0.01..=1.0, seed: u64) {
        // Offset 0 and the default final alpha-bar: the last transition has no width and leaves the mixing alone.
        let run = Trajectory::builder(10).build(&schedule()).unwrap();
        let (_, last) = run.split_at(9).unwrap();
        prop_assert_eq!(last.steps()[0].coefficients(), (1.0, 0.0));
        let start = CoupledPair { x: normal(&[1, 12], seed), y: normal(&[1, 12], !seed) };
        let sampler = edict(p, UpdateOrder::Fixed);
        let end = sampler.generate(&start, &last, &SILENT, &0.0, &mut ()).unwrap();
        let bound = tolerance::accumulated(8, largest(&start.x) + largest(&start.y));
        prop_assert!(max_difference(&(&end.x * p + &end.y), &(&start.x * p + &start.y)) <= bound);
        prop_assert!(max_difference(&(&end.x - &end.y), &((&start.x - &start.y) * (p * p))) <= bound);

        let equal = CoupledPair::equal_to(&start.x);
        let mixed = sampler.generate(&equal, &last, &SILENT, &0.0, &mut ()).unwrap();
        prop_assert!(pair_difference(&mixed, &equal) <= tolerance::accumulated(4, largest(&start.x)));
    }

    #[test]
    fn when_noise_depends_on_time_alone_both_chains_are_ddims(steps in 1usize..=60, p in 0.85..=1.0, seed: u64) {
        let model: Model = Elementwise(|_, t, c| (0.01 * t.get() as f64 + c).cos());
        let trajectory = trajectory(steps, 1.0);
        let noise = normal(&[1, 12], seed);
        let sampler = edict(p, UpdateOrder::Leapfrog);
        let pair = sampler.generate(&CoupledPair::equal_to(&noise), &trajectory, &model, &0.4, &mut ()).unwrap();
        let ddim = Ddim.generate(&noise, &trajectory, &model, &0.4, &mut ()).unwrap();
        let bound = tolerance::accumulated(12 * steps, largest(&ddim).max(largest(&noise)));
        prop_assert!(max_difference(&pair.x, &ddim) <= bound);
        prop_assert!(max_difference(&pair.y, &ddim) <= bound);
        // Then DDIM's inversion approximates nothing either.
        let back = Ddim.invert(&ddim, &trajectory, &model, &0.4, &mut ()).unwrap();
        prop_assert!(max_difference(&back, &noise) <= bound);
    }

    #[test]
    fn a_linear_network_gives_the_product_of_its_step_matrices(
        steps in 1usize..=60, p in 0.85..=1.0, slope in -1.0..1.0, leapfrog: bool,
    ) {
        let model = Elementwise(|z: f64, t: Timestep, slope: f64| slope * z * (1.0 + t.get() as f64 * 1e-3));
        let order = if leapfrog { UpdateOrder::Leapfrog } else { UpdateOrder::Fixed };
        let trajectory = trajectory(steps, 1.0);

        // The matrix that takes (x, y) to (x', y'), from the method's four lines.
        let multiply = |m: [[f64; 2]; 2], n: [[f64; 2]; 2]| {
            [0, 1].map(|i| [0, 1].map(|j| m[i][0] * n[0][j] + m[i][1] * n[1][j]))
        };
        let mut product = [[1.0, 0.0], [0.0, 1.0]];
        let mut magnitude: f64 = 1.0;
        for (i, step) in trajectory.steps().iter().enumerate() {
            let (a, b) = step.coefficients();
            let coupling = b * slope * (1.0 + step.timestep().get() as f64 * 1e-3);
            let update_x = [[a, coupling], [0.0, 1.0]];
            let update_y = [[1.0, 0.0], [coupling, a]];
            let mix_x = [[p, 1.0 - p], [0.0, 1.0]];
            let mix_y = [[1.0, 0.0], [1.0 - p, p]];
            let x_first = !leapfrog || i % 2 == 0;
            let updates = if x_first { [update_x, update_y] } else { [update_y, update_x] };
            for m in updates.into_iter().chain([mix_x, mix_y]) {
                product = multiply(m, product);
                magnitude = magnitude.max(product.iter().flatten().fold(0.0, |m, v| m.max(v.abs())));
            }
        }
        // One run with the unit vectors as its two elements reads off the whole matrix.
        let unit = |v: [f64; 2]| ndarray::arr1(&v).insert_axis(ndarray::Axis(0)).into_dyn();
        let start = CoupledPair { x: unit([1.0, 0.0]), y: unit([0.0, 1.0]) };
        let end = edict(p, order).generate(&start, &trajectory, &model, &slope, &mut ()).unwrap();
        let found = [[end.x[[0, 0]], end.x[[0, 1]]], [end.y[[0, 0]], end.y[[0, 1]]]];
        let bound = tolerance::accumulated(16 * steps, magnitude);
        for i in 0..2 {
            for j in 0..2 {
                prop_assert!((found[i][j] - product[i][j]).abs() <= bound, "{:?} {:?}", found, product);
            }
        }
        let bars = (trajectory.steps()[steps - 1].alpha_bar_to(), trajectory.steps()[0].alpha_bar_from());
        let determinant = found[0][0] * found[1][1] - found[0][1] * found[1][0];
        let expected = p.powi(2 * steps as i32) * bars.0 / bars.1;
        prop_assert!((determinant - expected).abs() <= 4.0 * bound * magnitude, "{determinant} {expected}");
    }
}

#[test]
fn converges_to_the_closed_form_solution_of_gaussian_data_at_first_order() {
    let model = GaussianData::new(schedule(), 0.5);
    let noise = normal(&[1, 64], 11);
    let errors: Vec<(usize, f64)> = [50, 100, 250, 500, 999]
        .into_iter()
        .map(|steps| {
            let trajectory = trajectory(steps, 1.0);
            let sampler = Edict::default();
            let start = CoupledPair::equal_to(&noise);
            let end = sampler.generate(&start, &trajectory, &model, &0.0, &mut ()).unwrap();
            let first = trajectory.steps()[0].alpha_bar_from();
            let last = trajectory.steps()[steps - 1].alpha_bar_to();
            let exact = &noise * (model.latent_std(last) / model.latent_std(first));
            (steps, max_difference(&end.x, &exact) / largest(&exact))
        })
        .collect();
    for pair in errors.windows(2) {
        let [(n, coarse), (m, fine)] = [pair[0], pair[1]];
        let order = (coarse / fine).ln() / (m as f64 / n as f64).ln();
        // First order, with room for the higher terms that coarse runs still have.
        assert!((0.75..1.35).contains(&order), "order {order} from {n} to {m} steps; errors {errors:?}");
    }
    assert!(errors[4].1 < 0.01, "{errors:?}");
}
