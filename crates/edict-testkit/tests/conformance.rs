//! The conformance checks: sound predictors pass, and each check finds what it is for.

use std::cell::Cell;
use std::convert::Infallible;

use edict_core::*;
use edict_testkit::conformance::*;
use edict_testkit::{Discontinuous, Elementwise, Mixture, Rounded, Rounding, TanhNetwork, normal};
use ndarray::{ArrayViewD, Axis, Slice, array};

type Error = ConformanceError<Infallible>;

fn schedule() -> NoiseSchedule {
    NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).unwrap()
}

fn latents() -> Latents {
    normal(&[2, 8], 3)
}

/// An elementwise network: sound, and what the broken ones below are made of.
fn answer(z: ArrayViewD<'_, f64>, t: Timestep, c: f64) -> Latents {
    z.mapv(|z| (z + c).sin() + t.get() as f64 / 1000.0)
}

/// A predictor that breaks its promise in the way of a closure, which is given the number of the call, and of another for pairs.
struct Broken<F, G> {
    predict: F,
    pair: G,
    calls: Cell<usize>,
}

impl<F, G> NoisePredictor for Broken<F, G>
where
    F: Fn(ArrayViewD<'_, f64>, Timestep, f64, usize) -> Latents,
    G: Fn([Latents; 2]) -> [Latents; 2],
{
    type Condition = f64;
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, t: Timestep, c: &f64) -> Result<Latents, Infallible> {
        Ok((self.predict)(z, t, *c, self.calls.replace(self.calls.get() + 1)))
    }

    fn predict_pair(
        &self,
        z: ArrayViewD<'_, f64>,
        t: Timestep,
        [first, second]: [&f64; 2],
    ) -> Result<[Latents; 2], Infallible> {
        Ok((self.pair)([self.predict(z.view(), t, first)?, self.predict(z, t, second)?]))
    }
}

fn broken(
    predict: impl Fn(ArrayViewD<'_, f64>, Timestep, f64, usize) -> Latents,
) -> impl NoisePredictor<Condition = f64, Error = Infallible> {
    Broken { predict, pair: |pair| pair, calls: Cell::new(0) }
}

fn broken_pair(
    pair: impl Fn([Latents; 2]) -> [Latents; 2],
) -> impl NoisePredictor<Condition = f64, Error = Infallible> {
    Broken { predict: |z: ArrayViewD<'_, f64>, t, c, _| answer(z, t, c), pair, calls: Cell::new(0) }
}

fn check(
    model: &impl NoisePredictor<Condition = f64, Error = Infallible>,
    tolerances: Tolerances,
) -> Result<(), Error> {
    check_predictor(model, &schedule(), latents().view(), &0.3, Some(&-0.5), tolerances)
}

/// The error of a model that the whole suite must find, with its message as a sentence.
#[track_caller]
fn error(model: &impl NoisePredictor<Condition = f64, Error = Infallible>) -> Error {
    let error = check(model, Tolerances::BITWISE).expect_err("a broken predictor passes");
    println!("{error}");
    error
}

#[test]
fn sound_predictors_pass() {
    check(&Discontinuous, Tolerances::BITWISE).unwrap();
    check(&Elementwise(|z: f64, t: Timestep, c: f64| (z + c).tanh() * t.get() as f64), Tolerances::BITWISE)
        .unwrap();
    let (schedule, latents) = (schedule(), latents());
    let network = TanhNetwork::new(8, 5);
    check_predictor(&network, &schedule, latents.view(), &0.3, None, Tolerances::BITWISE).unwrap();
    for rounding in [Rounding::F32, Rounding::F16, Rounding::BF16] {
        let network = Rounded::new(network.clone(), rounding);
        let dynamic: &dyn NoisePredictor<Condition = f64, Error = _> = &network;
        check_predictor(dynamic, &schedule, latents.view(), &0.3, Some(&-0.5), Tolerances::BITWISE).unwrap();
    }
    let means = array![[1.0, 0.0], [-1.0, 0.5]];
    let mixture = Mixture::new(schedule.clone(), means, 0.3);
    let plane = normal(&[1, 2], 4);
    check_predictor(&mixture, &schedule, plane.view(), &Some(1), Some(&None), Tolerances::BITWISE).unwrap();
    // As short a schedule as there is.
    let short = NoiseSchedule::from_betas(&[0.01]).unwrap();
    check_predictor(&network, &short, latents.view(), &0.3, None, Tolerances::BITWISE).unwrap();
}

#[test]
fn a_shape_that_is_not_the_latents_is_found() {
    let model = broken(|z, t, c, _| answer(z, t, c).into_shape_with_order(vec![16]).unwrap());
    match error(&model) {
        ConformanceError::Shape { expected, found, .. } => {
            assert_eq!((expected, found), (vec![2, 8], vec![16]));
        }
        other => panic!("{other}"),
    }
    // In a pair alone.
    let one = |z: Latents| z.slice_axis(Axis(0), Slice::from(..1)).to_owned();
    let model = broken_pair(|[first, second]| [first, one(second)]);
    assert!(matches!(error(&model), ConformanceError::Shape { .. }));
}

#[test]
fn nan_and_infinities_are_found_at_the_timestep_where_they_are() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let model = broken(|z, t, c, _| {
            let mut out = answer(z, t, c);
            // As a network of half precision that overflows on pure noise.
            if t.get() == 999 {
                out[[0, 5]] = bad;
            }
            out
        });
        match error(&model) {
            ConformanceError::NonFinite { timestep, count: 1, total: 16 } => assert_eq!(timestep.get(), 999),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_answer_that_changes_is_found() {
    let model = broken(|z, t, c, call| {
        let mut out = answer(z, t, c);
        out[[0, 3]] = if call % 2 == 0 { out[[0, 3]] } else { out[[0, 3]].next_up() };
        out
    });
    match error(&model) {
        ConformanceError::Determinism {
            source: DeterminismError::Differs { different: 1, total: 16, .. },
            ..
        } => {}
        other => panic!("{other}"),
    }
    // Of the pairs alone, which the guided predictor asks for.
    let calls = Cell::new(0);
    let model = broken_pair(|[mut first, second]| {
        // The five of check_pair are sound.
        if calls.replace(calls.get() + 1) == 6 {
            first[[1, 1]] += 1e-3;
        }
        [first, second]
    });
    assert!(matches!(error(&model), ConformanceError::Determinism { .. }));
}

#[test]
fn answers_that_depend_on_the_batch_are_found_unless_tolerated() {
    let model = broken(|z, t, c, _| {
        let batch = z.shape()[0] as f64;
        answer(z, t, c) * (1.0 + 1e-7 * batch)
    });
    match error(&model) {
        ConformanceError::Batch { batch: 2, sample: 0, difference, .. } => {
            assert!(difference.largest > 1e-9 && difference.largest < 1e-6, "{difference}");
        }
        other => panic!("{other}"),
    }
    check(&model, Tolerances { batch: 1.1e-7, pair: 0.0 }).unwrap();
    assert!(check(&model, Tolerances { batch: 0.9e-7, pair: 0.0 }).is_err());
    // Each sample answers for its neighbour.
    let model = broken(|z, t, c, _| {
        let mut out = answer(z, t, c);
        out.invert_axis(Axis(0));
        out
    });
    let tolerances = Tolerances { batch: 1e-3, pair: 1e-3 };
    let swapped = check(&model, tolerances).unwrap_err();
    assert!(matches!(swapped, ConformanceError::Batch { .. }), "{swapped}");
    // And where the latents are one sample only.
    let one = normal(&[1, 8], 3);
    let error = check_batch(&model, &schedule(), one.view(), &0.3, 1e-3).unwrap_err();
    assert!(matches!(error, ConformanceError::Batch { .. }), "{error}");
}

#[test]
fn a_pair_that_swaps_its_answers_is_found() {
    match error(&broken_pair(|[first, second]| [second, first])) {
        ConformanceError::Pair { answer: 0, swapped: true, difference, .. } => {
            assert_eq!(difference.different, 16);
        }
        other => panic!("{other}"),
    }
    // However much is tolerated of rounding.
    let swapped =
        check(&broken_pair(|[first, second]| [second, first]), Tolerances { batch: 0.0, pair: 1e-2 });
    assert!(swapped.unwrap_err().to_string().contains("each other's place"));
}

#[test]
fn a_pair_that_differs_from_two_predictions_is_found_unless_tolerated() {
    let model = broken_pair(|[first, second]| [first, second * (1.0 + 1e-6)]);
    match error(&model) {
        ConformanceError::Pair { answer: 1, swapped: false, .. } => {}
        other => panic!("{other}"),
    }
    check(&model, Tolerances { batch: 0.0, pair: 1.1e-6 }).unwrap();
    assert!(check(&model, Tolerances { batch: 0.0, pair: 0.9e-6 }).is_err());
}

#[test]
fn guidance_that_is_not_one_prediction_at_scale_1_and_0_is_found() {
    for (scale, condition) in [(1.0, 0.3), (0.0, -0.5)] {
        // Its answer under one condition is off at every other call, of which guidance makes the first.
        let model = broken(move |z, t, c, call| {
            answer(z, t, c) + if c == condition && call % 2 == 0 { 1e-12 } else { 0.0 }
        });
        let error = check_guidance(&model, &schedule(), latents().view(), [&0.3, &-0.5]).unwrap_err();
        println!("{error}");
        match error {
            ConformanceError::Guidance { scale: found, difference, .. } => {
                assert_eq!((found, difference.different), (scale, 16));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn answers_that_drift_with_the_calls_are_found_by_the_round_trip() {
    // Two calls in a row agree, so the check of determinism passes.
    let drifting = || broken(|z, t, c, call| answer(z, t, c) * (1.0 + 1e-3 * (call / 40) as f64));
    let check = |steps| check_round_trips(&drifting(), &schedule(), latents().view(), &0.3, steps);
    check(&[1, 2]).unwrap();
    let error = check(&[4, 7]).unwrap_err();
    println!("{error}");
    match error {
        ConformanceError::Questions { trip, call, calls } => {
            // The 30 calls of the trips from an image and 8 to the image are followed by 40 and 41: the third answer is another,
            // so that the fourth question is.
            let expected = Trip { method: "EDICT", steps: 4, start: TripStart::Noise };
            assert_eq!((trip, call, calls), (expected, 3, 8));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_answer_that_changes_at_the_last_call_is_found_by_the_bits() {
    // EDICT of 4 steps from an image asks 8 questions out and 8 back; nothing is asked after the last.
    let model = broken(|z, t, c, call| answer(z, t, c) + if call == 15 { 1e-6 } else { 0.0 });
    let error = check_round_trips(&model, &schedule(), latents().view(), &0.3, &[4]).unwrap_err();
    println!("{error}");
    match error {
        ConformanceError::RoundTrip { trip, difference } => {
            assert_eq!((trip.method, trip.start), ("EDICT", TripStart::Image));
            assert!(difference.different == 16 && difference.largest > 1e-9, "{difference}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn failures_of_the_model_keep_their_cause() {
    #[derive(Debug, thiserror::Error)]
    #[error("out of memory")]
    struct OutOfMemory;
    let calls = Cell::new(0);
    let model = FnPredictor::new(|z: ArrayViewD<'_, f64>, t, c: &f64| {
        if calls.replace(calls.get() + 1) < 200 { Ok(answer(z, t, *c)) } else { Err(OutOfMemory) }
    });
    // The last checks are round trips: the error is the sampler's, and its cause the model's.
    let error =
        check_predictor(&model, &schedule(), latents().view(), &0.3, None, Tolerances::BITWISE).unwrap_err();
    let mut causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    assert!(matches!(error, ConformanceError::Run { .. }), "{error}");
    assert!(causes.any(|cause| cause.to_string() == "out of memory"));
    let error = check_predictions(&model, &schedule(), latents().view(), &0.3).unwrap_err();
    assert!(matches!(error, ConformanceError::Predict { source: OutOfMemory, .. }), "{error}");
}

#[test]
fn latents_that_ask_nothing_are_refused() {
    // A single number has no batch axis.
    for shape in [vec![], vec![0, 8], vec![2, 0]] {
        let none = Latents::zeros(shape.clone());
        let model = TanhNetwork::new(8, 5);
        let found = check_predictor(&model, &schedule(), none.view(), &0.3, None, Tolerances::BITWISE);
        match found {
            Err(ConformanceError::Latents(found)) => assert_eq!(found, shape),
            other => panic!("{other:?}"),
        }
    }
    let far = Latents::from_elem(vec![2, 8], 2000.0);
    let model = TanhNetwork::new(8, 5);
    let error = check_round_trips(&model, &schedule(), far.view(), &0.3, &[2]).unwrap_err();
    assert!(matches!(error, ConformanceError::Run { .. }), "{error}");
    let error = check_round_trips(&model, &schedule(), latents().view(), &0.3, &[1001]).unwrap_err();
    assert!(matches!(error, ConformanceError::Config(ConfigError::Steps { steps: 1001, .. })), "{error}");
}
