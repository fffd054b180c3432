//! `scheduler/scheduler_config.json`.

use std::path::Path;

use edict_core::{ConfigError, NoiseSchedule, TimestepSpacing, Trajectory};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::fields::Fields;
use super::keys::{PNDM_DEFAULTS, SCHEDULER_KEYS};
use crate::error::LoadError;

/// What `scheduler/scheduler_config.json` says of the noise the network was trained with.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// Number of timesteps in training.
    pub num_train_timesteps: usize,
    /// Variance of the noise added at each of them.
    pub betas: BetaSchedule,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// How a run's timesteps are laid out over those of training.
    #[serde(serialize_with = "spacing_name")]
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep under [`TimestepSpacing::Leading`].
    pub steps_offset: usize,
    /// Whether a run ends at `alpha_bar = 1`; else at that of training timestep 0.
    pub set_alpha_to_one: bool,
}

/// Variances of the noise added at each training timestep.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Evenly spaced (`linear`).
    Linear {
        /// First variance.
        start: f64,
        /// Last variance.
        end: f64,
    },
    /// Squares of evenly spaced square roots (`scaled_linear`, Stable Diffusion's).
    ScaledLinear {
        /// First variance.
        start: f64,
        /// Last variance.
        end: f64,
    },
    /// Squared cosine with betas capped at 0.999 (`squaredcos_cap_v2`, arXiv:2102.09672).
    SquaredCosine,
    /// Given one by one (`trained_betas`), as many as there are training timesteps.
    Given(Vec<f64>),
}

/// What a network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum PredictionType {
    /// The noise (`epsilon`).
    Epsilon,
    /// `alpha eps - sigma x` (`v_prediction`, arXiv:2202.00512).
    V,
    /// The clean latents (`sample`).
    Sample,
}

impl SchedulerConfig {
    /// Reads a config; `path` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], [`LoadError::UnknownKey`] or [`LoadError::InvalidValue`], naming the key.
    pub fn from_json(path: &Path, config: &Value) -> Result<Self, LoadError> {
        let fields = Fields::new(path, SCHEDULER_KEYS, config)?;
        let pndm = fields.value("_class_name").as_str() == Some("PNDMScheduler");
        let fields = fields.with_class_defaults(if pndm { PNDM_DEFAULTS } else { &[] });
        let num_train_timesteps = fields.count("num_train_timesteps", 1 << 20)?;
        Ok(Self {
            num_train_timesteps,
            betas: betas(&fields, num_train_timesteps)?,
            prediction_type: fields.choice(
                "prediction_type",
                &[
                    ("epsilon", PredictionType::Epsilon),
                    ("v_prediction", PredictionType::V),
                    ("sample", PredictionType::Sample),
                ],
            )?,
            timestep_spacing: fields.choice(
                "timestep_spacing",
                &[
                    ("leading", TimestepSpacing::Leading),
                    ("trailing", TimestepSpacing::Trailing),
                    ("linspace", TimestepSpacing::Linspace),
                ],
            )?,
            steps_offset: fields.natural("steps_offset", num_train_timesteps)?,
            set_alpha_to_one: fields.bool("set_alpha_to_one")?,
        })
    }

    /// Makes the schedule that the network was trained with.
    ///
    /// # Errors
    /// [`ConfigError::ZeroTerminalSnr`] if no signal is left at its end, [`ConfigError::Beta`] for a beta outside `[0, 1)`.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule, ConfigError> {
        let n = self.num_train_timesteps;
        let schedule = match &self.betas {
            BetaSchedule::Linear { start, end } => NoiseSchedule::linear(*start, *end, n),
            BetaSchedule::ScaledLinear { start, end } => NoiseSchedule::scaled_linear(*start, *end, n),
            BetaSchedule::SquaredCosine => NoiseSchedule::squared_cosine(n),
            BetaSchedule::Given(betas) => NoiseSchedule::from_betas(betas),
        }?;
        if self.set_alpha_to_one { schedule.with_final_alpha_bar(1.0) } else { Ok(schedule) }
    }

    /// Lays `steps` steps on [`Self::noise_schedule`] and selects `strength`, in `[0, 1]`, of them.
    ///
    /// # Errors
    /// [`ConfigError`] if the steps do not fit into the schedule or the strength is outside its range.
    pub fn trajectory(
        &self,
        schedule: &NoiseSchedule,
        steps: usize,
        strength: f64,
    ) -> Result<Trajectory, ConfigError> {
        let leading = self.timestep_spacing == TimestepSpacing::Leading;
        Trajectory::builder(steps)
            .spacing(self.timestep_spacing)
            .offset(if leading { self.steps_offset } else { 0 })
            .strength(strength)
            .build(schedule)
    }
}

fn spacing_name<S: Serializer>(spacing: &TimestepSpacing, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{spacing:?}"))
}

fn betas(fields: &Fields<'_>, n: usize) -> Result<BetaSchedule, LoadError> {
    let variance = |x: &f64| *x > 0.0 && *x < 1.0;
    let given = fields.value("trained_betas");
    if !given.is_null() {
        let list: Option<Vec<f64>> = given
            .as_array()
            .filter(|items| items.len() == n)
            .and_then(|items| items.iter().map(|x| x.as_f64().filter(variance)).collect());
        let wanted = || format!("null or {n} numbers in (0, 1), one a training timestep");
        return list.map(BetaSchedule::Given).ok_or_else(|| fields.invalid("trained_betas", wanted()));
    }
    let beta = |name| {
        let x = fields.f64(name)?;
        if variance(&x) { Ok(x) } else { Err(fields.invalid(name, "a number in (0, 1)")) }
    };
    let (start, end) = (beta("beta_start")?, beta("beta_end")?);
    fields.choice("beta_schedule", &[("linear", 0), ("scaled_linear", 1), ("squaredcos_cap_v2", 2)]).map(
        |kind| match kind {
            0 => BetaSchedule::Linear { start, end },
            1 => BetaSchedule::ScaledLinear { start, end },
            _ => BetaSchedule::SquaredCosine,
        },
    )
}
