//! Results put together: what each method did at each setting, case by case.

use std::collections::BTreeMap;
use std::ops::Range;

use edict_scenes::Attribute;

use crate::Fault;
use crate::interval;
use crate::method::{Method, Plan, Setting};
use crate::results::{Reconstruction, Results, ceiling_key, key};
use crate::score::{Criterion, Score, decibels};

/// A case: the attribute that its edit changes, as a place in [`Attribute::ALL`], and its number.
pub(crate) type CaseId = (usize, u64);

/// One method at one setting.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) method: &'static str,
    pub(crate) setting: Setting,
    /// Calls of the network that an edit takes.
    pub(crate) calls: usize,
    /// What counts as a success.
    pub(crate) criterion: Criterion,
    /// `None` where the method could not do the edit.
    pub(crate) outcomes: BTreeMap<CaseId, Option<(Score, Option<Reconstruction>)>>,
}

/// Takes the results of every method at every setting that has some.
///
/// # Errors
/// If a method cannot work with a setting at all.
pub(crate) fn runs(
    methods: &[Method],
    plans: &[Plan],
    numbers: Range<u64>,
    criterion: Criterion,
    results: &Results,
) -> Result<Vec<Run>, Fault> {
    let mut runs = Vec::new();
    let scores = results.scores();
    for method in methods {
        for plan in plans.iter().filter(|plan| method.takes(plan.setting)) {
            let setting = plan.setting;
            let mut outcomes = BTreeMap::new();
            for (place, attribute) in Attribute::ALL.into_iter().enumerate() {
                for number in numbers.clone() {
                    if let Some(outcome) = scores.get(&key(method.name(), setting, attribute, number)) {
                        outcomes.insert((place, number), outcome.as_ref().ok().copied());
                    }
                }
            }
            if !outcomes.is_empty() {
                runs.push(Run {
                    method: method.name(),
                    setting,
                    calls: method.calls(plan)?,
                    criterion,
                    outcomes,
                });
            }
        }
    }
    Ok(runs)
}

/// Ideal edits of one attribute that have gone through the autoencoder and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ceiling {
    pub(crate) edits: usize,
    /// How many of them still succeed.
    pub(crate) hits: usize,
    /// Pixels outside the region to change, of all of them.
    pub(crate) outside: usize,
}

/// Takes the ideal edits of each attribute.
pub(crate) fn ceiling(
    numbers: Range<u64>,
    criterion: Criterion,
    results: &Results,
) -> [Ceiling; Attribute::ALL.len()] {
    let scores = results.scores();
    Attribute::ALL.map(|attribute| {
        let of =
            numbers.clone().filter_map(|number| scores.get(&ceiling_key(attribute, number))?.as_ref().ok());
        of.fold(Ceiling::default(), |Ceiling { edits, hits, outside }, (score, _)| Ceiling {
            edits: edits + 1,
            hits: hits + usize::from(score.succeeds(criterion)),
            outside: outside + score.outside,
        })
    })
}

/// The runs that have been tried on edits of all these attributes, on those of them that every such run has been tried on: on
/// others they cannot be compared.
pub(crate) fn comparable(runs: &[Run], places: &[usize]) -> Vec<Run> {
    let of: Vec<Run> = (runs.iter())
        .map(|run| run.of(|case| places.contains(&case.0)))
        .filter(|run| places.iter().all(|place| run.outcomes.keys().any(|case| case.0 == *place)))
        .collect();
    let tried = |case: &CaseId| of.iter().all(|run| run.outcomes.contains_key(case));
    of.iter().map(|run| run.of(tried)).filter(|run| !run.outcomes.is_empty()).collect()
}

/// The places of all attributes of which an edit has been tried.
pub(crate) fn places(runs: &[Run]) -> Vec<usize> {
    let tried = |place: &usize| runs.iter().any(|run| run.outcomes.keys().any(|case| case.0 == *place));
    (0..Attribute::ALL.len()).filter(tried).collect()
}

/// The places of those of the attributes whose edits are local.
pub(crate) fn local(places: &[usize]) -> Vec<usize> {
    let is_local = |place: &usize| matches!(Attribute::ALL[*place], Attribute::Kind | Attribute::Colour);
    places.iter().copied().filter(is_local).collect()
}

/// The methods of runs, in their order.
pub(crate) fn methods(runs: &[Run]) -> Vec<&'static str> {
    let mut methods: Vec<_> = runs.iter().map(|run| run.method).collect();
    methods.dedup();
    methods
}

impl Run {
    /// The same run on some of its cases.
    pub(crate) fn of(&self, wanted: impl Fn(&CaseId) -> bool) -> Self {
        let outcomes = self.outcomes.iter().filter(|(case, _)| wanted(case)).map(|(case, o)| (*case, *o));
        Self { outcomes: outcomes.collect(), ..*self }
    }

    /// The same run on the edits of one attribute.
    pub(crate) fn of_attribute(&self, place: usize) -> Self {
        self.of(|case| case.0 == place)
    }

    /// The edits that could be done.
    pub(crate) fn scores(&self) -> impl Iterator<Item = &Score> {
        self.outcomes.values().flatten().map(|(score, _)| score)
    }

    /// How many edits could not be done.
    pub(crate) fn refused(&self) -> usize {
        self.outcomes.values().filter(|outcome| outcome.is_none()).count()
    }

    /// Whether the edit of each case succeeds, in the order of the cases. An edit that could not be done has not succeeded.
    fn successes(&self) -> Vec<bool> {
        let succeeds =
            |outcome: &Option<(Score, _)>| outcome.is_some_and(|(score, _)| score.succeeds(self.criterion));
        self.outcomes.values().map(succeeds).collect()
    }

    /// The share of edits that succeed, in [0, 1].
    pub(crate) fn success(&self) -> f64 {
        mean(self.successes().into_iter().map(|succeeds| f64::from(u8::from(succeeds))))
    }

    /// The share of each attribute's edits that succeed, as cells of a table; a dash where there were none.
    pub(crate) fn shares(&self) -> String {
        let share = |place| {
            let of = self.of_attribute(place);
            if of.outcomes.is_empty() { "-".to_owned() } else { format!("{:.2}", of.success()) }
        };
        std::array::from_fn::<_, { Attribute::ALL.len() }, _>(share).join(" | ")
    }

    /// What is kept outside the region to change, in dB, from the mean of squared errors over the pixels there of all edits; NaN
    /// if there are none.
    pub(crate) fn preservation(&self) -> f64 {
        self.kept()[0]
    }

    /// What the autoencoder alone keeps there, in dB.
    pub(crate) fn floor(&self) -> f64 {
        self.kept()[1]
    }

    fn kept(&self) -> [f64; 2] {
        let (sums, pixels) = self.scores().fold(([0.0; 2], 0), |([kept, floor], pixels), score| {
            let [more, more_floor] = score.kept_sums();
            ([kept + more, floor + more_floor], pixels + score.outside)
        });
        sums.map(|sum| decibels(sum / pixels as f64))
    }

    /// The share of edits that succeed, in [0, 1], with its 95% interval, as cells of a table have it.
    pub(crate) fn success_written(&self) -> String {
        let successes = self.successes();
        let hits = successes.iter().filter(|succeeds| **succeeds).count();
        let [low, high] = interval::of_share(hits, successes.len());
        format!("{:.3} ({low:.3}-{high:.3})", self.success())
    }
}

/// The mean of those values that are numbers; NaN of none.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values.into_iter().filter(|value| !value.is_nan()) {
        sum += value;
        count += 1;
    }
    sum / count as f64
}

/// Made-up runs, for tests.
#[cfg(test)]
pub(crate) mod made_up {
    use super::*;

    pub(crate) fn setting(guidance: f64) -> Setting {
        Setting { guidance, source_guidance: guidance, strength: 1.0, steps: 50 }
    }

    /// A score that succeeds or not, and keeps as many dB.
    pub(crate) fn score(succeeds: bool, preservation: f64) -> Score {
        Score {
            outside: 1000,
            kept: 4.0 * 10f64.powf(-preservation / 10.0),
            kept_floor: 4.0 * 10f64.powf(-3.5),
            to_target: if succeeds { 0.0 } else { 1.0 },
            to_source: 0.5,
            apart: 1.0,
            whole: 0.04,
        }
    }

    /// A run on cases of one attribute, of which the first `hits` of `cases` succeed, all at one preservation.
    pub(crate) fn run(
        method: &'static str,
        guidance: f64,
        place: usize,
        [hits, cases]: [u64; 2],
        preservation: f64,
    ) -> Run {
        let outcome = |number| ((place, number), Some((score(number < hits, preservation), None)));
        Run {
            method,
            setting: setting(guidance),
            calls: 200,
            criterion: Criterion::Halfway,
            outcomes: (0..cases).map(outcome).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::{run, score};
    use super::*;

    #[test]
    fn only_cases_that_all_were_tried_on_are_compared() {
        let counts = |runs: &[Run], places: &[usize]| -> Vec<_> {
            comparable(runs, places).iter().map(|run| (run.method, run.outcomes.len())).collect()
        };
        let runs = [run("edict", 3.0, 1, [3, 4], 25.0), run("ddim", 3.0, 1, [1, 2], 25.0)];
        assert_eq!(places(&runs), [1]);
        assert_eq!(counts(&runs, &[1]), [("edict", 2), ("ddim", 2)]);
        assert_eq!(counts(&runs, &[0]), []);
        // A setting that was only tried on one attribute's edits takes no part in what is said of two, and costs the others no case.
        let mut both = runs[0].clone();
        both.outcomes.extend(run("edict", 3.0, 2, [0, 3], 25.0).outcomes);
        let runs = [both, runs[1].clone()];
        assert_eq!(places(&runs), [1, 2]);
        assert_eq!(counts(&runs, &[1, 2]), [("edict", 7)]);
        assert_eq!(counts(&runs, &[1]), [("edict", 2), ("ddim", 2)]);
        // Edits of kind and colour are local.
        assert_eq!(local(&[0, 1, 2, 3, 4]), [0, 1]);
    }

    #[test]
    fn shares_and_means_are_those_counted_by_hand() {
        let mut run = run("edict", 3.0, 1, [1, 2], 20.0);
        assert_eq!(run.success(), 0.5);
        assert!((run.preservation() - 20.0).abs() < 1e-9 && (run.floor() - 35.0).abs() < 1e-9);
        // An edit that could not be done counts as one that failed, and keeps nothing that could be measured.
        run.outcomes.insert((2, 7), None);
        run.outcomes.insert((3, 0), Some((score(true, 20.0), None)));
        assert_eq!(run.successes(), [true, false, false, true]);
        assert!((run.preservation() - 20.0).abs() < 1e-9);
        assert_eq!((run.of_attribute(2).success(), run.refused()), (0.0, 1));
        assert_eq!(run.of_attribute(1).outcomes.len(), 2);
    }

    #[test]
    fn preservation_weighs_every_pixel_alike() {
        // Errors are averaged before they become dB: of 20 and 10 dB not 15, but 10 log10(2 / (0.01 + 0.1)).
        let mut run = run("edict", 3.0, 1, [1, 1], 20.0);
        run.outcomes.insert((1, 1), Some((score(true, 10.0), None)));
        assert!((run.preservation() - 12.596).abs() < 1e-3);
        // With a ninth of the pixels the second counts so much less: 10 log10(10 / (9 * 0.01 + 0.1)) = 17.21.
        run.outcomes.insert((0, 0), Some((Score { outside: 9000, ..score(true, 20.0) }, None)));
        run.outcomes.remove(&(1, 0));
        assert!((run.preservation() - 17.212).abs() < 1e-3, "{}", run.preservation());
        // An edit that was to change everything says nothing of what is kept.
        let everything = Score { outside: 0, kept: f64::NAN, kept_floor: f64::NAN, ..score(true, 20.0) };
        run.outcomes.insert((4, 0), Some((everything, None)));
        assert!((run.preservation() - 17.212).abs() < 1e-3, "{}", run.preservation());
        assert!(run.of_attribute(4).preservation().is_nan());
    }
}
