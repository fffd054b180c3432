//! What can be wrong with a predictor.

use std::error::Error;

use edict_core::{ConfigError, DeterminismError, Timestep};
use thiserror::Error as ThisError;

use super::{Difference, Trip};

/// What is wrong with a predictor; `E` is its own error.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ConformanceError<E: Error + 'static> {
    /// There is nothing to ask with.
    #[error("the latents to ask with must be [batch, ...] with at least one value, found shape {0:?}")]
    Latents(Vec<usize>),
    /// No run of the steps asked for can be made on the schedule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model failed.
    #[error("prediction failed at timestep {timestep}")]
    Predict {
        /// Training timestep.
        timestep: Timestep,
        /// What the model reported.
        source: E,
    },
    /// One question has two answers.
    #[error("at timestep {timestep} {source}")]
    Determinism {
        /// Training timestep.
        timestep: Timestep,
        /// How they differ.
        source: DeterminismError<E>,
    },
    /// A prediction has another shape than the latents.
    #[error(
        "the prediction at timestep {timestep} should have the latents' shape {expected:?}, found {found:?}"
    )]
    Shape {
        /// Training timestep.
        timestep: Timestep,
        /// Shape of the latents.
        expected: Vec<usize>,
        /// Shape of the prediction.
        found: Vec<usize>,
    },
    /// A prediction holds NaN or infinite values.
    #[error(
        "{count} of {total} values predicted at timestep {timestep} are not finite; a network of higher precision may not overflow"
    )]
    NonFinite {
        /// Training timestep.
        timestep: Timestep,
        /// Values that are not finite.
        count: usize,
        /// Values predicted.
        total: usize,
    },
    /// Guidance at scale 1 or 0 is not the prediction under one condition.
    #[error(
        "guidance at scale {scale} should give the bits of the prediction under the {} condition alone; at timestep {timestep} \
         {difference}",
        if *scale == 0.0 { "negative" } else { "positive" }
    )]
    Guidance {
        /// Training timestep.
        timestep: Timestep,
        /// The guidance scale, 1 or 0.
        scale: f64,
        /// How they differ.
        difference: Difference,
    },
    /// `predict_pair` does not agree with `predict`.
    #[error(
        "answer {} of predict_pair at timestep {timestep} should agree with predict to {tolerance:e} of its size; {difference}{}",
        answer + 1,
        if *swapped { ", and the two answers are in each other's place" } else { "" }
    )]
    Pair {
        /// Training timestep.
        timestep: Timestep,
        /// Index of the answer: 0 or 1.
        answer: usize,
        /// How they differ.
        difference: Difference,
        /// The tolerance given, a share of the largest value.
        tolerance: f64,
        /// Whether the answers would agree if they were swapped.
        swapped: bool,
    },
    /// A sample's prediction depends on what it is in a batch with.
    #[error(
        "sample {sample} predicted in a batch of {batch} at timestep {timestep} should agree with the sample alone to \
         {tolerance:e} of its size; {difference}"
    )]
    Batch {
        /// Training timestep.
        timestep: Timestep,
        /// Index of the sample.
        sample: usize,
        /// Samples in the batch.
        batch: usize,
        /// How they differ.
        difference: Difference,
        /// The tolerance given, a share of the largest value.
        tolerance: f64,
    },
    /// A run could not be made.
    #[error("{trip}: the run could not be made")]
    Run {
        /// The round trip.
        trip: Trip,
        /// The error of the sampler: a [`SampleError`](edict_core::SampleError).
        source: Box<dyn Error + Send + Sync>,
    },
    /// The network was asked something else on the way back.
    #[error(
        "{trip}: the way back should ask what the way out asked, in reverse; call {call} of {calls} asks something else, so the \
         answer before it has changed"
    )]
    Questions {
        /// The round trip.
        trip: Trip,
        /// The first call of the way back that differs, from 0; `calls` if it is one of too many or too few.
        call: usize,
        /// Calls expected on the way back.
        calls: usize,
    },
    /// What came back is not what went in.
    #[error("{trip}: every bit should come back; {difference}")]
    RoundTrip {
        /// The round trip.
        trip: Trip,
        /// How they differ.
        difference: Difference,
    },
}
