//! One error enum per moment: configuring, starting from a state, making a step, running.

use std::error::Error;

use thiserror::Error as ThisError;

use crate::{Grid, Timestep};

/// A schedule, trajectory, sampler or guidance that cannot be used as asked; raised on construction.
#[derive(Clone, Debug, PartialEq, ThisError)]
#[non_exhaustive]
pub enum ConfigError {
    /// A schedule needs at least one training timestep.
    #[error("a noise schedule needs at least one training timestep")]
    EmptySchedule,
    /// A beta is not in `[0, 1)`.
    #[error("beta of training timestep {timestep} is {value}; betas must be in [0, 1)")]
    Beta {
        /// Training timestep.
        timestep: usize,
        /// The beta found.
        value: f64,
    },
    /// An alpha-bar is not in `(0, 1]` or larger than its predecessor.
    #[error(
        "alpha-bar of training timestep {timestep} is {value}; alpha-bars must be in (0, 1] and must not increase"
    )]
    AlphaBar {
        /// Training timestep.
        timestep: usize,
        /// The alpha-bar found.
        value: f64,
    },
    /// The last alpha-bar is zero: latents there hold no signal, and inversion would divide by it.
    #[error(
        "the schedule ends at alpha-bar 0 (zero terminal SNR), which cannot be inverted; use the schedule before \
         rescaling"
    )]
    ZeroTerminalSnr,
    /// The alpha-bar that the last transition goes to lies outside its range.
    #[error(
        "final alpha-bar is {value}; it must be in [{minimum}, 1], {minimum} being that of training timestep 0"
    )]
    FinalAlphaBar {
        /// The value asked for.
        value: f64,
        /// alpha-bar of training timestep 0.
        minimum: f64,
    },
    /// The number of steps is zero or larger than the number of training timesteps.
    #[error(
        "{steps} steps asked for; the schedule has {training} training timesteps, use 1 to {training} steps"
    )]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// Training timesteps of the schedule.
        training: usize,
    },
    /// The strength is not in `[0, 1]`.
    #[error("strength is {0}; it must be in [0, 1]")]
    Strength(f64),
    /// A timestep lies outside the training schedule.
    #[error(
        "timestep {timestep} is outside training (0 to {last}); use fewer steps, offset 0, or timesteps up to {last}"
    )]
    TimestepOutsideTraining {
        /// The timestep asked for.
        timestep: usize,
        /// The last training timestep.
        last: usize,
    },
    /// Timesteps do not decrease from the first (noisiest) to the last.
    #[error("timestep {next} follows {previous}; timesteps of a trajectory must decrease strictly")]
    TimestepOrder {
        /// The earlier of the two.
        previous: usize,
        /// The one that follows it.
        next: usize,
    },
    /// A kept run whose numbers do not fit together.
    #[error(
        "a run of {timesteps} timesteps out of {schedule_steps} has one level more than timesteps, found {levels}"
    )]
    Levels {
        /// Timesteps given.
        timesteps: usize,
        /// Levels given.
        levels: usize,
        /// Steps of the full schedule given.
        schedule_steps: usize,
    },
    /// The alpha-bar of a level is not in `(0, 1]` or smaller than that of the noisier level before it.
    #[error(
        "alpha-bar of level {level} is {value}; alpha-bars must be in (0, 1] and not fall from noise to image"
    )]
    Level {
        /// The level, 0 at the noisy end.
        level: usize,
        /// The alpha-bar found.
        value: f64,
    },
    /// A split point outside the trajectory.
    #[error("cannot split at level {level}; this trajectory goes from level {start} to {end}")]
    Split {
        /// The level asked for.
        level: usize,
        /// First level of the trajectory.
        start: usize,
        /// Last level of the trajectory.
        end: usize,
    },
    /// The mixing weight is not in `(0, 1]`.
    #[error("mixing weight is {0}; it must be in (0, 1], for example 0.93 for 50 steps")]
    MixingWeight(f64),
    /// The mixing weight is too small for the lattice.
    #[error("mixing weight is {0}; on the lattice it must be at least 2^-16")]
    LatticeWeight(f64),
    /// The parameter of BDIA is too small for the lattice.
    #[error("gamma is {0}; on the lattice it must be at least 2^-16")]
    LatticeGamma(f64),
    /// The lattice cannot be laid like this.
    #[error(
        "a lattice of {unit_bits} unit bits and {spill_bits} spill bits was asked for; unit bits must be 1 to 48, spill bits \
         1 to 8"
    )]
    Lattice {
        /// The unit at the image is `2^-unit_bits`.
        unit_bits: u32,
        /// Bits of a carry plane.
        spill_bits: u32,
    },
    /// The parameter of BDIA is not in `(0, 1]`.
    #[error("gamma is {0}; it must be in (0, 1], for edits 0.92 to 1")]
    Gamma(f64),
    /// The guidance scale is not finite.
    #[error("guidance scale is {0}; it must be a finite number")]
    GuidanceScale(f64),
    /// The interval of guided timesteps is empty.
    #[error("guidance interval {low}:{high} is empty; the lower timestep comes first")]
    GuidanceInterval {
        /// First guided timestep.
        low: usize,
        /// Last guided timestep.
        high: usize,
    },
}

/// A state from which a run cannot start.
#[derive(Clone, Debug, PartialEq, ThisError)]
#[non_exhaustive]
pub enum StateError {
    /// A latent is too large for the lattice.
    #[error("`{latent}` holds {value}; on this lattice latents must stay below {limit} in magnitude")]
    TooLarge {
        /// Which latent.
        latent: &'static str,
        /// The value found.
        value: f64,
        /// The limit.
        limit: f64,
    },
    /// The state does not stand where the run begins, or the run has no such level.
    #[error("the state stands at level {level}, which is not where this run of {levels} levels begins")]
    Level {
        /// The state's level.
        level: usize,
        /// Levels of the run.
        levels: usize,
    },
    /// The state stands on another lattice than the sampler's.
    #[error("the state stands on the lattice {state:?}, the sampler's is {sampler:?}")]
    Grid {
        /// The state's.
        state: Grid,
        /// The sampler's.
        sampler: Grid,
    },
    /// The state is that of another sampler.
    #[error("the state is one of another sampler")]
    OtherSampler,
    /// Registers of a lattice state differ in shape or have left their range, or a carry plane does not fit the lattice.
    #[error(
        "the lattice registers must have one shape and stay below 2^62 in magnitude, and carry planes below 2 to the spill bits"
    )]
    Registers,
    /// The two latents of a pair differ in shape.
    #[error("the pair's latents must have one shape, found {x:?} and {y:?}")]
    PairShape {
        /// Shape of `x`.
        x: Vec<usize>,
        /// Shape of `y`.
        y: Vec<usize>,
    },
    /// A latent is NaN or infinite.
    #[error("latents must be finite, found a value that is not in `{latent}`")]
    NonFinite {
        /// Which latent: `x`, `y` or `z`.
        latent: &'static str,
    },
}

/// A step that could not be made.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum StepError<E: Error + 'static> {
    /// The model failed.
    #[error("prediction failed at step {step} (timestep {timestep})")]
    Predict {
        /// Index of the step in its run.
        step: usize,
        /// Training timestep of the step.
        timestep: Timestep,
        /// What the model reported.
        source: E,
    },
    /// The model predicted NaN or an infinite value, or the latents have grown out of the range of `f64`.
    #[error(
        "step {step} (timestep {timestep}) leads to values that are not finite; the network overflowed or its input has \
         left its range: try a network of higher precision, a lower guidance scale or a larger mixing weight"
    )]
    NonFinite {
        /// Index of the step in its run.
        step: usize,
        /// Training timestep of the step.
        timestep: Timestep,
    },
    /// A latent has left the lattice's range.
    #[error(
        "step {step} (timestep {timestep}) leads to {value:e}, outside the lattice's range; a larger mixing weight, a gamma nearer to \
         1 or less guidance keeps latents smaller"
    )]
    Range {
        /// Index of the step in its run.
        step: usize,
        /// Training timestep of the step.
        timestep: Timestep,
        /// The value that does not fit.
        value: f64,
    },
    /// The state cannot make a step.
    #[error(transparent)]
    State(#[from] StateError),
    /// The prediction has another shape than the latents.
    #[error("prediction at step {step} should have the latents' shape {expected:?}, found {found:?}")]
    PredictionShape {
        /// Index of the step in its run.
        step: usize,
        /// Shape of the latents.
        expected: Vec<usize>,
        /// Shape of the prediction.
        found: Vec<usize>,
    },
}

/// A run that did not reach its end.
///
/// The state the run began from belongs to the caller and is unchanged, whatever the error.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum SampleError<E: Error + 'static, S> {
    /// The run cannot start from this state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError<E>),
    /// The observer stopped the run.
    ///
    /// [`Trajectory::split_at`](crate::Trajectory::split_at) this level to continue from the state: generation with the
    /// second piece, inversion with the first.
    #[error("stopped at level {level}")]
    Stopped {
        /// The state reached; boxed so that results stay small.
        state: Box<S>,
        /// The level reached: 0 at the noisy end of the run, the number of steps at the image.
        level: usize,
    },
}
