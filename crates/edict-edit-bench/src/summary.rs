//! The table of all settings, and the report that begins with what it comes to.

use std::fmt::Write;

use crate::bootstrap::interval;
use crate::runs::{Run, mean};
use crate::score::{decibels, written};
use crate::{best, pareto, reconstruction};

/// The methods that exact inversion is measured against.
const RIVALS: [&str; 2] = ["ddim", "sdedit"];

/// Everything there is to say of runs of a model, as Markdown.
pub(crate) fn report(runs: &[Run], fingerprint: &str) -> String {
    let mut text = format!("# Edit benchmark\n\nModel {fingerprint}, edict {}.\n", env!("CARGO_PKG_VERSION"));
    text += &best::markdown(runs);
    for rival in RIVALS {
        if let Some(comparison) = pareto::compare(runs, "edict", rival) {
            text += &pareto::markdown(&comparison);
        }
    }
    text += &reconstruction::markdown(runs);
    text += "\n## All settings\n\n";
    text += &table(runs);
    text
}

/// A row for each run.
fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| method | steps | strength | guidance | edits | success (95%) | kind | colour | sky | ground | style | leaning | \
         preservation | autoencoder | fidelity | refused |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let shares = run.shares();
        let [low, high] = interval(&run.successes());
        let done = run.scores().count();
        let leaning = run.scores().filter(|score| score.leans()).count() as f64 / run.outcomes.len() as f64;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.3} ({low:.3}-{high:.3}) | {shares} | {leaning:.3} | {} | {} | {} | {} |",
            run.method,
            run.setting.steps,
            run.setting.strength,
            run.setting.guidance,
            run.outcomes.len(),
            run.success(),
            written(run.preservation()),
            written(run.floor()),
            written(decibels(mean(run.scores().map(|score| score.whole)))),
            run.outcomes.len() - done,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::made_up::run;

    #[test]
    fn a_row_says_what_was_counted() {
        let mut edict = run("edict", 3.0, 1, [3, 4], 25.0);
        edict.outcomes.insert((1, 9), None);
        let text = table(&[edict]);
        let row = text.lines().last().unwrap_or_default();
        // 3 of 5, one of which could not be done; the others kept 25 dB, and were 20 dB from the ideal edit.
        assert!(row.starts_with("| edict | 50 | 1 | 3 | 5 | 0.600 ("), "{row}");
        assert!(
            row.ends_with("| - | 0.60 | - | - | - | 0.600 | 25.00 dB | 35.00 dB | 20.00 dB | 1 |"),
            "{row}"
        );
        assert_eq!(row.matches('|').count(), text.lines().next().unwrap_or_default().matches('|').count());
    }

    #[test]
    fn the_report_compares_edict_with_both_rivals_that_there_are() {
        let runs = ["edict", "ddim", "sdedit"].map(|method| run(method, 3.0, 1, [3, 4], 25.0));
        let report = report(&runs, "abc");
        assert!(report.contains("## edict against ddim") && report.contains("## edict against sdedit"));
        assert!(!super::report(&runs[..2], "abc").contains("against sdedit"));
    }
}
