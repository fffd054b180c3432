//! What methods lose without editing anything: the paper's Table 1 on these scenes.

use std::fmt::Write;

use crate::results::Reconstruction;
use crate::runs::{Run, mean};

/// One method at one setting.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    pictures: usize,
    /// Means of the squared errors of the method and of the autoencoder alone.
    mse: f64,
    floor: f64,
    /// The largest relative difference of the two on one picture.
    furthest: f64,
}

impl Row {
    fn of(run: &Run) -> Option<Self> {
        let backs: Vec<Reconstruction> =
            run.outcomes.values().flatten().filter_map(|(_, back)| *back).collect();
        let furthest = backs.iter().map(|back| (back.mse / back.floor - 1.0).abs()).reduce(f64::max)?;
        Some(Self {
            pictures: backs.len(),
            mse: mean(backs.iter().map(|back| back.mse)),
            floor: mean(backs.iter().map(|back| back.floor)),
            furthest,
        })
    }

    /// Whether the two errors are one number when written with six digits.
    fn equals_floor(&self) -> bool {
        six_digits(self.mse) == six_digits(self.floor)
    }
}

fn six_digits(value: f64) -> String {
    format!("{value:.5e}")
}

/// Reconstruction of every method beside the autoencoder alone, as Markdown; empty if nothing was reconstructed.
pub(crate) fn markdown(runs: &[Run]) -> String {
    let rows: Vec<_> = runs.iter().filter_map(|run| Some((run, Row::of(run)?))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n## Reconstruction\n\nMean squared error in [-1, 1] of the picture that comes back under its own caption.\n\n\
         | method | at | pictures | mse | autoencoder alone | equal to 6 digits | furthest picture |\n|---|---|---|---|---|---|---|\n",
    );
    for (run, row) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {:.1e} |",
            run.method,
            run.setting,
            row.pictures,
            six_digits(row.mse),
            six_digits(row.floor),
            if row.equals_floor() { "yes" } else { "no" },
            row.furthest,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::made_up::{run, score};

    fn run_with(method: &'static str, backs: &[(f64, f64)]) -> Run {
        let mut run = run(method, 3.0, 0, [0, 1], 30.0);
        for (number, &(mse, floor)) in backs.iter().enumerate() {
            run.outcomes
                .insert((0, number as u64), Some((score(true, 30.0), Some(Reconstruction { mse, floor }))));
        }
        run
    }

    #[test]
    fn errors_are_averaged_and_compared_to_six_digits() {
        let row = Row::of(&run_with("ddim", &[(0.03, 0.01), (0.05, 0.02)])).unwrap();
        assert!((row.mse - 0.04).abs() < 1e-15 && (row.floor - 0.015).abs() < 1e-15);
        assert!((row.furthest - 2.0).abs() < 1e-12 && !row.equals_floor());
        let text =
            markdown(&[run_with("edict", &[(0.01 + 1e-10, 0.01)]), run_with("ddim", &[(0.01 + 1e-7, 0.01)])]);
        assert!(
            text.contains("| edict | 50 steps, strength 1, guidance 3 | 1 | 1.00000e-2 | 1.00000e-2 | yes |"),
            "{text}"
        );
        assert!(text.contains("1.00001e-2 | 1.00000e-2 | no |"), "{text}");
    }

    #[test]
    fn runs_without_reconstructions_have_no_row() {
        assert_eq!(markdown(&[run("sdedit", 3.0, 0, [1, 2], 30.0)]), "");
    }
}
