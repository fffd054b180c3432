//! The table.

use std::fmt::Write;

use edict_scenes::Attribute;

use crate::method::{Method, Setting};
use crate::results::{Results, key};
use crate::score::{Score, decibels};

/// One method at one setting.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) setting: Setting,
    pub(crate) edits: usize,
    refused: usize,
    /// Shares in [0, 1], with a 95% interval of it.
    pub(crate) success: f64,
    interval: [f64; 2],
    leaning: f64,
    by_attribute: [f64; 5],
    /// dB, from the mean of squared errors outside the region.
    pub(crate) preservation: f64,
    floor: f64,
    fidelity: f64,
    /// Mean squared error of reconstruction.
    reconstruction: Option<f64>,
}

/// Summarizes the results of every method at every setting.
pub(crate) fn rows(methods: &[Method], settings: &[Setting], cases: u64, results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for method in methods {
        for &setting in settings {
            let scores = results.scores();
            let mut found: Vec<(Attribute, Score, Option<f64>)> = Vec::new();
            let mut refused = 0;
            for attribute in Attribute::ALL {
                for number in 0..cases {
                    match scores.get(&key(method.name(), setting, attribute, number)) {
                        Some(Ok((score, back))) => found.push((attribute, *score, *back)),
                        Some(Err(_)) => refused += 1,
                        None => {}
                    }
                }
            }
            if !found.is_empty() {
                rows.push(row(method.name(), setting, &found, refused));
            }
        }
    }
    rows
}

fn row(
    method: &'static str,
    setting: Setting,
    found: &[(Attribute, Score, Option<f64>)],
    refused: usize,
) -> Row {
    let mean = |of: &dyn Fn(&Score) -> f64| {
        found.iter().map(|(_, score, _)| of(score)).sum::<f64>() / found.len() as f64
    };
    let share = |is: &dyn Fn(&Score) -> bool| mean(&|score| f64::from(u8::from(is(score))));
    let successes: Vec<bool> = found.iter().map(|(_, score, _)| score.succeeds()).collect();
    let of_attribute = |attribute: Attribute| {
        let of: Vec<_> = found.iter().filter(|(a, ..)| *a == attribute).collect();
        of.iter().filter(|(_, score, _)| score.succeeds()).count() as f64 / of.len().max(1) as f64
    };
    let backs: Vec<f64> = found.iter().filter_map(|(.., back)| *back).collect();
    Row {
        method,
        setting,
        edits: found.len(),
        refused,
        success: share(&Score::succeeds),
        interval: bootstrap(&successes),
        leaning: share(&Score::leans),
        by_attribute: Attribute::ALL.map(of_attribute),
        preservation: decibels(mean(&|score| score.kept)),
        floor: decibels(mean(&|score| score.kept_floor)),
        fidelity: decibels(mean(&|score| score.whole)),
        reconstruction: (!backs.is_empty()).then(|| backs.iter().sum::<f64>() / backs.len() as f64),
    }
}

/// A 95% bootstrap interval of a share: 1000 draws with replacement, from a fixed seed.
fn bootstrap(successes: &[bool]) -> [f64; 2] {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = || {
        let hits = (0..successes.len()).filter(|_| successes[rng.next_u64() as usize % successes.len()]);
        hits.count() as f64 / successes.len() as f64
    };
    let mut shares: Vec<f64> = (0..1000).map(|_| draw()).collect();
    shares.sort_by(f64::total_cmp);
    [shares[25], shares[974]]
}

/// The table, a row each.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| method | steps | strength | guidance | edits | success (95%) | kind | colour | sky | ground | style | leaning | \
         preservation | autoencoder | fidelity | reconstruction mse | refused |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Setting { guidance, strength, steps } = row.setting;
        let shares = row.by_attribute.map(|share| format!("{share:.2}")).join(" | ");
        let back = row.reconstruction.map_or(String::new(), |mse| format!("{mse:.6}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {steps} | {strength} | {guidance} | {} | {:.3} ({:.3}-{:.3}) | {shares} | {:.3} | {:.2} dB | {:.2} dB | {:.2} dB | {back} | {} |",
            row.method,
            row.edits,
            row.success,
            row.interval[0],
            row.interval[1],
            row.leaning,
            row.preservation,
            row.floor,
            row.fidelity,
            row.refused,
        );
    }
    text
}
