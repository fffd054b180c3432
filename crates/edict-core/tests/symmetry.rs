//! Symmetries that hold bit for bit.

mod common;

use common::*;
use edict_core::*;
use edict_testkit::{Elementwise, TanhNetwork, normal};
use proptest::prelude::*;

proptest! {
    #[test]
    fn with_weight_1_exchanging_the_pair_and_the_order_exchanges_the_outputs(steps in 1usize..=40, seed: u64) {
        let model = TanhNetwork::new(8, 3);
        let pair = CoupledPair { x: normal(&[2, 8], seed), y: normal(&[2, 8], !seed) };
        let exchanged = CoupledPair { x: pair.y.clone(), y: pair.x.clone() };
        // Same transitions, every index of the other parity: leapfrog with the order flipped.
        let timesteps: Vec<_> = trajectory(steps, 1.0).steps().iter().map(Step::timestep).collect();
        let flipped = std::iter::once(Timestep::new(timesteps[0].get() + 1)).chain(timesteps.clone());
        let run = Trajectory::from_timesteps(&schedule(), timesteps, 1.0).unwrap();
        let (_, flipped) = Trajectory::from_timesteps(&schedule(), flipped, 1.0).unwrap().split_at(1).unwrap();

        let run_with = |p, pair: &CoupledPair, run: &Trajectory| {
            edict(p, UpdateOrder::Leapfrog).generate(pair, run, &model, &0.3, &mut ()).unwrap()
        };
        let (a, b) = (run_with(1.0, &pair, &run), run_with(1.0, &exchanged, &flipped));
        prop_assert_eq!(bits(&a.x), bits(&b.y));
        prop_assert_eq!(bits(&a.y), bits(&b.x));
        // The mixing is always x first, so below 1 the symmetry is gone.
        let (a, b) = (run_with(0.93, &pair, &run), run_with(0.93, &exchanged, &flipped));
        prop_assert_ne!(bits(&a.x), bits(&b.y));
    }

    #[test]
    fn a_homogeneous_network_scales_by_powers_of_two(steps in 1usize..=40, exponent in -20i32..=20, seed: u64) {
        let model = Elementwise(|z: f64, t: Timestep, c: f64| c * z.abs() + z * (1e-3 * t.get() as f64));
        let factor = 2f64.powi(exponent);
        let pair = CoupledPair { x: normal(&[1, 16], seed), y: normal(&[1, 16], !seed) };
        let scaled = CoupledPair { x: &pair.x * factor, y: &pair.y * factor };
        let (sampler, trajectory) = (Edict::default(), trajectory(steps, 1.0));
        for invert in [false, true] {
            let run = |pair| if invert {
                sampler.invert(pair, &trajectory, &model, &0.4, &mut ()).unwrap()
            } else {
                sampler.generate(pair, &trajectory, &model, &0.4, &mut ()).unwrap()
            };
            let (plain, large) = (run(&pair), run(&scaled));
            prop_assert_eq!(bits(&(plain.x * factor)), bits(&large.x));
            prop_assert_eq!(bits(&(plain.y * factor)), bits(&large.y));
        }
    }

    #[test]
    fn an_odd_network_keeps_the_sign_symmetry(steps in 1usize..=40, seed: u64) {
        let model = Elementwise(|z: f64, t: Timestep, c: f64| (c * z).tanh() + z / (1.0 + t.get() as f64));
        let pair = CoupledPair { x: normal(&[1, 16], seed), y: normal(&[1, 16], !seed) };
        let negated = CoupledPair { x: -&pair.x, y: -&pair.y };
        let (sampler, trajectory) = (Edict::default(), trajectory(steps, 1.0));
        for invert in [false, true] {
            let run = |pair| if invert {
                sampler.invert(pair, &trajectory, &model, &2.0, &mut ()).unwrap()
            } else {
                sampler.generate(pair, &trajectory, &model, &2.0, &mut ()).unwrap()
            };
            let (plain, mirrored) = (run(&pair), run(&negated));
            prop_assert_eq!(bits(&-plain.x), bits(&mirrored.x));
            prop_assert_eq!(bits(&-plain.y), bits(&mirrored.y));
        }
    }
}
