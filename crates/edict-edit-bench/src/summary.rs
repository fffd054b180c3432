//! The table of all settings, and the report that begins with what it comes to.

use std::fmt::Write;

use edict_scenes::Attribute;

use crate::runs::{Ceiling, Run, comparable, local, mean, methods, places};
use crate::score::{Criterion, decibels, written};
use crate::{best, pareto, reconstruction};

/// The methods that exact inversion is measured against.
const RIVALS: [&str; 2] = ["ddim", "sdedit"];

/// What the words of the report mean.
const DEFINITIONS: &str = "
An edit changes one attribute of a drawn scene, and the scene program draws what an ideal edit would make of it. Where the two
pictures differ is the region to change. Errors are of pixels in [-1, 1], clamped; in dB they are ratios for pixels in [0, 1].

* Success: {success}. An edit that a method refuses has not succeeded.
* Preservation: outside it, the mean squared error against the source over the pixels of all edits, in dB; a pixel counts alike
  whatever the edit, as some edits leave only a few as they were. Autoencoder: the same of the source that is only encoded and
  decoded, the floor under every method.
* Fidelity: the mean squared error of the whole picture against the ideal edit, in dB.
* Shares have Wilson's 95% interval.
* Calls: of the network an edit, both ways; each is of two prompts unless its guidance scale is 1.

Inversion is under the source's caption. Guidance 3 from 1 is an edit at guidance scale 3 of an inversion at 1; where one number
stands, both are at that scale.
";

/// What runs were made with.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The model's fingerprint.
    pub(crate) model: String,
    /// Of BDIA.
    pub(crate) gamma: f64,
    /// Pixels of a picture.
    pub(crate) pixels: usize,
    pub(crate) criterion: Criterion,
    pub(crate) date: Option<String>,
}

/// What a success is, in the words of the report.
fn success(criterion: Criterion) -> &'static str {
    match criterion {
        Criterion::Halfway => {
            "in the region to change, the mean squared error against the ideal edit is below a quarter of that between source\n  \
             and ideal edit: nearer than half the way"
        }
        Criterion::Nearer => {
            "in the region to change, the edit is nearer to the ideal edit than to the source. (The stricter criterion asks for\n  \
             a distance below half of the source's.)"
        }
    }
}

/// Everything there is to say of runs of a model, as Markdown; `ceiling` is what becomes of the ideal edits of each attribute when
/// they have gone through the autoencoder, `picked_on` the runs that settings were picked on, if on others.
pub(crate) fn report(runs: &[Run], picked_on: Option<&[Run]>, about: &About, ceiling: &[Ceiling]) -> String {
    let mut text = head(runs, about);
    text += &DEFINITIONS.replace("{success}", success(about.criterion));
    text += &picking(picked_on);
    text += &autoencoder(ceiling, about.pixels);
    let all = places(runs);
    let of_all = comparable(runs, &all);
    if of_all.is_empty() {
        text += "\nNo edit has been tried with every method and setting yet: there is nothing to compare.\n";
    } else {
        let of_local = comparable(runs, &local(&all));
        text += &best::markdown(runs, picked_on);
        for rival in RIVALS {
            for (runs, edits) in [(&of_all, "all edits"), (&of_local, "local edits: kind and colour")] {
                if let Some(comparison) = pareto::compare(runs, "edict", rival) {
                    text += &pareto::markdown(&comparison, edits);
                }
            }
        }
        text += &reconstruction::markdown(&of_all);
    }
    text += "\n## All settings\n\nEach on all the edits it has been tried on.\n\n";
    text += &table(runs);
    text
}

/// On what the best settings were picked.
fn picking(picked_on: Option<&[Run]>) -> String {
    match picked_on {
        None => "\nThe best of a method's settings are picked on the edits that are reported: with more settings to pick from, that is \
                 more optimistic.\n"
            .to_owned(),
        Some(others) => format!(
            "\nThe best of a method's settings were picked on {} other edits, where a grid of {} settings of all methods was tried; judged \
             are those that no other setting of the method beat there in both success (by the stricter criterion) and preservation, on all \
             edits or on local ones, and the best for an attribute by either criterion, on its edits alone.\n",
            comparable(others, &places(others)).first().map_or(0, |run| run.outcomes.len()),
            others.len(),
        ),
    }
}

/// What was measured, with what, and on how many cases.
fn head(runs: &[Run], about: &About) -> String {
    let About { model, gamma, date, .. } = about;
    let count = |place| runs.iter().map(|run| run.of_attribute(place).outcomes.len()).max().unwrap_or(0);
    let kinds: Vec<_> = (Attribute::ALL.iter().enumerate())
        .map(|(place, attribute)| format!("{} {}", attribute.word(), count(place)))
        .collect();
    let settings: Vec<_> = (methods(runs).into_iter())
        .map(|method| format!("{method} {}", runs.iter().filter(|run| run.method == method).count()))
        .collect();
    format!(
        "# Edit benchmark\n\nModel {model}, edict {}{}. Gamma of BDIA: {gamma}. Edits of each attribute: {}. Settings of each method: {}. \
         {} edits have been tried with every method and setting that is for edits of all attributes; comparisons are on those.\n",
        env!("CARGO_PKG_VERSION"),
        date.as_ref().map_or(String::new(), |date| format!(", {date}")),
        kinds.join(", "),
        settings.join(", "),
        comparable(runs, &places(runs)).first().map_or(0, |run| run.outcomes.len()),
    )
}

/// What no method can exceed, as its pictures come out of the decoder.
fn autoencoder(ceiling: &[Ceiling], pixels: usize) -> String {
    let mut text = String::from(
        "\n## The autoencoder's own ceiling\n\nThe share of ideal edits that succeed after nothing but encoding and decoding, and the \
         share of pixels that lie outside the region to change.\n\n\
         | attribute | edits | success | outside |\n|---|---|---|---|\n",
    );
    for (attribute, of) in Attribute::ALL.iter().zip(ceiling).filter(|(_, of)| of.edits > 0) {
        let edits = of.edits as f64;
        let (success, outside) = (of.hits as f64 / edits, of.outside as f64 / edits / pixels as f64);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {edits} | {success:.3} | {outside:.3} |", attribute.word());
    }
    text
}

/// A row for each run.
fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| method | steps | strength | guidance | inverted at | calls | edits | success (95%) | kind | colour | sky | ground | style | \
         preservation | autoencoder | fidelity | refused |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let shares = run.shares();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {shares} | {} | {} | {} | {} |",
            run.method,
            run.setting.steps,
            run.setting.strength,
            run.setting.guidance,
            run.setting.source_guidance,
            run.calls,
            run.outcomes.len(),
            run.success_written(),
            written(run.preservation()),
            written(run.floor()),
            written(decibels(mean(run.scores().map(|score| score.whole)))),
            run.refused(),
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
        assert!(row.starts_with("| edict | 50 | 1 | 3 | 3 | 200 | 5 | 0.600 ("), "{row}");
        assert!(row.ends_with("| - | 0.60 | - | - | - | 25.00 dB | 35.00 dB | 20.00 dB | 1 |"), "{row}");
        assert_eq!(row.matches('|').count(), text.lines().next().unwrap_or_default().matches('|').count());
    }

    fn about() -> About {
        About {
            model: "abc".to_owned(),
            gamma: 0.98,
            pixels: 2000,
            criterion: Criterion::Halfway,
            date: Some("1 May".to_owned()),
        }
    }

    #[test]
    fn the_report_compares_edict_with_both_rivals_that_there_are() {
        let runs = ["edict", "ddim", "sdedit"].map(|method| run(method, 3.0, 1, [3, 4], 25.0));
        let of = |runs: &[Run]| report(runs, None, &about(), &[]);
        let text = of(&runs);
        for rival in RIVALS {
            for edits in ["all edits", "local edits: kind and colour"] {
                assert!(text.contains(&format!("## edict against {rival}, {edits}")), "{text}");
            }
        }
        assert!(!of(&runs[..2]).contains("against sdedit"));
    }

    #[test]
    fn the_report_says_what_was_measured_on_how_much() {
        let mut runs = vec![run("edict", 3.0, 1, [3, 4], 25.0), run("ddim", 3.0, 1, [1, 2], 25.0)];
        let ceiling = [Ceiling::default(), Ceiling { edits: 4, hits: 3, outside: 5000 }];
        let text = report(&runs, None, &about(), &ceiling);
        for part in [
            "Model abc, edict",
            ", 1 May. Gamma of BDIA: 0.98. Edits of each attribute: kind 0, colour 4,",
            "Settings of each method: edict 1, ddim 1. 2 edits have been tried",
            "| colour | 4 | 0.750 | 0.625 |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        runs.push(run("ddim", 5.0, 2, [1, 2], 25.0));
        assert!(report(&runs, None, &about(), &ceiling).contains("there is nothing to compare"));
    }

    #[test]
    fn the_best_setting_is_the_one_picked_on_other_edits() {
        // 3 is better on these edits, 1 was on the others.
        let runs = [run("edict", 1.0, 1, [2, 4], 25.0), run("edict", 3.0, 1, [3, 4], 25.0)];
        let others = [run("edict", 1.0, 1, [3, 3], 25.0), run("edict", 3.0, 1, [1, 3], 25.0)];
        for (picked_on, best, says) in [
            (
                None,
                "| edict | 50 steps, strength 1, guidance 3 | 200 | 0.750",
                "picked on the edits that are reported",
            ),
            (
                Some(&others[..]),
                "| edict | 50 steps, strength 1, guidance 1 | 200 | 0.500",
                "on 3 other edits, where a grid of 2",
            ),
        ] {
            let text = report(&runs, picked_on, &about(), &[]);
            assert!(text.contains(best) && text.contains(says), "{text}");
        }
    }
}
