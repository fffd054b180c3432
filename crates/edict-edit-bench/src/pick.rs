//! The settings worth judging, picked on other edits than those they are judged on.

use edict_scenes::Attribute;

use crate::best::best_on;
use crate::method::Setting;
use crate::pareto::front;
use crate::runs::{Run, comparable, local, methods, places};
use crate::score::Criterion;

/// A setting of a method, and the attributes, by their places, on whose edits it is worth judging.
#[derive(Clone, Debug, PartialEq)]
struct Pick {
    method: &'static str,
    setting: Setting,
    places: Vec<usize>,
}

/// What was picked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picks(Vec<Pick>);

impl Picks {
    /// Picks each method's settings: for all edits and for local ones those that none of its own beats in both preservation and
    /// success, by the stricter criterion; for each attribute, by either criterion, the best of all and of those that keep what they
    /// should.
    pub(crate) fn of(runs: &[Run]) -> Self {
        let mut picks = Self::default();
        let all = places(runs);
        for criterion in [Criterion::Halfway, Criterion::Nearer] {
            let runs: Vec<Run> = runs.iter().map(|run| Run { criterion, ..run.clone() }).collect();
            for method in methods(&runs) {
                let groups =
                    if criterion == Criterion::Halfway { vec![all.clone(), local(&all)] } else { Vec::new() };
                for places in groups {
                    let compared = comparable(&runs, &places);
                    let of: Vec<Run> = compared.into_iter().filter(|run| run.method == method).collect();
                    front(&of).into_iter().for_each(|setting| picks.add(method, setting, &places));
                }
                for &place in &all {
                    let best = [false, true].map(|kept| best_on(&runs, method, &[place], kept));
                    best.into_iter().flatten().for_each(|run| picks.add(method, run.setting, &[place]));
                }
            }
        }
        picks
    }

    fn add(&mut self, method: &'static str, setting: Setting, places: &[usize]) {
        let known = self.0.iter_mut().find(|pick| pick.method == method && pick.setting == setting);
        match known {
            Some(pick) => pick.places.extend(places),
            None => self.0.push(Pick { method, setting, places: places.to_vec() }),
        }
    }

    /// Of runs, what was picked.
    pub(crate) fn of_picked(&self, runs: &[Run]) -> Vec<Run> {
        let picked = |run: &Run| run.of(|case| self.have(run.method, run.setting, Attribute::ALL[case.0]));
        runs.iter().map(picked).filter(|run| !run.outcomes.is_empty()).collect()
    }

    /// Whether a setting is to be judged on an attribute's edits.
    pub(crate) fn have(&self, method: &str, setting: Setting, attribute: Attribute) -> bool {
        let has = |pick: &Pick| pick.places.iter().any(|place| Attribute::ALL[*place] == attribute);
        self.0.iter().any(|pick| pick.method == method && pick.setting == setting && has(pick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::made_up::run;

    #[test]
    fn what_another_setting_beats_everywhere_is_left_out() {
        let at = |guidance, kinds, skies, preservation| {
            let mut both = run("edict", guidance, 0, [kinds, 10], preservation);
            both.outcomes.extend(run("edict", guidance, 2, [skies, 10], preservation).outcomes);
            both
        };
        // 1 keeps most; 2 is best for kinds and within 3 dB of the floor at 35, 3 best for skies; 4 is beaten by 3; 5 keeps so little
        // that it is only worth judging on skies, where none succeeds more often.
        let runs = [
            at(1.0, 2, 2, 34.0),
            at(2.0, 8, 2, 32.5),
            at(3.0, 7, 8, 20.0),
            at(4.0, 6, 7, 19.0),
            at(5.0, 1, 9, 18.0),
        ];
        let picks = Picks::of(&runs);
        let judged = |guidance: usize, place: usize| {
            picks.have("edict", runs[guidance - 1].setting, Attribute::ALL[place])
        };
        let found: Vec<_> = (1..=5).map(|guidance| [0, 1, 2].map(|place| judged(guidance, place))).collect();
        let [all, none, skies] = [[true, false, true], [false; 3], [false, false, true]];
        assert_eq!(found, [all, all, all, none, skies]);
        assert!(!picks.have("ddim", runs[0].setting, Attribute::ALL[0]));
        let counts: Vec<_> =
            picks.of_picked(&runs).iter().map(|run| (run.setting.guidance, run.outcomes.len())).collect();
        assert_eq!(counts, [(1.0, 20), (2.0, 20), (3.0, 20), (5.0, 10)]);
    }
}
