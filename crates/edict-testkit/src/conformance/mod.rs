//! What a predictor must satisfy to be inverted exactly, as checks that a back end or a model of your own can run.
//!
//! [`check_predictor`] makes all of them; each is a function of its own too. A check passes, or says in a sentence what is wrong and
//! by how much.
//!
//! ```
//! use edict_core::{NoiseSchedule, Timestep};
//! use edict_testkit::conformance::{Tolerances, check_predictor};
//! use edict_testkit::{Elementwise, normal};
//!
//! let model = Elementwise(|z: f64, t: Timestep, class: f64| (z + class).sin() + t.get() as f64 / 1000.0);
//! let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)?;
//! let latents = normal(&[2, 4, 8, 8], 1);
//! // Every element is predicted by itself, so nothing may depend on the batch.
//! check_predictor(&model, &schedule, latents.view(), &0.3, Some(&-0.5), Tolerances::BITWISE)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod difference;
mod error;
mod guidance;
mod predictions;
mod round_trip;

pub use batch::check_batch;
pub use difference::Difference;
pub use error::ConformanceError;
pub use guidance::{check_guidance, check_pair};
pub use predictions::{check_determinism, check_predictions, timesteps};
pub use round_trip::{Trip, TripStart, check_round_trips};

use edict_core::{Guidance, GuidanceScale, Guided, NoisePredictor, NoiseSchedule};
use ndarray::ArrayViewD;

use guidance::Borrowed;

/// How far predictions may differ that need not have the same bits, as a share of the largest of them; 0 asks for the same bits.
///
/// A matrix product may add in another order for another batch. A network in `f32` then differs by some 1e-6, one in `f16` by 1e-3.
/// Exactness does not suffer as long as both directions of a run ask in the same batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Between the two answers of `predict_pair` and those of two `predict`.
    pub pair: f64,
    /// Between a batch and its samples one by one.
    pub batch: f64,
}

impl Tolerances {
    /// Every answer has the same bits whatever it is asked together with.
    pub const BITWISE: Self = Self { pair: 0.0, batch: 0.0 };
}

/// Steps of the runs that [`check_predictor`] makes: few, odd and even.
const STEPS: [usize; 4] = [1, 2, 4, 7];

/// The guidance scale of these runs, if there are two conditions: neither of those at which one condition is not asked about.
const SCALE: f64 = 3.0;

/// Checks all that exact inversion needs of a predictor, and that it answers as [`NoisePredictor`] says.
///
/// `latents` `[batch, ...]` are an image's or noise, of a shape the model takes; `condition` and `negative` apply to every sample.
/// With a `negative` condition the predictor is run under guidance too, with both in one batch. The predictor is called some 250
/// times, at the shape of `latents` most of them.
///
/// # Errors
/// [`ConformanceError`] says which check has failed first, and how.
pub fn check_predictor<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    condition: &P::Condition,
    negative: Option<&P::Condition>,
    tolerances: Tolerances,
) -> Result<(), ConformanceError<P::Error>> {
    let steps: Vec<usize> = STEPS.into_iter().filter(|steps| *steps <= schedule.timesteps()).collect();
    for condition in [Some(condition), negative].into_iter().flatten() {
        check_predictions(predictor, schedule, latents.view(), condition)?;
        check_determinism(predictor, schedule, latents.view(), condition)?;
        check_batch(predictor, schedule, latents.view(), condition, tolerances.batch)?;
    }
    let pair = [condition, negative.unwrap_or(condition)];
    check_pair(predictor, schedule, latents.view(), pair, tolerances.pair)?;
    check_guidance(predictor, schedule, latents.view(), pair)?;
    let Some(negative) = negative else {
        return check_round_trips(predictor, schedule, latents, condition, &steps);
    };
    let guided = Guided::new(Borrowed(predictor), GuidanceScale::constant(SCALE)?);
    let condition = Guidance { positive: condition, negative };
    check_determinism(&guided, schedule, latents.view(), &condition)?;
    check_round_trips(&guided, schedule, latents, &condition, &steps)
}
