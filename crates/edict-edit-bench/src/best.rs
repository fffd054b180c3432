//! The settings at which methods do best.

use std::fmt::Write;

use edict_scenes::Attribute;

use crate::runs::{Run, comparable, local, methods, places};
use crate::score::written;

/// An edit that loses no more than this many dB to the autoencoder alone has kept what it should.
const KEPT: f64 = 3.0;

/// The most successful run; of equals the one that keeps most.
fn best(runs: impl IntoIterator<Item = Run>) -> Option<Run> {
    let order = |a: &Run, b: &Run| {
        a.success().total_cmp(&b.success()).then(a.preservation().total_cmp(&b.preservation()))
    };
    runs.into_iter().max_by(order)
}

/// A method's best run, of those that have been tried on edits of all these attributes, on those edits; with `kept` among those that
/// keep what they should.
pub(crate) fn best_on(runs: &[Run], method: &str, places: &[usize], kept: bool) -> Option<Run> {
    let of = comparable(runs, places).into_iter().filter(|run| run.method == method);
    best(of.filter(|run| !kept || run.preservation() >= run.floor() - KEPT))
}

/// The run, on these edits, at the setting that is best on them, or on the like of them among those that settings are picked on.
fn chosen(
    runs: &[Run],
    picked_on: Option<&[Run]>,
    method: &str,
    places: &[usize],
    kept: bool,
) -> Option<Run> {
    let Some(others) = picked_on else { return best_on(runs, method, places, kept) };
    let there = comparable(runs, places);
    let is = |a: &Run, b: &Run| a.method == b.method && a.setting == b.setting;
    let others: Vec<Run> = others.iter().filter(|a| there.iter().any(|b| is(a, b))).cloned().collect();
    let best = best_on(&others, method, places, kept)?;
    there.into_iter().find(|run| is(run, &best))
}

/// Each method's best setting for all edits, and for the edits of each attribute, as Markdown; best on the edits of `picked_on`
/// where there are some.
pub(crate) fn markdown(runs: &[Run], picked_on: Option<&[Run]>) -> String {
    let all = places(runs);
    let words = Attribute::ALL.map(Attribute::word).join(" | ");
    let mut text = format!(
        "\n## One setting for all edits\n\nWhere most succeed. Intervals here and for each attribute hold the setting fixed, so they are \
         lower bounds. The columns called local are of the edits of kind and colour.\n\n\
         | method | at | calls | success (95%) | {words} | preservation | autoencoder | local preservation | local autoencoder | \
         refused |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    // Writing to a string cannot fail.
    for method in methods(runs) {
        let Some(run) = chosen(runs, picked_on, method, &all, false) else { continue };
        let shares = run.shares();
        let local = run.of(|(place, _)| local(&all).contains(place));
        let _ = writeln!(
            text,
            "| {method} | {} | {} | {} | {shares} | {} | {} | {} | {} | {} |",
            run.setting,
            run.calls,
            run.success_written(),
            written(run.preservation()),
            written(run.floor()),
            written(local.preservation()),
            written(local.floor()),
            run.refused(),
        );
    }
    let _ = write!(
        text,
        "\n## The best setting for each attribute\n\nTwice: of all settings, and of those that keep within {KEPT} dB of what the \
         autoencoder alone keeps{}.\n\n| attribute | method | at | success (95%) | preservation | refused | autoencoder | \
         within {KEPT} dB at | success (95%) | preservation | refused |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        if picked_on.is_some() { ", on the edits that settings were picked on" } else { "" },
    );
    for (place, attribute) in Attribute::ALL.into_iter().enumerate() {
        for method in methods(runs) {
            let cell = |run: &Run| {
                format!(
                    "{} | {} | {} | {}",
                    run.setting,
                    run.success_written(),
                    written(run.preservation()),
                    run.refused(),
                )
            };
            let Some(run) = chosen(runs, picked_on, method, &[place], false) else { continue };
            let kept = chosen(runs, picked_on, method, &[place], true)
                .map_or("none | - | - | -".to_owned(), |run| cell(&run));
            let _ = writeln!(
                text,
                "| {} | {method} | {} | {} | {kept} |",
                attribute.word(),
                cell(&run),
                written(run.floor())
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::made_up::run;

    /// Two settings: 1 does kinds (9 of 10) and little else, 3 does colours and is best of all; the floor is 35 dB.
    fn runs() -> Vec<Run> {
        let at = |guidance, kinds, colours, preservation: [f64; 2]| {
            let mut both = run("edict", guidance, 0, [kinds, 10], preservation[0]);
            both.outcomes.extend(run("edict", guidance, 1, [colours, 10], preservation[1]).outcomes);
            both
        };
        vec![at(1.0, 9, 2, [34.0, 34.0]), at(3.0, 6, 8, [30.0, 33.0]), run("ddim", 1.0, 0, [1, 10], 20.0)]
    }

    #[test]
    fn each_attribute_has_its_own_best_setting() {
        let runs = runs();
        assert_eq!(best_on(&runs, "edict", &[0], false).unwrap().setting.guidance, 1.0);
        assert_eq!(best_on(&runs, "edict", &[1], false).unwrap().setting.guidance, 3.0);
        assert_eq!(best(runs[..2].to_vec()).unwrap().setting.guidance, 3.0);
        assert!(best_on(&runs, "edict", &[2], false).is_none());
    }

    #[test]
    fn settings_that_lose_more_than_3_db_are_left_out_where_keeping_counts() {
        let mut runs = runs();
        assert_eq!(best_on(&runs, "edict", &[1], true).unwrap().setting.guidance, 3.0);
        assert!(best_on(&runs, "ddim", &[0], true).is_none());
        // 31.9 dB is more than 3 below 35.
        runs.push(run("edict", 5.0, 0, [10, 10], 31.9));
        assert_eq!(best_on(&runs, "edict", &[0], false).unwrap().setting.guidance, 5.0);
        assert_eq!(best_on(&runs, "edict", &[0], true).unwrap().setting.guidance, 1.0);
    }

    #[test]
    fn of_equals_the_one_that_keeps_more_is_taken() {
        let equals = [run("edict", 1.0, 0, [5, 10], 20.0), run("edict", 2.0, 0, [5, 10], 30.0)];
        assert_eq!(best(equals).unwrap().setting.guidance, 2.0);
    }

    #[test]
    fn tables_have_as_many_cells_as_headings_in_every_row() {
        let text = markdown(&runs(), None);
        let mut cells = 0;
        for line in text.lines() {
            let found = line.matches('|').count();
            assert!(cells == 0 || found == 0 || found == cells, "{line}");
            cells = found;
        }
        assert!(text.contains("| 0.700 (") && text.contains("none"), "{text}");
    }
}
