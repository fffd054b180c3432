//! The steps of a run.

use std::ops::Range;
use std::sync::Arc;

use crate::{ConfigError, NoiseSchedule, Timestep};

/// One transition between neighbouring noise levels.
///
/// In generation it goes from the noisier level (`from`) to the cleaner one (`to`) by `z' = a z + b eps(z, timestep)`; inversion
/// undoes it with the same numbers. The index counts the executed transitions from 0 at the noisy end of the run, so nothing
/// that depends on it (the update order of EDICT) depends on the direction.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    index: usize,
    timestep: Timestep,
    alpha_bar_from: f64,
    alpha_bar_to: f64,
    a: f64,
    b: f64,
}

impl Step {
    fn new(index: usize, timestep: Timestep, alpha_bar_from: f64, alpha_bar_to: f64) -> Self {
        let a = (alpha_bar_to / alpha_bar_from).sqrt();
        // Exactly zero for a transition of zero width, where a is exactly 1.
        let b = (1.0 - alpha_bar_to).sqrt() - a * (1.0 - alpha_bar_from).sqrt();
        Self { index, timestep, alpha_bar_from, alpha_bar_to, a, b }
    }

    /// Returns the position in the run, 0 at its noisy end.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the training timestep the network is told: that of the noisier level.
    pub fn timestep(&self) -> Timestep {
        self.timestep
    }

    /// Returns `(a, b)` of `z' = a z + b eps`: `a = sqrt(A'/A)`, `b = sqrt(1 - A') - a sqrt(1 - A)` (arXiv:2010.02502, eq. 12
    /// without noise).
    pub fn coefficients(&self) -> (f64, f64) {
        (self.a, self.b)
    }

    /// Returns alpha-bar of the noisier level.
    pub fn alpha_bar_from(&self) -> f64 {
        self.alpha_bar_from
    }

    /// Returns alpha-bar of the cleaner level.
    pub fn alpha_bar_to(&self) -> f64 {
        self.alpha_bar_to
    }

    /// Returns the signal's scale at the noisier level, `sqrt(alpha_bar_from)`.
    pub fn scale_from(&self) -> f64 {
        self.alpha_bar_from.sqrt()
    }

    /// Returns the signal's scale at the cleaner level, `sqrt(alpha_bar_to)`.
    pub fn scale_to(&self) -> f64 {
        self.alpha_bar_to.sqrt()
    }
}

/// How the timesteps of a run are chosen from those of training (arXiv:2305.08891, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TimestepSpacing {
    /// Multiples of `training / steps` rounded down, from 0 up, plus the offset.
    #[default]
    Leading,
    /// Down from the last training timestep by `training / steps`, rounded half to even.
    Trailing,
    /// Equally spaced from 0 to the last training timestep, rounded half to even.
    Linspace,
}

/// Chooses the steps of a [`Trajectory`].
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct TrajectoryBuilder {
    steps: usize,
    spacing: TimestepSpacing,
    offset: usize,
    strength: f64,
}

impl TrajectoryBuilder {
    /// Sets how timesteps are spaced; [`TimestepSpacing::Leading`] if not called.
    pub fn spacing(mut self, spacing: TimestepSpacing) -> Self {
        self.spacing = spacing;
        self
    }

    /// Adds a number to every timestep; 0 if not called, 1 for Stable Diffusion (`steps_offset`).
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Runs only a share of the schedule, in `[0, 1]`, rounded half up to whole steps; 1 if not called.
    ///
    /// The steps left out are the noisiest, so inversion stops short of pure noise and more of the image is kept.
    pub fn strength(mut self, strength: f64) -> Self {
        self.strength = strength;
        self
    }

    /// Lays the steps on a schedule.
    ///
    /// # Errors
    /// [`ConfigError::Steps`] if there are none or more than training timesteps, [`ConfigError::Strength`] outside `[0, 1]`,
    /// [`ConfigError::TimestepOutsideTraining`] if the offset leads outside training.
    pub fn build(self, schedule: &NoiseSchedule) -> Result<Trajectory, ConfigError> {
        let (steps, training) = (self.steps, schedule.timesteps());
        if !(1..=training).contains(&steps) {
            return Err(ConfigError::Steps { steps, training });
        }
        let base = |i: usize| match self.spacing {
            TimestepSpacing::Leading => (steps - 1 - i) * (training / steps),
            TimestepSpacing::Trailing => {
                let stride = training as f64 / steps as f64;
                (training as f64 - i as f64 * stride).round_ties_even() as usize - 1
            }
            TimestepSpacing::Linspace if steps == 1 => 0,
            TimestepSpacing::Linspace => {
                let stride = (training - 1) as f64 / (steps - 1) as f64;
                ((steps - 1 - i) as f64 * stride).round_ties_even() as usize
            }
        };
        let timesteps = (0..steps).map(|i| Timestep::new(base(i).saturating_add(self.offset)));
        Trajectory::from_timesteps(schedule, timesteps, self.strength)
    }
}

/// The steps of a run, in generation order, or a piece of them.
///
/// Steps chain: the level one goes to is the level the next comes from; only the last goes to the schedule's final alpha-bar.
/// *Level* `i` lies before step `i`: level 0 is the noisy end of the run, level `n` the image. A piece made by
/// [`Self::split_at`] keeps its steps' indices and remembers the run it belongs to. Cloning shares the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    run: Arc<[Step]>,
    range: Range<usize>,
    schedule_steps: usize,
    end_alpha_bar: f64,
}

impl Trajectory {
    /// Begins a trajectory of `steps` steps over the full schedule.
    pub fn builder(steps: usize) -> TrajectoryBuilder {
        TrajectoryBuilder { steps, spacing: TimestepSpacing::default(), offset: 0, strength: 1.0 }
    }

    /// Makes a trajectory from timesteps of your own, noisiest first, of which `strength` in `[0, 1]` selects the last.
    ///
    /// # Errors
    /// [`ConfigError::TimestepOrder`] unless they decrease strictly, [`ConfigError::TimestepOutsideTraining`],
    /// [`ConfigError::Steps`] if there are none, [`ConfigError::Strength`] outside `[0, 1]`.
    pub fn from_timesteps(
        schedule: &NoiseSchedule,
        timesteps: impl IntoIterator<Item = Timestep>,
        strength: f64,
    ) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(ConfigError::Strength(strength));
        }
        let timesteps: Vec<_> = timesteps.into_iter().collect();
        let training = schedule.timesteps();
        if timesteps.is_empty() {
            return Err(ConfigError::Steps { steps: 0, training });
        }
        let mut levels = Vec::with_capacity(timesteps.len() + 1);
        for &t in &timesteps {
            let outside = ConfigError::TimestepOutsideTraining { timestep: t.get(), last: training - 1 };
            levels.push(schedule.alpha_bar(t).ok_or(outside)?);
        }
        check_order(&timesteps)?;
        levels.push(schedule.final_alpha_bar());

        let executed = (timesteps.len() as f64 * strength + 0.5).floor() as usize;
        let skipped = timesteps.len() - executed;
        Ok(Self::chain(&timesteps[skipped..], &levels[skipped..], timesteps.len()))
    }

    /// Makes a whole run from numbers kept from an earlier one: the timestep of each step, and alpha-bar of each level.
    ///
    /// `alpha_bars` has one value more than there are `timesteps`, the noisy end's first. `schedule_steps` is what
    /// [`Self::schedule_steps`] returned then. Coming back along a kept run needs bitwise the same numbers, which a schedule
    /// computed anew on another machine need not give.
    ///
    /// # Errors
    /// [`ConfigError::Levels`] if the counts do not fit, [`ConfigError::TimestepOrder`] unless timesteps decrease strictly,
    /// [`ConfigError::Level`] unless alpha-bars are in `(0, 1]` and do not decrease.
    pub fn from_levels(
        timesteps: &[Timestep],
        alpha_bars: &[f64],
        schedule_steps: usize,
    ) -> Result<Self, ConfigError> {
        // A run of strength 0 has no step, and its single level does not matter.
        if alpha_bars.len() != timesteps.len() + 1 || schedule_steps < timesteps.len().max(1) {
            let (timesteps, levels) = (timesteps.len(), alpha_bars.len());
            return Err(ConfigError::Levels { timesteps, levels, schedule_steps });
        }
        check_order(timesteps)?;
        let mut floor = f64::MIN_POSITIVE;
        for (level, &value) in alpha_bars.iter().enumerate() {
            if !(floor..=1.0).contains(&value) {
                return Err(ConfigError::Level { level, value });
            }
            floor = value;
        }
        Ok(Self::chain(timesteps, alpha_bars, schedule_steps))
    }

    fn chain(timesteps: &[Timestep], levels: &[f64], schedule_steps: usize) -> Self {
        let steps = timesteps.iter().zip(levels.windows(2)).enumerate();
        let run: Arc<[Step]> = steps.map(|(i, (t, level))| Step::new(i, *t, level[0], level[1])).collect();
        Self { range: 0..run.len(), run, schedule_steps, end_alpha_bar: levels[timesteps.len()] }
    }

    /// Returns the steps to make, in generation order.
    pub fn steps(&self) -> &[Step] {
        &self.run[self.range.clone()]
    }

    /// Returns the number of steps to make.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether there is no step to make, as with strength 0.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns the steps of the whole run that this trajectory is, or is a piece of.
    pub fn run(&self) -> &[Step] {
        &self.run
    }

    /// Returns alpha-bar of every level of the whole run, the noisy end's first; the last is that of the image.
    pub fn alpha_bars(&self) -> Vec<f64> {
        self.run.iter().map(Step::alpha_bar_from).chain([self.end_alpha_bar]).collect()
    }

    /// Returns alpha-bar of the image end of the whole run.
    pub fn end_alpha_bar(&self) -> f64 {
        self.end_alpha_bar
    }

    /// Returns the first and last level of this trajectory: `0..n` for a whole run of `n` steps.
    pub fn levels(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the number of steps of the full schedule, of which strength selected those of the run.
    pub fn schedule_steps(&self) -> usize {
        self.schedule_steps
    }

    /// Splits at a level into the noisier and the cleaner piece.
    ///
    /// Running the pieces one after the other is bitwise the same as running the whole.
    ///
    /// # Errors
    /// [`ConfigError::Split`] unless the level lies within [`Self::levels`], ends included.
    pub fn split_at(&self, level: usize) -> Result<(Self, Self), ConfigError> {
        let Range { start, end } = self.range;
        if !(start..=end).contains(&level) {
            return Err(ConfigError::Split { level, start, end });
        }
        let piece = |range| Self { range, ..self.clone() };
        Ok((piece(start..level), piece(level..end)))
    }
}

fn check_order(timesteps: &[Timestep]) -> Result<(), ConfigError> {
    match timesteps.windows(2).find(|pair| pair[1] >= pair[0]) {
        Some(pair) => Err(ConfigError::TimestepOrder { previous: pair[0].get(), next: pair[1].get() }),
        None => Ok(()),
    }
}
