//! Whether one method changes as much as another where it keeps as much.
//!
//! A method reaches a preservation with a setting that keeps that much or more; its front is the best success among those
//! settings. Fronts are steps, so two of them need comparing only where one of the two has a step.

use std::fmt::Write;

use crate::bootstrap::interval;
use crate::method::Setting;
use crate::runs::{Run, mean};

/// A run as a point: what it keeps and how often it succeeds.
struct Point<'a> {
    run: &'a Run,
    preservation: f64,
    success: f64,
}

/// Two fronts at one preservation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Level {
    /// dB.
    pub(crate) preservation: f64,
    ours: (Setting, f64),
    /// `None` where no setting of the other keeps so much.
    theirs: Option<(Setting, f64)>,
    /// Our success less theirs, and its 95% bootstrap interval over the cases.
    pub(crate) difference: f64,
    pub(crate) interval: [f64; 2],
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

    let mut steps: Vec<f64> = [&our_points, &their_points]
        .into_iter()
        .flat_map(|points| points.iter().filter(|point| !is_beaten(point, points)))
        .map(|point| point.preservation)
        .filter(|preservation| (least..=most).contains(preservation))
        .collect();
    steps.sort_by(|a, b| b.total_cmp(a));
    steps.dedup();
    let level = |preservation: f64| {
        let our = best(&our_points, preservation)?;
        let their = best(&their_points, preservation);
        // The settings stay as all cases have chosen them, and the cases are drawn in pairs.
        let theirs = their.map_or_else(|| vec![0.0; cases], |point| point.run.successes());
        let differences: Vec<f64> = our.run.successes().iter().zip(theirs).map(|(a, b)| a - b).collect();
        Some(Level {
            preservation,
            ours: (our.run.setting, our.success),
            theirs: their.map(|point| (point.run.setting, point.success)),
            difference: mean(differences.iter().copied()),
            interval: interval(&differences),
        })
    };
    Some(Comparison { ours, theirs, cases, levels: steps.into_iter().filter_map(level).collect() })
}

/// Runs as points; one that kept nothing that could be measured is none.
fn points(runs: &[Run]) -> Vec<Point<'_>> {
    let point = |run| {
        let run: &Run = run;
        Point { run, preservation: run.preservation(), success: run.success() }
    };
    runs.iter().map(point).filter(|point| point.preservation.is_finite()).collect()
}

/// Whether another point is as good in both and better in one.
fn is_beaten(point: &Point<'_>, all: &[Point<'_>]) -> bool {
    all.iter().any(|other| {
        let (more, better) = (other.preservation - point.preservation, other.success - point.success);
        more >= 0.0 && better >= 0.0 && more + better > 0.0
    })
}

/// The most successful of the points that keep so much.
fn best<'p, 'r>(points: &'p [Point<'r>], preservation: f64) -> Option<&'p Point<'r>> {
    let order = |a: &&Point<'_>, b: &&Point<'_>| {
        a.success.total_cmp(&b.success).then(a.preservation.total_cmp(&b.preservation))
    };
    points.iter().filter(|point| point.preservation >= preservation).max_by(order)
}

/// A comparison for people, as Markdown.
pub(crate) fn markdown(comparison: &Comparison) -> String {
    let Comparison { ours, theirs, cases, levels } = comparison;
    let mut text = format!(
        "\n## {ours} against {theirs}\n\nBest success among the settings that keep as much or more, on the {cases} edits that both \
         were tried on; the interval is that of the difference.\n\n| preservation | {ours} | at | {theirs} | at | difference (95%) |\n\
         |---|---|---|---|---|---|\n"
    );
    // Writing to a string cannot fail.
    for level in levels {
        let (their, at) = match &level.theirs {
            Some((setting, success)) => (format!("{success:.3}"), setting.to_string()),
            None => ("does not keep so much".to_owned(), String::new()),
        };
        let _ = writeln!(
            text,
            "| {:.2} dB | {:.3} | {} | {their} | {at} | {:+.3} ({:+.3} to {:+.3}) |",
            level.preservation,
            level.ours.1,
            level.ours.0,
            level.difference,
            level.interval[0],
            level.interval[1],
        );
    }
    let count = |is: fn(&Level) -> bool| levels.iter().filter(|level| is(level)).count();
    let _ = writeln!(
        text,
        "\n{ours} is not below {theirs} at {} of {} steps of the fronts; it is above with the whole interval at {}, and below with the \
         whole interval at {}.",
        count(|level| level.difference >= 0.0),
        levels.len(),
        count(|level| level.interval[0] > 0.0),
        count(|level| level.interval[1] < 0.0),
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
            .map(|l| (l.preservation.round(), l.ours.1, l.theirs.unwrap().1, (l.difference * 10.0).round()))
            .collect();
        assert_eq!(
            found,
            [(30.0, 0.4, 0.1, 3.0), (27.0, 0.4, 0.6, -2.0), (25.0, 0.8, 0.6, 2.0), (22.0, 0.8, 0.9, -1.0)]
        );
        assert_eq!(levels[2].ours.0.guidance, 3.0);
    }

    #[test]
    fn a_method_that_does_not_keep_so_much_counts_as_changing_nothing() {
        let levels = levels(vec![run("ddim", 1.0, 0, [10, 10], 22.0)]);
        assert_eq!(
            levels.iter().map(|level| level.theirs.is_none()).collect::<Vec<_>>(),
            [true, true, false]
        );
        assert_eq!(levels[0].difference, 0.4);
        let text = markdown(
            &compare(&[edict(), vec![run("ddim", 1.0, 0, [10, 10], 22.0)]].concat(), "edict", "ddim")
                .unwrap(),
        );
        assert!(text.contains("not below ddim at 2 of 3 steps"), "{text}");
    }

    #[test]
    fn intervals_are_of_pairs() {
        // The same cases succeed: of the difference, nothing is uncertain, although both shares are.
        for level in levels(vec![run("ddim", 1.0, 0, [4, 10], 30.0), run("ddim", 3.0, 0, [8, 10], 25.0)]) {
            assert_eq!((level.difference, level.interval), (0.0, [0.0; 2]));
        }
        // Three cases in ten differ: 0.3, and 95% of draws between 0 and 0.6.
        let level = &levels(vec![run("ddim", 1.0, 0, [1, 10], 30.0)])[0];
        assert!((level.difference - 0.3).abs() < 1e-9);
        assert!(level.interval[0] <= 0.1 && (0.5..=0.7).contains(&level.interval[1]), "{:?}", level.interval);
    }

    #[test]
    fn only_cases_that_both_were_tried_on_count() {
        let comparison =
            compare(&[edict(), vec![run("ddim", 1.0, 0, [4, 5], 25.0)]].concat(), "edict", "ddim").unwrap();
        assert_eq!(comparison.cases, 5);
        // Of the first five cases EDICT's 8 of 10 are 5 of 5.
        assert_eq!(comparison.levels.last().unwrap().ours.1, 1.0);
        assert!(compare(&edict(), "edict", "ddim").is_none());
    }
}
