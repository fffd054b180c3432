//! Whether one method changes as much as another where it keeps as much.
//!
//! A method reaches a preservation with a setting that keeps that much or more; its front is the best success among those
//! settings. Fronts are steps, so two of them need comparing only where one of the two has a step.

use std::fmt::Write;

use edict_scenes::Attribute;

use crate::interval::{draws, middle};
use crate::method::Setting;
use crate::runs::Run;
use crate::score::decibels;

/// Draws of cases over which fronts are built again.
const DRAWS: usize = 400;

/// How much less than a level still reaches it, in dB: far above rounding, far below what is printed.
const SLACK: f64 = 1e-9;

/// A run as a point: what it keeps and how often it succeeds.
struct Point<'a> {
    /// Its place among the runs.
    index: usize,
    run: &'a Run,
    preservation: f64,
    success: f64,
}

/// Where a front has a step: at what a setting keeps.
struct Step {
    /// dB.
    preservation: f64,
    /// Whose: 0 ours, 1 theirs.
    side: usize,
    /// The setting's place among the runs of that side.
    run: usize,
}

/// A front at one preservation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reached {
    setting: Setting,
    success: f64,
    refused: usize,
}

impl Reached {
    fn of(point: &Point<'_>) -> Self {
        Self { setting: point.run.setting, success: point.success, refused: point.run.refused() }
    }
}

/// The other front at the same preservation, and how the two differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Beside {
    theirs: Reached,
    /// Our success less theirs, and its 95% bootstrap interval over the cases.
    difference: f64,
    interval: [f64; 2],
    /// The share of draws that the interval is of: those in which both keep so much.
    drawn: f64,
}

/// Two fronts at one preservation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    /// dB.
    preservation: f64,
    ours: Reached,
    /// `None` where no setting of the other keeps so much.
    beside: Option<Beside>,
}

/// The comparison of two methods on the cases that all their settings have been tried on.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    ours: &'static str,
    theirs: &'static str,
    cases: usize,
    /// From what keeps most to what keeps least.
    pub(crate) levels: Vec<Level>,
}

/// Compares the fronts of two methods within what the first reaches; `None` if one has no results, or they share no case.
pub(crate) fn compare(runs: &[Run], ours: &'static str, theirs: &'static str) -> Option<Comparison> {
    let both: Vec<&Run> = runs.iter().filter(|run| [ours, theirs].contains(&run.method)).collect();
    let shared = |case: &_| both.iter().all(|run| run.outcomes.contains_key(case));
    let of = |method: &str| -> Vec<Run> {
        both.iter().filter(|run| run.method == method).map(|run| run.of(shared)).collect()
    };
    let (our_runs, their_runs) = (of(ours), of(theirs));
    let (our_points, their_points) = (points(&our_runs), points(&their_runs));
    let cases = our_runs.first()?.outcomes.len();
    let least = our_points.iter().map(|point| point.preservation).reduce(f64::min)?;
    let most = our_points.iter().map(|point| point.preservation).reduce(f64::max)?;
    their_points.first()?;

    let mut steps: Vec<Step> = [&our_points, &their_points]
        .into_iter()
        .enumerate()
        .flat_map(|(side, points)| {
            let places = places(points);
            let unbeaten =
                points.iter().filter(move |point| !is_beaten((point.preservation, point.success), &places));
            unbeaten.map(move |point| Step { preservation: point.preservation, side, run: point.index })
        })
        .filter(|step| (least..=most).contains(&step.preservation))
        .collect();
    steps.sort_by(|a, b| b.preservation.total_cmp(&a.preservation));
    steps.dedup_by(|a, b| a.preservation == b.preservation);
    let differences = differences([&our_runs, &their_runs], &steps);
    let level = |(step, drawn): (&Step, Vec<f64>)| {
        let preservation = step.preservation;
        let ours = best(&our_points, preservation)?;
        let beside = best(&their_points, preservation).map(|theirs| Beside {
            theirs: Reached::of(theirs),
            difference: ours.success - theirs.success,
            drawn: drawn.len() as f64 / DRAWS as f64,
            interval: middle(drawn),
        });
        Some(Level { preservation, ours: Reached::of(ours), beside })
    };
    let levels = steps.iter().zip(differences).filter_map(level).collect();
    Some(Comparison { ours, theirs, cases, levels })
}

/// Runs as points; one that kept nothing that could be measured is none.
fn points(runs: &[Run]) -> Vec<Point<'_>> {
    let point = |(index, run)| {
        let run: &Run = run;
        Point { index, run, preservation: run.preservation(), success: run.success() }
    };
    runs.iter().enumerate().map(point).filter(|point| point.preservation.is_finite()).collect()
}

fn places(points: &[Point<'_>]) -> Vec<(f64, f64)> {
    points.iter().map(|point| (point.preservation, point.success)).collect()
}

/// Whether another of the points, preservation and success, is as good in both and better in one.
pub(crate) fn is_beaten(point: (f64, f64), all: &[(f64, f64)]) -> bool {
    all.iter().any(|other| {
        let (more, better) = (other.0 - point.0, other.1 - point.1);
        more >= 0.0 && better >= 0.0 && more + better > 0.0
    })
}

/// The settings of runs that no other of them beats, from what keeps most to what keeps least.
pub(crate) fn front(runs: &[Run]) -> Vec<Setting> {
    let points = points(runs);
    let places = places(&points);
    let mut front: Vec<_> =
        (points.iter().zip(&places)).filter(|(_, place)| !is_beaten(**place, &places)).collect();
    front.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    front.into_iter().map(|(point, _)| point.run.setting).collect()
}

/// The most successful of the points that keep so much.
fn best<'p, 'r>(points: &'p [Point<'r>], preservation: f64) -> Option<&'p Point<'r>> {
    let order = |a: &&Point<'_>, b: &&Point<'_>| {
        a.success.total_cmp(&b.success).then(a.preservation.total_cmp(&b.preservation))
    };
    points.iter().filter(|point| point.preservation >= preservation - SLACK).max_by(order)
}

/// A run case by case: whether it succeeds, the squared error of what it keeps, and over how many pixels.
struct Cases(Vec<(bool, f64, usize)>);

impl Cases {
    fn of(run: &Run) -> Self {
        let case = |outcome: &Option<(crate::score::Score, _)>| match outcome {
            Some((score, _)) => (score.succeeds(run.criterion), score.kept_sums()[0], score.outside),
            None => (false, 0.0, 0),
        };
        Self(run.outcomes.values().map(case).collect())
    }

    /// Preservation and success when each case counts so many times.
    fn place(&self, times: &[u32]) -> (f64, f64) {
        let (mut hits, mut all, mut error, mut pixels) = (0, 0, 0.0, 0.0);
        for (&times, &(succeeds, kept, outside)) in times.iter().zip(&self.0) {
            all += times;
            hits += times * u32::from(succeeds);
            error += f64::from(times) * kept;
            pixels += f64::from(times) * outside as f64;
        }
        (decibels(error / pixels), f64::from(hits) / f64::from(all))
    }
}

/// The differences at each step in draws of the cases, each of which builds both fronts anew: which setting is best is as unsure as
/// how good it is. What the step's own setting keeps moves with the draw, and the level with it; were it held, the setting would
/// drop off its own level in every second draw. Where the other side does not reach the level, a draw says nothing.
fn differences(runs: [&[Run]; 2], steps: &[Step]) -> Vec<Vec<f64>> {
    let cases = runs.map(|runs| runs.iter().map(Cases::of).collect::<Vec<_>>());
    let mut differences = vec![Vec::new(); steps.len()];
    for times in draws(&groups(runs), DRAWS) {
        let places =
            cases.each_ref().map(|runs| runs.iter().map(|run| run.place(&times)).collect::<Vec<_>>());
        for (differences, step) in differences.iter_mut().zip(steps) {
            let level = places[step.side][step.run].0;
            let [ours, theirs] = places.each_ref().map(|places| {
                let reach = places.iter().filter(|place| place.0 >= level - SLACK);
                reach.map(|place| place.1).reduce(f64::max)
            });
            differences.extend(ours.zip(theirs).map(|(ours, theirs)| ours - theirs));
        }
    }
    differences
}

/// How many cases each attribute has, in the order of the cases; all runs have the same.
fn groups(runs: [&[Run]; 2]) -> Vec<usize> {
    let mut groups = [0; Attribute::ALL.len()];
    runs.into_iter()
        .flatten()
        .take(1)
        .flat_map(|run| run.outcomes.keys())
        .for_each(|case| groups[case.0] += 1);
    groups.to_vec()
}

/// A comparison for people, as Markdown; `edits` says of which.
pub(crate) fn markdown(comparison: &Comparison, edits: &str) -> String {
    let Comparison { ours, theirs, cases, levels } = comparison;
    let mut text = format!(
        "\n## {ours} against {theirs}, {edits}\n\nBest success among the settings that keep as much or more, on the {cases} edits that \
         both were tried on. The interval is that of the difference: {DRAWS} draws of each attribute's edits, each of which builds both \
         fronts anew, at what the setting that makes the step keeps in that draw. Draws in which one of the two does not keep so much \
         are left out; the last column has the share of the others.\n\n\
         | preservation | {ours} | at | refused | {theirs} | at | refused | difference (95%) | draws |\n|---|---|---|---|---|---|---|---|---|\n"
    );
    // Writing to a string cannot fail.
    for Level { preservation, ours, beside } in levels {
        let cells = |at: &Reached| format!("{:.3} | {} | {}", at.success, at.setting, at.refused);
        let (their, difference) = match beside {
            Some(Beside { theirs, difference, interval: [low, high], drawn }) => {
                (cells(theirs), format!("{difference:+.3} ({low:+.3} to {high:+.3}) | {drawn:.2}"))
            }
            None => ("does not keep so much | - | -".to_owned(), "- | -".to_owned()),
        };
        let _ = writeln!(text, "| {preservation:.2} dB | {} | {their} | {difference} |", cells(ours));
    }
    let besides: Vec<&Beside> = levels.iter().filter_map(|level| level.beside.as_ref()).collect();
    let count = |is: fn(&Beside) -> bool| besides.iter().filter(|beside| is(beside)).count();
    let _ = writeln!(
        text,
        "\nOf the {} steps of the fronts {theirs} reaches {}: there {ours} is not below it at {}, above with the whole interval at {}, \
         and below with the whole interval at {}. At the other {} no setting of {theirs} keeps so much.",
        levels.len(),
        besides.len(),
        count(|beside| beside.difference >= 0.0),
        count(|beside| beside.interval[0] > 0.0),
        count(|beside| beside.interval[1] < 0.0),
        levels.len() - besides.len(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::made_up::run;

    /// EDICT keeps 30 dB with 4 of 10, 25 dB with 8, 20 dB with 7 (beaten by its own at 25).
    fn edict() -> Vec<Run> {
        vec![
            run("edict", 1.0, 0, [4, 10], 30.0),
            run("edict", 3.0, 0, [8, 10], 25.0),
            run("edict", 7.0, 0, [7, 10], 20.0),
        ]
    }

    fn levels(others: Vec<Run>) -> Vec<Level> {
        compare(&[edict(), others].concat(), "edict", "ddim").unwrap().levels
    }

    #[test]
    fn fronts_are_compared_at_every_step_of_either_within_range() {
        // 32 dB is out of EDICT's range, as is 15; 27 and 22 are steps of the other alone.
        let levels = levels(vec![
            run("ddim", 1.0, 0, [1, 10], 32.0),
            run("ddim", 2.0, 0, [6, 10], 27.0),
            run("ddim", 3.0, 0, [9, 10], 22.0),
            run("ddim", 7.0, 0, [10, 10], 15.0),
        ]);
        let found: Vec<_> = levels
            .iter()
            .map(|level| {
                let Beside { theirs, difference, .. } = level.beside.unwrap();
                let tenths = (difference * 10.0).round();
                (level.preservation.round(), level.ours.success, theirs.success, tenths)
            })
            .collect();
        assert_eq!(
            found,
            [(30.0, 0.4, 0.1, 3.0), (27.0, 0.4, 0.6, -2.0), (25.0, 0.8, 0.6, 2.0), (22.0, 0.8, 0.9, -1.0)]
        );
        assert_eq!(levels[2].ours.setting.guidance, 3.0);
    }

    #[test]
    fn levels_that_the_other_does_not_reach_are_counted_apart() {
        let other = run("ddim", 1.0, 0, [10, 10], 22.0);
        let levels = levels(vec![other.clone()]);
        let reached: Vec<_> = levels.iter().map(|level| level.beside.is_some()).collect();
        assert_eq!(reached, [false, false, true]);
        let text =
            markdown(&compare(&[edict(), vec![other]].concat(), "edict", "ddim").unwrap(), "all edits");
        assert!(text.contains(
            "Of the 3 steps of the fronts ddim reaches 1: there edict is not below it at 0, above"
        ));
        assert!(text.contains("At the other 2 no setting of ddim keeps so much."), "{text}");
        let cells: Vec<_> =
            text.lines().map(|line| line.matches('|').count()).filter(|cells| *cells > 0).collect();
        assert_eq!(cells, [10; 5]);
    }

    #[test]
    fn intervals_are_of_pairs() {
        // The same cases succeed: of the difference, nothing is uncertain, although both shares are.
        for level in levels(vec![run("ddim", 1.0, 0, [4, 10], 30.0), run("ddim", 3.0, 0, [8, 10], 25.0)]) {
            let Beside { difference, interval, .. } = level.beside.unwrap();
            assert_eq!((difference, interval), (0.0, [0.0; 2]));
        }
        // Three cases in ten differ: 0.3, and 95% of draws between 0 and 0.6.
        let Beside { difference, interval, .. } =
            levels(vec![run("ddim", 1.0, 0, [1, 10], 30.0)])[0].beside.unwrap();
        assert!((difference - 0.3).abs() < 1e-9);
        assert!(interval[0] <= 0.1 && (0.5..=0.7).contains(&interval[1]), "{interval:?}");
    }

    #[test]
    fn every_draw_chooses_the_best_setting_anew() {
        // One setting does the first five cases, the other the last five. In any draw one of the two does half or more.
        let first = run("edict", 1.0, 0, [5, 10], 30.0);
        let mut last = run("edict", 3.0, 0, [5, 10], 30.0);
        last.outcomes = first.outcomes.iter().map(|(case, outcome)| ((0, 9 - case.1), *outcome)).collect();
        let runs = [first, last, run("ddim", 1.0, 0, [0, 10], 30.0)];
        let Beside { interval, .. } = compare(&runs, "edict", "ddim").unwrap().levels[0].beside.unwrap();
        assert!(interval[0] >= 0.5 && interval[1] > 0.6, "{interval:?}");
    }

    #[test]
    fn a_setting_stays_at_its_own_level_in_every_draw() {
        // The second setting keeps more of some cases and less of others, so that what it keeps differs from draw to draw.
        let mut uneven = run("edict", 3.0, 0, [10, 10], 30.0);
        for (case, outcome) in &mut uneven.outcomes {
            let (score, _) = outcome.as_mut().unwrap();
            score.kept *= if case.1 < 5 { 1.5 } else { 0.5 };
        }
        let ours = [run("edict", 1.0, 0, [0, 10], 40.0), uneven];
        let beside = |preservation| {
            let runs = [&ours[..], &[run("ddim", 1.0, 0, [0, 10], preservation)]].concat();
            compare(&runs, "edict", "ddim").unwrap().levels.pop().unwrap().beside.unwrap()
        };
        // In none does it drop to the setting that never succeeds.
        let Beside { difference, interval, drawn, .. } = beside(35.0);
        assert_eq!((difference, interval, drawn), (1.0, [1.0; 2], 1.0));
        // The other keeps as much on the whole, and in about every second draw.
        let Beside { difference, interval, drawn, .. } = beside(30.0);
        assert_eq!((difference, interval), (1.0, [1.0; 2]));
        assert!((0.3..0.7).contains(&drawn), "{drawn}");
    }

    #[test]
    fn draws_have_as_many_cases_of_each_attribute() {
        // All kinds succeed and no colour does: whatever is drawn, half of all.
        let mut ours = run("edict", 1.0, 0, [10, 10], 30.0);
        ours.outcomes.extend(run("edict", 1.0, 1, [0, 10], 30.0).outcomes);
        let mut theirs = run("ddim", 1.0, 0, [0, 10], 30.0);
        theirs.outcomes.extend(run("ddim", 1.0, 1, [0, 10], 30.0).outcomes);
        let Beside { difference, interval, .. } =
            compare(&[ours, theirs], "edict", "ddim").unwrap().levels[0].beside.unwrap();
        assert_eq!((difference, interval), (0.5, [0.5; 2]));
    }

    #[test]
    fn only_cases_that_both_were_tried_on_count() {
        let comparison =
            compare(&[edict(), vec![run("ddim", 1.0, 0, [4, 5], 25.0)]].concat(), "edict", "ddim").unwrap();
        assert_eq!(comparison.cases, 5);
        // Of the first five cases EDICT's 8 of 10 are 5 of 5.
        assert_eq!(comparison.levels.last().unwrap().ours.success, 1.0);
        assert!(compare(&edict(), "edict", "ddim").is_none());
    }
}
