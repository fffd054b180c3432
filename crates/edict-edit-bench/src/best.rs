//! The settings at which methods do best.

use std::fmt::Write;

use edict_scenes::Attribute;

use crate::bootstrap::interval;
use crate::runs::{Run, is_local, methods};
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

/// The run that is best on the edits of one attribute, on those edits; with `kept` among those that keep what they should.
fn best_of_attribute(runs: &[Run], method: &str, place: usize, kept: bool) -> Option<Run> {
    let of = runs.iter().filter(|run| run.method == method).map(|run| run.of_attribute(place));
    best(of.filter(|run| !run.outcomes.is_empty() && (!kept || run.preservation() >= run.floor() - KEPT)))
}

/// Each method's best setting for all edits, and for the edits of each attribute, as Markdown.
pub(crate) fn markdown(runs: &[Run]) -> String {
    let words = Attribute::ALL.map(Attribute::word).join(" | ");
    let mut text = format!(
        "\n## One setting for all edits\n\nWhere most succeed. Intervals here and for each attribute hold the setting fixed, so they are \
         lower bounds. The columns called local are of the edits of kind and colour.\n\n\
         | method | at | calls | success (95%) | {words} | preservation | autoencoder | local preservation | local autoencoder | \
         refused |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    // Writing to a string cannot fail.
    for method in methods(runs) {
        let Some(run) = best(runs.iter().filter(|run| run.method == method).cloned()) else { continue };
        let shares = run.shares();
        let local = run.of(|(place, _)| is_local(*place));
        let [low, high] = interval(&run.successes());
        let _ = writeln!(
            text,
            "| {method} | {} | {} | {:.3} ({low:.3}-{high:.3}) | {shares} | {} | {} | {} | {} | {} |",
            run.setting,
            run.calls,
            run.success(),
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
         autoencoder alone keeps.\n\n| attribute | method | at | success (95%) | preservation | refused | autoencoder | \
         within {KEPT} dB at | success (95%) | preservation | refused |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for (place, attribute) in Attribute::ALL.into_iter().enumerate() {
        for method in methods(runs) {
            let cell = |run: &Run| {
                let [low, high] = interval(&run.successes());
                format!(
                    "{} | {:.3} ({low:.3}-{high:.3}) | {} | {}",
                    run.setting,
                    run.success(),
                    written(run.preservation()),
                    run.refused(),
                )
            };
            let Some(run) = best_of_attribute(runs, method, place, false) else { continue };
            let kept = best_of_attribute(runs, method, place, true)
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
        vec![at(1.0, 9, 2, [34.0, 34.0]), at(3.0, 6, 8, [30.0, 33.0]), run("ddim", 1.0, 0, [1, 2], 20.0)]
    }

    #[test]
    fn each_attribute_has_its_own_best_setting() {
        let runs = runs();
        assert_eq!(best_of_attribute(&runs, "edict", 0, false).unwrap().setting.guidance, 1.0);
        assert_eq!(best_of_attribute(&runs, "edict", 1, false).unwrap().setting.guidance, 3.0);
        assert_eq!(best(runs[..2].to_vec()).unwrap().setting.guidance, 3.0);
        assert!(best_of_attribute(&runs, "edict", 2, false).is_none());
    }

    #[test]
    fn settings_that_lose_more_than_3_db_are_left_out_where_keeping_counts() {
        let mut runs = runs();
        assert_eq!(best_of_attribute(&runs, "edict", 1, true).unwrap().setting.guidance, 3.0);
        assert!(best_of_attribute(&runs, "ddim", 0, true).is_none());
        // 31.9 dB is more than 3 below 35.
        runs.push(run("edict", 5.0, 0, [10, 10], 31.9));
        assert_eq!(best_of_attribute(&runs, "edict", 0, false).unwrap().setting.guidance, 5.0);
        assert_eq!(best_of_attribute(&runs, "edict", 0, true).unwrap().setting.guidance, 1.0);
    }

    #[test]
    fn of_equals_the_one_that_keeps_more_is_taken() {
        let equals = [run("edict", 1.0, 0, [5, 10], 20.0), run("edict", 2.0, 0, [5, 10], 30.0)];
        assert_eq!(best(equals).unwrap().setting.guidance, 2.0);
    }

    #[test]
    fn tables_have_as_many_cells_as_headings_in_every_row() {
        let text = markdown(&runs());
        let mut cells = 0;
        for line in text.lines() {
            let found = line.matches('|').count();
            assert!(cells == 0 || found == 0 || found == cells, "{line}");
            cells = found;
        }
        assert!(text.contains("| 0.700 (") && text.contains("none"), "{text}");
    }
}
