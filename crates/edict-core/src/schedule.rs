//! The table of alpha-bars a model was trained with.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use crate::{ConfigError, Timestep};

/// The noise schedule of training: `alpha_bar` of every training timestep, and the one that sampling ends at.
///
/// `alpha_bar` is the signal's share of the variance, `z = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps`; it falls with the
/// timestep. Cloning shares the table.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alpha_bars: Arc<[f64]>,
    final_alpha_bar: f64,
}

impl NoiseSchedule {
    /// Makes betas equally spaced from `beta_start` to `beta_end` (arXiv:2006.11239).
    ///
    /// # Errors
    /// [`ConfigError::Beta`] if a beta is not in `[0, 1)`; [`ConfigError::EmptySchedule`] if `timesteps` is 0.
    pub fn linear(beta_start: f64, beta_end: f64, timesteps: usize) -> Result<Self, ConfigError> {
        Self::from_betas(&linspace(beta_start, beta_end, timesteps))
    }

    /// Makes betas whose square roots are equally spaced, the schedule of Stable Diffusion (arXiv:2112.10752).
    ///
    /// # Errors
    /// As [`Self::linear`]; a negative end is refused too.
    pub fn scaled_linear(beta_start: f64, beta_end: f64, timesteps: usize) -> Result<Self, ConfigError> {
        for (timestep, value) in [(0, beta_start), (timesteps.saturating_sub(1), beta_end)] {
            if value < 0.0 || value.is_nan() {
                return Err(ConfigError::Beta { timestep, value });
            }
        }
        let roots = linspace(beta_start.sqrt(), beta_end.sqrt(), timesteps);
        Self::from_betas(&roots.iter().map(|root| root * root).collect::<Vec<_>>())
    }

    /// Makes the squared-cosine schedule of arXiv:2102.09672, betas capped at 0.999.
    ///
    /// # Errors
    /// [`ConfigError::EmptySchedule`] if `timesteps` is 0.
    pub fn squared_cosine(timesteps: usize) -> Result<Self, ConfigError> {
        let bar = |i: usize| ((i as f64 / timesteps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        Self::from_betas(&(0..timesteps).map(|i| (1.0 - bar(i + 1) / bar(i)).min(0.999)).collect::<Vec<_>>())
    }

    /// Multiplies up `1 - beta` of every training timestep.
    ///
    /// # Errors
    /// [`ConfigError::Beta`] if a beta is not in `[0, 1)`, [`ConfigError::ZeroTerminalSnr`] if the last is 1 or the product
    /// underflows, [`ConfigError::EmptySchedule`] if there is none.
    pub fn from_betas(betas: &[f64]) -> Result<Self, ConfigError> {
        if betas.last() == Some(&1.0) {
            return Err(ConfigError::ZeroTerminalSnr);
        }
        if let Some((timestep, &value)) =
            betas.iter().enumerate().find(|(_, beta)| !(0.0..1.0).contains(*beta))
        {
            return Err(ConfigError::Beta { timestep, value });
        }
        let bars = betas.iter().scan(1.0, |bar, beta| {
            *bar *= 1.0 - beta;
            Some(*bar)
        });
        Self::from_alpha_bars(bars.collect::<Vec<_>>())
    }

    /// Takes alpha-bars from a table, training timestep 0 first.
    ///
    /// # Errors
    /// [`ConfigError::AlphaBar`] if a value is not in `(0, 1]` or larger than the one before it,
    /// [`ConfigError::ZeroTerminalSnr`] if the last is 0, [`ConfigError::EmptySchedule`] if there is none.
    pub fn from_alpha_bars(alpha_bars: impl Into<Arc<[f64]>>) -> Result<Self, ConfigError> {
        let alpha_bars = alpha_bars.into();
        let (Some(&first), Some(&last)) = (alpha_bars.first(), alpha_bars.last()) else {
            return Err(ConfigError::EmptySchedule);
        };
        // Subnormal counts as zero: its square root has lost most of its digits.
        if last.abs() < f64::MIN_POSITIVE {
            return Err(ConfigError::ZeroTerminalSnr);
        }
        let mut ceiling = 1.0;
        for (timestep, &value) in alpha_bars.iter().enumerate() {
            if !(value >= f64::MIN_POSITIVE && value <= ceiling) {
                return Err(ConfigError::AlphaBar { timestep, value });
            }
            ceiling = value;
        }
        Ok(Self { alpha_bars, final_alpha_bar: first })
    }

    /// Sets the alpha-bar that the last transition goes to.
    ///
    /// Without this call it is that of training timestep 0, as Stable Diffusion has it (`set_alpha_to_one = false`);
    /// 1 removes all noise.
    ///
    /// # Errors
    /// [`ConfigError::FinalAlphaBar`] if it is above 1 or below that of training timestep 0.
    pub fn with_final_alpha_bar(mut self, value: f64) -> Result<Self, ConfigError> {
        let minimum = self.alpha_bars[0];
        if !(minimum..=1.0).contains(&value) {
            return Err(ConfigError::FinalAlphaBar { value, minimum });
        }
        self.final_alpha_bar = value;
        Ok(self)
    }

    /// Returns the number of training timesteps.
    pub fn timesteps(&self) -> usize {
        self.alpha_bars.len()
    }

    /// Returns alpha-bar of every training timestep.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// Returns alpha-bar of a training timestep, or `None` outside training.
    pub fn alpha_bar(&self, t: Timestep) -> Option<f64> {
        self.alpha_bars.get(t.get()).copied()
    }

    /// Returns the alpha-bar that the last transition goes to.
    pub fn final_alpha_bar(&self) -> f64 {
        self.final_alpha_bar
    }
}

/// `count` equally spaced numbers, both ends met exactly.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = if count > 1 { (end - start) / (count - 1) as f64 } else { 0.0 };
    // From the nearer end, so that rounding is symmetric and the last number is `end`.
    let at = |i: usize| {
        if i < count.div_ceil(2) { start + step * i as f64 } else { end - step * (count - 1 - i) as f64 }
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linspace_meets_both_ends() {
        for count in 2..100 {
            let values = linspace(0.1, 0.7, count);
            assert_eq!((values[0], values[count - 1], values.len()), (0.1, 0.7, count));
        }
        assert_eq!(linspace(0.25, 0.5, 1), [0.25]);
    }
}
