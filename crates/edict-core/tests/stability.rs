//! Reports before a run, records of one, and the check that a network is deterministic.

mod common;

use common::*;
use edict_core::*;
use edict_testkit::{TanhNetwork, normal};
use ndarray::ArrayViewD;

#[test]
fn lost_bits_follow_the_published_laws() {
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    // Auto keeps p^n: 2 * 50 * log2(1 / 0.93) bits at any number of steps.
    for steps in [10, 50, 250] {
        let run = trajectory(steps, 1.0);
        assert!(close(Stability::edict(&Edict::default(), &run).lost_bits(), 100.0 * (1.0f64 / 0.93).log2()));
        let bdia = TwoStep::new(TwoStepRule::Bdia { gamma: 0.5 }).unwrap();
        assert!(close(Stability::two_step(&bdia, &run).lost_bits(), (steps - 1) as f64));
        let p = Stability::holding_weight(&run, 43.0);
        assert!(close(Stability::edict(&edict(p, UpdateOrder::Fixed), &run).lost_bits(), 43.0));
    }
    assert_eq!(Stability::edict(&edict(1.0, UpdateOrder::Fixed), &trajectory(50, 1.0)).lost_bits(), 0.0);
    assert_eq!(Stability::holding_weight(&trajectory(50, 0.0), 43.0), 1.0);
    let none = Stability::two_step(&TwoStep::default(), &trajectory(50, 0.0));
    assert_eq!((none.lost_bits(), none.expected_error(1e-16)), (0.0, 0.0));
}

#[test]
fn growth_of_belm_is_what_its_inversion_does() {
    // Without noise the update is linear: inversion multiplies an error in the older of two latents step by step.
    for (steps, published) in [(10, 1600.0), (50, 92.0), (100, 24.0)] {
        let run = trajectory(steps, 1.0);
        let model = FnPredictor::new(|z: ArrayViewD<'_, f64>, _, _: &()| -> Latents { z.mapv(|_| 0.0) });
        let (zero, one) = (Latents::zeros(vec![1, 1]), Latents::ones(vec![1, 1]));
        // Every other latent stays zero if the one between is put back to zero.
        let mut error = one;
        for index in (1..steps).rev() {
            let state = Neighbours::new(zero.clone(), index, error.clone(), index).unwrap();
            let (_, piece) = run.split_at(index - 1).unwrap();
            let (step, _) = piece.split_at(index).unwrap();
            error = TwoStep::default().invert(&state, &step, &model, &(), &mut ()).unwrap().latents().clone();
        }
        let growth = Stability::two_step(&TwoStep::default(), &run).lost_bits().exp2();
        assert!((error[[0, 0]] / growth - 1.0).abs() < 1e-9, "{error} {growth}");
        // Two significant digits are known.
        assert!((growth / published - 1.0).abs() < 0.05, "{steps}: {growth}");
    }
}

#[test]
fn latents_of_single_precision_lose_what_they_must() {
    // Rounding to 24 bits: the error of f64 times 2^29, within a factor for the path it takes.
    let (model, run, image) = (TanhNetwork::new(8, 5), trajectory(50, 1.0), normal(&[2, 8], 3));
    let image = image.mapv(|v| f64::from(v as f32));
    let sampler = SinglePrecision(Edict::default());
    let start = sampler.state_from_image(&image, &run).unwrap();
    let noise = sampler.invert(&start, &run, &model, &0.2, &mut ()).unwrap();
    let back = sampler.generate(&noise, &run, &model, &0.2, &mut ()).unwrap();
    let error = pair_difference(&back, &start);
    let (double, _) = image_round_trip(&Edict::default(), &Edict::default(), &image, &run, &model, &0.2);
    let ratio = error / double / 2f64.powi(29);
    assert!((0.01..100.0).contains(&ratio), "{error:e} {double:e}");
    assert!(noise.x.iter().all(|v| f64::from(*v as f32) == *v));
}

#[test]
fn a_record_tells_runs_apart_and_reads_backwards() {
    let (run, image) = (trajectory(10, 1.0), normal(&[2, 8], 3));
    let sampler = LatticeEdict::default();
    let model = Recorded::new(TanhNetwork::new(8, 5));
    let start = sampler.state_from_image(&image, &run).unwrap();
    let noise = sampler.invert(&start, &run, &model, &0.2, &mut ()).unwrap();
    let inverting = model.hashes();
    sampler.generate(&noise, &run, &model, &0.2, &mut ()).unwrap();
    let mut generating = model.hashes().split_off(inverting.len());
    generating.reverse();
    assert_eq!(generating, inverting);
    assert_eq!(inverting.len(), 20);
    let other = Recorded::new(TanhNetwork::new(8, 5));
    sampler.generate(&noise, &run, &other, &0.3, &mut ()).unwrap();
    // Every answer of another prompt is another.
    assert!(other.hashes().iter().zip(inverting.iter().rev()).all(|(a, b)| a != b));
}

#[test]
fn a_network_that_answers_differently_is_found_out() {
    let image = normal(&[2, 8], 3);
    let ask = |model: &dyn NoisePredictor<Condition = f64, Error = std::convert::Infallible>| {
        check_deterministic(model, image.view(), Timestep::new(7), &0.2)
    };
    let calls = std::cell::Cell::new(0);
    // One element of one answer is off by the smallest amount there is.
    let flaky = FnPredictor::new(|z: ArrayViewD<'_, f64>, _: Timestep, _: &f64| -> Latents {
        let mut out = z.to_owned();
        if calls.replace(calls.get() + 1) == 1 {
            out[[1, 3]] = out[[1, 3]].next_up();
        }
        out
    });
    match ask(&flaky).unwrap_err() {
        DeterminismError::Differs { different: 1, total: 16, largest } => {
            assert!(largest > 0.0 && largest < 1e-15);
        }
        other => panic!("{other}"),
    }
    assert_eq!(calls.get(), 2);
    let steady =
        FnPredictor::new(|z: ArrayViewD<'_, f64>, _: Timestep, c: &f64| -> Latents { z.mapv(|v| v * c) });
    ask(&steady).unwrap();
}
