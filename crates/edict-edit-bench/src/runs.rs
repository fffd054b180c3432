//! Results put together: what each method did at each setting, case by case.

use std::collections::BTreeMap;
use std::ops::Range;

use edict_scenes::Attribute;

use crate::Fault;
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

/// Takes, of each attribute, how many ideal edits still succeed when they have gone through the autoencoder, and of how many.
pub(crate) fn ceiling(
    numbers: Range<u64>,
    criterion: Criterion,
    results: &Results,
) -> [(usize, usize); Attribute::ALL.len()] {
    let scores = results.scores();
    Attribute::ALL.map(|attribute| {
        let of =
            numbers.clone().filter_map(|number| scores.get(&ceiling_key(attribute, number))?.as_ref().ok());
        of.fold((0, 0), |(hits, all), (score, _)| (hits + usize::from(score.succeeds(criterion)), all + 1))
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

    /// 1 for every case whose edit succeeds and 0 for every other, in the order of the cases. An edit that could not be done
    /// has not succeeded.
    pub(crate) fn successes(&self) -> Vec<f64> {
        let succeeds =
            |outcome: &Option<(Score, _)>| outcome.is_some_and(|(score, _)| score.succeeds(self.criterion));
        self.outcomes.values().map(|outcome| f64::from(u8::from(succeeds(outcome)))).collect()
    }

    /// The share of edits that succeed, in [0, 1].
    pub(crate) fn success(&self) -> f64 {
        mean(self.successes())
    }

    /// The share of each attribute's edits that succeed, as cells of a table; a dash where there were none.
    pub(crate) fn shares(&self) -> String {
        let share = |place| {
            let of = self.of_attribute(place);
            if of.outcomes.is_empty() { "-".to_owned() } else { format!("{:.2}", of.success()) }
        };
        std::array::from_fn::<_, { Attribute::ALL.len() }, _>(share).join(" | ")
    }

    /// What is kept outside the region to change, in dB, from the mean of squared errors.
    pub(crate) fn preservation(&self) -> f64 {
        decibels(mean(self.scores().map(|score| score.kept)))
    }

    /// What the autoencoder alone keeps there, in dB.
    pub(crate) fn floor(&self) -> f64 {
        decibels(mean(self.scores().map(|score| score.kept_floor)))
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
        assert_eq!(run.successes(), [1.0, 0.0, 0.0, 1.0]);
        assert!((run.preservation() - 20.0).abs() < 1e-9);
        assert_eq!((run.of_attribute(2).success(), run.refused()), (0.0, 1));
        assert_eq!(run.of_attribute(1).outcomes.len(), 2);
        // Errors are averaged before they become dB: of 20 and 10 dB not 15, but 10 log10(2 / (0.01 + 0.1)).
        let mixed: Vec<f64> = [20.0, 10.0].iter().map(|db| score(true, *db).kept).collect();
        assert!((decibels(mean(mixed)) - 12.596).abs() < 1e-3);
    }
}
