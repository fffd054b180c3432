//! What was measured, in rows.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::contestant::{AUTHORS, REFERENCE};
use crate::{Entrant, Options};

/// Medians of a contestant, and of its ratios to the reference.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: &'static str,
    call: f64,
    calls: f64,
    edit: f64,
    call_ratio: Option<f64>,
    edit_ratio: Option<f64>,
    /// Of an edit's time to those of [`AUTHORS`].
    authors_ratios: [Option<f64>; 2],
    /// Share of the sampling loop that is not in network calls, with what of a call is casts and copies to and from the device, as
    /// far as that is known.
    overhead: f64,
    text: f64,
    encode: f64,
    decode: f64,
    peak: Option<f64>,
    /// Of the peak to the weights and one forward pass of the reference.
    memory_ratio: Option<f64>,
    round_trip: Value,
}

/// The whole comparison.
pub(crate) struct Comparison<'a> {
    rows: Vec<Row>,
    /// Who could not take part, and why.
    left_out: Vec<String>,
    /// Rounds that count.
    rounds: usize,
    options: &'a Options,
}

/// What one edit took of something.
fn of(answer: &Value, key: &str) -> f64 {
    answer[key].as_f64().unwrap_or(f64::NAN)
}

fn per_call(answer: &Value) -> f64 {
    of(answer, "network_seconds") / of(answer, "network_calls")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

impl<'a> Comparison<'a> {
    /// Takes what everyone answered, round by round; the first rounds warmed up.
    pub(crate) fn new(field: &[Entrant], left_out: &[String], rounds: usize, options: &'a Options) -> Self {
        let answers = |name: &str| {
            field.iter().find(|entrant| entrant.one.name == name).map(|entrant| &entrant.answers[..])
        };
        let others = Others { reference: answers(REFERENCE), authors: AUTHORS.map(answers) };
        let rows = field.iter().map(|entrant| row(entrant.one.name, &entrant.answers, &others)).collect();
        Self { rows, left_out: left_out.to_vec(), rounds, options }
    }

    /// The table for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "| | s/call | calls | s/edit | call, ratio | edit, ratio | edit to authors' in f32 | edit to authors' | beside the network | \
             text | encode | decode | peak memory | memory, ratio | round trip | bit-identical | deterministic |\n",
        );
        text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            let error = row.round_trip["max_abs_error"].as_f64();
            let (equal, total) = (of(&row.round_trip, "equal"), of(&row.round_trip, "total"));
            let cells = [
                row.name.to_owned(),
                format!("{:.4}", row.call),
                row.calls.to_string(),
                format!("{:.3}", row.edit),
                ratio(row.call_ratio),
                ratio(row.edit_ratio),
                ratio(row.authors_ratios[0]),
                ratio(row.authors_ratios[1]),
                format!("{:.2}%", 100.0 * row.overhead),
                format!("{:.3} s", row.text),
                format!("{:.3} s", row.encode),
                format!("{:.3} s", row.decode),
                row.peak.map_or("-".to_owned(), |bytes| format!("{:.0} MB", bytes / 1e6)),
                ratio(row.memory_ratio),
                error.map_or("not finite".to_owned(), |error| format!("{error:.1e}")),
                // 100 only where all are equal.
                if equal == total {
                    "100%".to_owned()
                } else {
                    format!("{:.1}%", (1000.0 * equal / total).floor() / 10.0)
                },
                if row.round_trip["deterministic"] == true { "yes" } else { "no" }.to_owned(),
            ];
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for line in &self.left_out {
            let _ = writeln!(text, "\n{line}");
        }
        if let Some(steps) = self.options.extrapolate {
            let _ =
                writeln!(text, "\nExtrapolated, not measured: an edit of {steps} executed steps each way\n");
            for row in &self.rows {
                let _ = writeln!(text, "- {}: {:.0} s", row.name, self.extrapolated(row, steps));
            }
        }
        text
    }

    /// The time of an edit with other steps: what is beside the loop, and the loop by the number of its calls.
    fn extrapolated(&self, row: &Row, steps: usize) -> f64 {
        let executed = (self.options.steps as f64 * self.options.strength + 0.5).floor();
        let beside = row.text + row.encode + row.decode;
        beside + (row.edit - beside) * steps as f64 / executed
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let rows: Map<_, _> = (self.rows.iter())
            .map(|row| {
                let mut fields = json!({
                    "seconds_per_call": row.call, "network_calls": row.calls, "seconds_per_edit": row.edit,
                    "call_ratio": row.call_ratio, "edit_ratio": row.edit_ratio,
                    "edit_ratio_to_authors_in_f32": row.authors_ratios[0], "edit_ratio_to_authors": row.authors_ratios[1],
                    "overhead": row.overhead,
                    "text_seconds": row.text, "encode_seconds": row.encode, "decode_seconds": row.decode,
                    "peak_bytes": row.peak, "memory_ratio": row.memory_ratio, "round_trip": row.round_trip,
                });
                if let Some(steps) = self.options.extrapolate {
                    fields["extrapolated"] =
                        json!({"steps": steps, "seconds_per_edit": self.extrapolated(row, steps)});
                }
                (row.name.to_owned(), fields)
            })
            .collect();
        json!({"settings": self.settings(), "reference": REFERENCE, "contestants": rows, "left_out": self.left_out})
    }

    fn settings(&self) -> Value {
        let Options { load, size, steps, strength, guidance, .. } = self.options;
        json!({
            "model": load.model, "device": load.device, "dtype": load.dtype, "threads": load.threads, "size": size,
            "steps": steps, "strength": strength, "guidance": guidance, "rounds": self.rounds,
        })
    }

    /// The table with all that belongs to it.
    pub(crate) fn page(&self, machine: &str) -> String {
        let Options { load, size, steps, strength, guidance, .. } = self.options;
        let rounds = self.rounds;
        let name = load.model.file_name().unwrap_or_default().to_string_lossy();
        format!(
            "# One edit side by side: {name}\n\n{machine}.\n\n`cargo xtask compare`: {size}, {steps} steps at strength {strength}, guidance \
             {guidance}, networks in {} on {} with {} threads; medians of {rounds} rounds after one to warm up, everyone by turns; ratios \
             to \"{REFERENCE}\", formed within a round. A call is one forward pass, of a batch of two (the authors' program: of one). \
             Memory is put in ratio to \"{REFERENCE}\" weights and one forward pass. What each is: [benches/compare](../compare/README.md).\n\n{}",
            load.dtype,
            load.device,
            load.threads,
            self.text()
        )
    }
}

/// The answers of whom ratios are formed to.
struct Others<'a> {
    reference: Option<&'a [Value]>,
    authors: [Option<&'a [Value]>; 2],
}

fn row(name: &'static str, answers: &[Value], others: &Others<'_>) -> Row {
    let timed = answers.get(1..).unwrap_or_default();
    let over = |work: &dyn Fn(&Value) -> f64| median(timed.iter().map(work).collect());
    let ratio = |others: Option<&[Value]>, work: &dyn Fn(&Value) -> f64| {
        let others = others?.get(1..)?;
        Some(median(timed.iter().zip(others).map(|(own, other)| work(own) / work(other)).collect()))
    };
    let seconds = |answer: &Value| of(answer, "seconds");
    let first = |answers: Option<&[Value]>, key: &str| answers?.first()?[key].as_f64();
    // With the warm-up: a process keeps what it has once taken.
    let peak = answers.iter().filter_map(|answer| answer["peak_bytes"].as_f64()).max_by(f64::total_cmp);
    let memory = first(others.reference, "weights_bytes").zip(first(others.reference, "pass_bytes"));
    let transfer = first(Some(answers), "transfer_seconds").unwrap_or(0.0);
    Row {
        name,
        call: over(&per_call),
        calls: over(&|answer| of(answer, "network_calls")),
        edit: over(&seconds),
        call_ratio: ratio(others.reference, &per_call),
        edit_ratio: ratio(others.reference, &seconds),
        authors_ratios: others.authors.map(|authors| ratio(authors, &seconds)),
        overhead: over(&|answer| {
            let network = of(answer, "network_seconds") - transfer * of(answer, "network_calls");
            1.0 - network / of(answer, "loop_seconds")
        }),
        text: over(&|answer| of(answer, "text_seconds")),
        encode: over(&|answer| of(answer, "encode_seconds")),
        decode: over(&|answer| of(answer, "decode_seconds")),
        peak,
        memory_ratio: peak.zip(memory).map(|(peak, (weights, pass))| peak / (weights + pass)),
        round_trip: answers.first().map_or(Value::Null, |answer| answer["round_trip"].clone()),
    }
}

#[cfg(test)]
mod tch_tests {
    use super::*;

    fn answers(seconds: &[f64]) -> Vec<Value> {
        let answer = |&seconds: &f64| {
            json!({
                "seconds": seconds, "loop_seconds": seconds / 2.0, "network_seconds": seconds / 4.0, "network_calls": 10,
                "peak_bytes": 7, "weights_bytes": 3, "pass_bytes": 4, "transfer_seconds": 0.001,
                "round_trip": {"max_abs_error": 0.0, "equal": 4, "total": 4},
            })
        };
        seconds.iter().map(answer).collect()
    }

    #[test]
    fn ratios_are_formed_within_a_round_and_the_first_is_left_out() {
        // The machine is ten times slower in one round: medians of the times alone would say 0.5 and 1 of something else.
        let (own, other) = (answers(&[90.0, 1.0, 20.0, 2.0]), answers(&[1.0, 2.0, 40.0, 4.0]));
        let authors = answers(&[1.0, 4.0, 80.0, 8.0]);
        let mut others = Others { reference: Some(&other), authors: [Some(&authors), None] };
        let found = row("own", &own, &others);
        assert_eq!((found.edit, found.edit_ratio, found.call_ratio), (2.0, Some(0.5), Some(0.5)));
        assert_eq!(found.authors_ratios, [Some(0.25), None]);
        // Of two seconds one is the loop and half a one the network, with ten calls' thousandths for copies.
        assert_eq!((found.call, found.calls, found.overhead), (0.05, 10.0, 0.51));
        assert_eq!((found.peak, found.memory_ratio), (Some(7.0), Some(7.0 / (3.0 + 4.0))));
        others.reference = None;
        let row = row("own", &own, &others);
        assert_eq!((row.edit_ratio, row.memory_ratio), (None, None));
        assert_eq!(row.round_trip["equal"], 4);
    }

    #[test]
    fn medians_of_even_counts_are_means_of_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
