//! What a sampler asks of the model, and what it does with bad answers and stops.

mod common;

use std::ops::ControlFlow;

use common::*;
use edict_core::*;
use edict_testkit::{Elementwise, Spy, TanhNetwork, normal};
use proptest::prelude::*;

fn spy() -> Spy<TanhNetwork> {
    Spy::new(TanhNetwork::new(8, 2))
}

proptest! {
    #[test]
    fn edict_calls_twice_and_ddim_once_a_step(steps in 1usize..=40, strength in 0.0..=1.0, seed: u64) {
        let (model, trajectory) = (spy(), trajectory(steps, strength));
        let (sampler, image) = (Edict::default(), normal(&[3, 8], seed));
        let told = |calls: Vec<edict_testkit::Call>| calls.into_iter().map(|c| c.timestep).collect::<Vec<_>>();
        let once: Vec<_> = trajectory.steps().iter().map(Step::timestep).collect();
        let twice: Vec<_> = once.iter().flat_map(|t| [*t, *t]).collect();
        let reversed = |mut t: Vec<Timestep>| { t.reverse(); t };

        let pair = sampler.invert(&CoupledPair::equal_to(&image), &trajectory, &model, &0.1, &mut ()).unwrap();
        prop_assert_eq!(told(model.take()), reversed(twice.clone()));
        sampler.generate(&pair, &trajectory, &model, &0.1, &mut ()).unwrap();
        prop_assert_eq!(told(model.take()), twice);
        let noise = Ddim.invert(&image, &trajectory, &model, &0.1, &mut ()).unwrap();
        prop_assert_eq!(told(model.take()), reversed(once.clone()));
        Ddim.generate(&noise, &trajectory, &model, &0.1, &mut ()).unwrap();
        prop_assert_eq!(told(model.take()), once);
    }
}

#[test]
fn a_transition_without_width_does_not_call_the_network() {
    let model = spy();
    let trajectory = Trajectory::builder(10).build(&schedule()).unwrap();
    let last = trajectory.steps()[9];
    assert_eq!((last.timestep(), last.coefficients()), (Timestep::new(0), (1.0, 0.0)));
    let pair = CoupledPair::equal_to(&normal(&[1, 8], 1));
    let noise = Edict::default().invert(&pair, &trajectory, &model, &0.0, &mut ()).unwrap();
    assert_eq!(model.take().len(), 18);
    Edict::default().generate(&noise, &trajectory, &model, &0.0, &mut ()).unwrap();
    assert_eq!(model.take().len(), 18);
    Ddim.invert(&pair.x, &trajectory, &model, &0.0, &mut ()).unwrap();
    assert_eq!(model.take().len(), 9);
}

#[test]
fn guidance_asks_for_pairs_except_where_one_condition_suffices() {
    let z = normal(&[2, 8], 4);
    let condition = Guidance { positive: 0.7, negative: -0.7 };
    let model = spy();
    let [p, n] = model.predict_pair(z.view(), Timestep::new(500), [&0.7, &-0.7]).unwrap();
    model.take();
    let scale = GuidanceScale::interval(3.0, 200, 600).unwrap();
    for (scale, t, expected, conditions) in [
        (GuidanceScale::constant(1.0).unwrap(), 500, p.clone(), 1),
        (GuidanceScale::constant(0.0).unwrap(), 500, n.clone(), 1),
        (GuidanceScale::constant(2.5).unwrap(), 500, &n + &((&p - &n) * 2.5), 2),
        (scale.clone(), 500, &n + &((&p - &n) * 3.0), 2),
        (GuidanceScale::function(|t| t.get() as f64 / 100.0), 500, &n + &((&p - &n) * 5.0), 2),
    ] {
        let guided = Guided::new(&model, scale);
        let eps = guided.predict(z.view(), Timestep::new(t), &condition).unwrap();
        assert_eq!(bits(&eps), bits(&expected));
        let calls = model.take();
        assert_eq!((calls.len(), calls[0].conditions), (1, conditions));
    }
    let guided = Guided::new(&model, scale);
    for (t, conditions) in [(0, 1), (199, 1), (200, 2), (600, 2), (601, 1), (999, 1)] {
        guided.predict(z.view(), Timestep::new(t), &condition).unwrap();
        assert_eq!(model.take()[0].conditions, conditions, "timestep {t}");
    }
}

#[test]
fn predictors_work_behind_pointers_and_as_objects() {
    let z = normal(&[1, 8], 4);
    let model = TanhNetwork::new(8, 2);
    let expected = bits(&model.predict(z.view(), Timestep::new(3), &0.1).unwrap());
    let reference = &model;
    let shared = std::sync::Arc::new(model.clone());
    let boxed: Box<dyn NoisePredictor<Condition = f64, Error = ndarray::ShapeError>> =
        Box::new(model.clone());
    assert_eq!(bits(&reference.predict(z.view(), Timestep::new(3), &0.1).unwrap()), expected);
    assert_eq!(bits(&shared.predict(z.view(), Timestep::new(3), &0.1).unwrap()), expected);
    assert_eq!(bits(&boxed.predict(z.view(), Timestep::new(3), &0.1).unwrap()), expected);
    let start = CoupledPair::equal_to(&z);
    Edict::default().invert(&start, &trajectory(3, 1.0), &*boxed, &0.1, &mut ()).unwrap();
    let fallible = FnPredictor::new(|_: ndarray::ArrayViewD<'_, f64>, _, _: &()| {
        Err::<Latents, _>(std::io::Error::other("out of memory"))
    });
    let error = Ddim.invert(&z, &trajectory(3, 1.0), &fallible, &(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "prediction failed at step 2 (timestep 1)");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "out of memory");
}

#[test]
fn velocity_and_sample_predictions_become_noise() {
    let schedule = schedule();
    let (x0, eps) = (normal(&[1, 16], 1), normal(&[1, 16], 2));
    for t in [0, 1, 500, 999] {
        let bar = schedule.alpha_bars()[t];
        let (alpha, sigma) = (bar.sqrt(), (1.0 - bar).sqrt());
        let z = &x0 * alpha + &eps * sigma;
        let velocity = &eps * alpha - &x0 * sigma;
        let from_velocity =
            VelocityPredictor::new(FnPredictor::new(|_, _, _: &()| velocity.clone()), schedule.clone());
        let from_sample = SamplePredictor::new(FnPredictor::new(|_, _, _: &()| x0.clone()), schedule.clone());
        let t = Timestep::new(t);
        // alpha v + sigma z = (alpha^2 + sigma^2) eps: a handful of roundings of size |z|; the other divides by sigma.
        let bound = 16.0 * f64::EPSILON * largest(&z).max(1.0);
        assert!(max_difference(&from_velocity.predict(z.view(), t, &()).unwrap(), &eps) <= bound);
        assert!(max_difference(&from_sample.predict(z.view(), t, &()).unwrap(), &eps) <= bound / sigma);
        let [a, b] = from_velocity.predict_pair(z.view(), t, [&(), &()]).unwrap();
        assert_eq!(bits(&a), bits(&b));
    }
    let outside =
        VelocityPredictor::new(FnPredictor::new(|z, _, _: &()| -> Latents { z.to_owned() }), schedule);
    let error = outside.predict(x0.view(), Timestep::new(1000), &()).unwrap_err();
    assert_eq!(error.to_string(), "timestep 1000 is outside training (0 to 999)");
}

#[test]
fn a_coupled_sampler_inverts_velocity_models_too() {
    let model = VelocityPredictor::new(TanhNetwork::new(8, 2), schedule());
    let sampler = Edict::default();
    let run = trajectory(25, 0.8);
    let (error, largest) = image_round_trip(&sampler, &sampler, &normal(&[2, 8], 3), &run, &model, &0.2);
    assert!(error <= edict_testkit::tolerance::image_round_trip(20, largest), "{error:e}");
}

#[test]
fn a_prediction_that_is_not_finite_stops_the_run_and_names_the_step() {
    let run = trajectory(10, 1.0);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for at in 0..10 {
            let timestep = run.steps()[at].timestep();
            let model = Elementwise(
                move |z: f64, t: Timestep, _: f64| {
                    if t == timestep && z != 0.5 { bad } else { 0.0 }
                },
            );
            let image = normal(&[1, 4], 1);
            let start = CoupledPair::equal_to(&image);
            for result in [
                Edict::default().invert(&start, &run, &model, &0.0, &mut ()),
                Edict::default().generate(&start, &run, &model, &0.0, &mut ()),
            ] {
                match result.unwrap_err() {
                    SampleError::Step(StepError::NonFinite { step, timestep: t }) => {
                        assert_eq!((step, t), (at, timestep));
                    }
                    other => panic!("{other}"),
                }
            }
            let error = Ddim.generate(&image, &run, &model, &0.0, &mut ()).unwrap_err().to_string();
            assert!(error.starts_with(&format!(
                "step {at} (timestep {timestep}) leads to values that are not finite"
            )));
        }
    }
}

#[test]
fn latents_that_grow_out_of_range_stop_the_run_too() {
    // A network that stays finite whatever it is given: only the inversion of the mixing overflows.
    let model = Elementwise(|_: f64, _: Timestep, _: f64| 0.0);
    let start = CoupledPair { x: normal(&[1, 4], 1), y: normal(&[1, 4], 2) };
    let sampler = edict(1e-3, UpdateOrder::Leapfrog);
    let error = sampler.invert(&start, &trajectory(60, 1.0), &model, &0.0, &mut ()).unwrap_err();
    assert!(matches!(error, SampleError::Step(StepError::NonFinite { step: 1..=59, .. })), "{error}");
}

#[test]
fn a_guided_run_makes_two_calls_a_step_and_four_evaluations() {
    let (model, run, sampler) = (spy(), trajectory(25, 0.8), Edict::default());
    let condition = Guidance { positive: 0.7, negative: -0.7 };
    for (scale, evaluations) in [(3.0, 4), (1.0, 2)] {
        let guided = Guided::new(&model, GuidanceScale::constant(scale).unwrap());
        let start = CoupledPair::equal_to(&normal(&[2, 8], 3));
        let noise = sampler.invert(&start, &run, &guided, &condition, &mut ()).unwrap();
        let inverting = model.take();
        sampler.generate(&noise, &run, &guided, &condition, &mut ()).unwrap();
        for calls in [inverting, model.take()] {
            assert_eq!(calls.len(), 2 * 20);
            assert_eq!(calls.iter().map(|call| call.conditions).sum::<usize>(), evaluations * 20);
        }
    }
}

#[test]
fn misshapen_predictions_and_states_are_refused() {
    let model = FnPredictor::new(|_, _, _: &()| Latents::zeros(vec![1, 3]));
    let image = normal(&[1, 4], 1);
    let start = CoupledPair::equal_to(&image);
    let error = Edict::default().invert(&start, &trajectory(5, 1.0), &model, &(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "prediction at step 4 should have the latents' shape [1, 4], found [1, 3]");
    let odd = CoupledPair { x: image.clone(), y: normal(&[4], 1) };
    let error = Edict::default().invert(&odd, &trajectory(5, 1.0), &model, &(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "the pair's latents must have one shape, found [1, 4] and [4]");
    let mut nan = image.clone();
    nan[[0, 2]] = f64::NAN;
    let pair = CoupledPair { x: image, y: nan.clone() };
    let error = Edict::default().generate(&pair, &trajectory(5, 1.0), &model, &(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "latents must be finite, found a value that is not in `y`");
    let error = Ddim.generate(&nan, &trajectory(5, 1.0), &model, &(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "latents must be finite, found a value that is not in `z`");
}

proptest! {
    #[test]
    fn a_stopped_run_hands_its_state_back_and_continues_to_the_same_bits(
        steps in 2usize..=30, stop in 0usize..30, invert: bool, seed: u64,
    ) {
        let stop = stop % steps;
        let (model, sampler, run) = (TanhNetwork::new(8, 2), Edict::default(), trajectory(steps, 1.0));
        let start = CoupledPair { x: normal(&[1, 8], seed), y: normal(&[1, 8], !seed) };
        let mut seen = 0;
        let mut observer = |step: &Step, _: &CoupledPair| {
            seen += 1;
            if step.index() == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let go = |from: &CoupledPair, run: &Trajectory, observer: &mut dyn Observer<CoupledPair>| {
            if invert {
                sampler.invert(from, run, &model, &0.2, observer)
            } else {
                sampler.generate(from, run, &model, &0.2, observer)
            }
        };
        let whole = go(&start, &run, &mut ()).unwrap();
        let last = if invert { 0 } else { steps - 1 };
        let end = match go(&start, &run, &mut observer) {
            // Nothing is left to stop after the last step.
            Ok(end) => { prop_assert_eq!(stop, last); end }
            Err(SampleError::Stopped { state, level }) => {
                prop_assert_eq!(level, if invert { stop } else { stop + 1 });
                let (noisy, clean) = run.split_at(level).unwrap();
                go(&state, if invert { &noisy } else { &clean }, &mut ()).unwrap()
            }
            Err(other) => panic!("{other}"),
        };
        prop_assert_eq!(seen, if invert { steps - stop } else { stop + 1 });
        prop_assert_eq!(pair_bits(&end), pair_bits(&whole));
    }
}
