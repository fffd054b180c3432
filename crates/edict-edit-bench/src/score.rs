//! What an edit is worth.

use clap::ValueEnum;
use edict_core::Latents;
use serde_json::{Value, json};

use crate::case::Case;

/// To be raised with every change of what is measured, or of how: results of two versions do not go together.
pub(crate) const VERSION: u32 = 2;

/// When an edit counts as a success.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Criterion {
    /// In the region to change it is nearer to the ideal edit than halfway: its distance is below half of the source's
    Halfway,
    /// In that region it is nearer to the ideal edit than to the source
    Nearer,
}

/// Errors of one edit, of pixels in [-1, 1] and clamped, from which every figure follows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Score {
    /// How many pixels lie outside the region that the ideal edit changes.
    pub(crate) outside: usize,
    /// Mean squared error there, against the source; NaN if nothing lies there.
    pub(crate) kept: f64,
    /// The same of the autoencoder alone.
    pub(crate) kept_floor: f64,
    /// Mean squared error inside the region, against the ideal edit.
    pub(crate) to_target: f64,
    /// Mean squared error inside the region, against the source.
    pub(crate) to_source: f64,
    /// Mean squared difference of source and ideal edit inside the region.
    pub(crate) apart: f64,
    /// Mean squared error of the whole picture, against the ideal edit.
    pub(crate) whole: f64,
}

impl Score {
    /// Measures an edit; `floor` is the source through the autoencoder and back.
    pub(crate) fn of(case: &Case, edit: &Latents, floor: &Latents) -> Self {
        let mean = |a: &Latents, b: &Latents, inside: Option<bool>| {
            let plane = case.changed.len();
            let (mut sum, mut count) = (0.0, 0usize);
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                if inside.is_none_or(|inside| case.changed[i % plane] == inside) {
                    sum += (a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
                    count += 1;
                }
            }
            sum / count as f64
        };
        Self {
            outside: case.changed.iter().filter(|changed| !**changed).count(),
            kept: mean(edit, &case.source, Some(false)),
            kept_floor: mean(floor, &case.source, Some(false)),
            to_target: mean(edit, &case.target, Some(true)),
            to_source: mean(edit, &case.source, Some(true)),
            apart: mean(&case.source, &case.target, Some(true)),
            whole: mean(edit, &case.target, None),
        }
    }

    /// The errors outside the region, of the edit and of the autoencoder alone, by the pixel: sums over pixels, so that what is
    /// summed over edits weighs a pixel of any edit alike. Some edits leave but a few pixels as they were.
    pub(crate) fn kept_sums(&self) -> [f64; 2] {
        [self.kept, self.kept_floor]
            .map(|mean| if self.outside == 0 { 0.0 } else { mean * self.outside as f64 })
    }

    /// Whether the edit is a success.
    pub(crate) fn succeeds(&self, criterion: Criterion) -> bool {
        match criterion {
            // Of distances half, of their squares a quarter.
            Criterion::Halfway => self.to_target < self.apart / 4.0,
            Criterion::Nearer => self.to_target < self.to_source,
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!([
            self.outside,
            self.kept,
            self.kept_floor,
            self.to_target,
            self.to_source,
            self.apart,
            self.whole
        ])
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let [outside, errors @ ..] = value.as_array()?.as_slice() else { return None };
        let outside = usize::try_from(outside.as_u64()?).ok()?;
        // JSON has no NaN: it is written as null.
        let errors: Vec<f64> = errors.iter().map(|n| n.as_f64().unwrap_or(f64::NAN)).collect();
        let [kept, kept_floor, to_target, to_source, apart, whole] = errors[..] else { return None };
        Some(Self { outside, kept, kept_floor, to_target, to_source, apart, whole })
    }
}

/// A mean squared error in [-1, 1] as a ratio in dB for pixels in [0, 1].
pub(crate) fn decibels(error: f64) -> f64 {
    -10.0 * (error / 4.0).log10()
}

/// Decibels as tables have them; a dash where there was nothing to measure.
pub(crate) fn written(decibels: f64) -> String {
    if decibels.is_nan() { "-".to_owned() } else { format!("{decibels:.2} dB") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edict_scenes::Attribute;

    #[test]
    fn the_ideal_edit_succeeds_and_the_source_does_not() {
        for attribute in Attribute::ALL {
            let case = Case::draw(attribute, 3, 64).unwrap();
            let ideal = Score::of(&case, &case.target, &case.source);
            let both = [Criterion::Halfway, Criterion::Nearer];
            assert!(both.iter().all(|&c| ideal.succeeds(c)) && ideal.whole == 0.0, "{attribute:?}");
            // What differs by less than an eye sees counts as outside.
            assert!(decibels(ideal.kept) > 35.0, "{attribute:?} {}", ideal.kept);
            let nothing = Score::of(&case, &case.source, &case.source);
            assert!(both.iter().all(|&c| !nothing.succeeds(c)) && nothing.kept == 0.0, "{attribute:?}");
            // Halfway is not enough for the one, and a little more than it for the other.
            let on_the_way = |share: f64| {
                Score::of(&case, &(&case.source * (1.0 - share) + &case.target * share), &case.source)
            };
            assert!(!on_the_way(0.499).succeeds(Criterion::Halfway), "{attribute:?}");
            assert!(!on_the_way(0.499).succeeds(Criterion::Nearer), "{attribute:?}");
            // On the straight way between the two the criteria are one, beside it they are not.
            assert!(both.iter().all(|&c| on_the_way(0.501).succeeds(c)), "{attribute:?}");
            let beside = Score { to_target: 0.3 * ideal.apart, to_source: 0.9 * ideal.apart, ..ideal };
            assert_eq!(both.map(|c| beside.succeeds(c)), [false, true]);
            assert_eq!(Score::from_json(&ideal.json()), Some(ideal));
        }
    }

    #[test]
    fn an_edit_that_changes_everything_keeps_nothing_that_could_be_measured() {
        let mut case = Case::draw(Attribute::Style, 0, 64).unwrap();
        case.changed.fill(true);
        let score = Score::of(&case, &case.target, &case.source);
        assert!(
            score.outside == 0
                && score.kept.is_nan()
                && score.kept_floor.is_nan()
                && score.succeeds(Criterion::Halfway)
        );
        let read = Score::from_json(&score.json()).unwrap();
        assert!(read.kept.is_nan() && read.to_target == score.to_target);
    }
}
