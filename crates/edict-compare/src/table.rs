//! What was measured, in rows.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::contestant::REFERENCE;
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
    /// Share of the sampling loop that is not in network calls.
    overhead: f64,
    text: f64,
    encode: f64,
    decode: f64,
    peak: Option<f64>,
    round_trip: Value,
}

/// The whole comparison.
pub(crate) struct Comparison<'a> {
    rows: Vec<Row>,
    /// Who could not take part, and why.
    left_out: Vec<String>,
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
    pub(crate) fn new(field: &[Entrant], left_out: Vec<String>, options: &'a Options) -> Self {
        let reference =
            field.iter().find(|entrant| entrant.one.name == REFERENCE).map(|entrant| &entrant.answers);
        let rows = field.iter().map(|entrant| row(entrant.one.name, &entrant.answers, reference)).collect();
        Self { rows, left_out, options }
    }

    /// The table for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "| | s/call | calls | s/edit | call, ratio | edit, ratio | beside the network | text | encode | decode | peak memory | \
             round trip | bit-identical |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            let error = row.round_trip["max_abs_error"].as_f64();
            let (equal, total) = (of(&row.round_trip, "equal"), of(&row.round_trip, "total"));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.4} | {} | {:.3} | {} | {} | {:.2}% | {:.3} s | {:.3} s | {:.3} s | {} | {} | {} |",
                row.name,
                row.call,
                row.calls,
                row.edit,
                ratio(row.call_ratio),
                ratio(row.edit_ratio),
                100.0 * row.overhead,
                row.text,
                row.encode,
                row.decode,
                row.peak.map_or("-".to_owned(), |bytes| format!("{:.0} MB", bytes / 1e6)),
                error.map_or("not finite".to_owned(), |error| format!("{error:.1e}")),
                // 100 only where all are equal.
                if equal == total {
                    "100%".to_owned()
                } else {
                    format!("{:.1}%", (1000.0 * equal / total).floor() / 10.0)
                },
            );
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
                    "call_ratio": row.call_ratio, "edit_ratio": row.edit_ratio, "overhead": row.overhead,
                    "text_seconds": row.text, "encode_seconds": row.encode, "decode_seconds": row.decode,
                    "peak_bytes": row.peak, "round_trip": row.round_trip,
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
        let Options { load, size, steps, strength, guidance, rounds, .. } = self.options;
        json!({
            "model": load.model, "device": load.device, "dtype": load.dtype, "threads": load.threads, "size": size,
            "steps": steps, "strength": strength, "guidance": guidance, "rounds": rounds,
        })
    }

    /// The table with all that belongs to it.
    pub(crate) fn page(&self, machine: &str) -> String {
        let Options { load, size, steps, strength, guidance, rounds, .. } = self.options;
        let name = load.model.file_name().unwrap_or_default().to_string_lossy();
        format!(
            "# One edit side by side: {name}\n\n{machine}.\n\n`cargo xtask compare`: {size}, {steps} steps at strength {strength}, guidance \
             {guidance}, networks in {} on {} with {} threads; medians of {rounds} rounds after one to warm up, everyone by turns; ratios \
             to \"{REFERENCE}\", formed within a round. A call is one forward pass, of a batch of two (the authors' program: of one). What \
             each is: [benches/compare](../compare/README.md).\n\n{}",
            load.dtype,
            load.device,
            load.threads,
            self.text()
        )
    }
}

fn row(name: &'static str, answers: &[Value], reference: Option<&Vec<Value>>) -> Row {
    let timed = answers.get(1..).unwrap_or_default();
    let over = |work: &dyn Fn(&Value) -> f64| median(timed.iter().map(work).collect());
    let ratio = |work: &dyn Fn(&Value) -> f64| {
        let others = reference?.get(1..)?;
        Some(median(timed.iter().zip(others).map(|(own, other)| work(own) / work(other)).collect()))
    };
    Row {
        name,
        call: over(&per_call),
        calls: over(&|answer| of(answer, "network_calls")),
        edit: over(&|answer| of(answer, "seconds")),
        call_ratio: ratio(&per_call),
        edit_ratio: ratio(&|answer| of(answer, "seconds")),
        overhead: over(&|answer| 1.0 - of(answer, "network_seconds") / of(answer, "loop_seconds")),
        text: over(&|answer| of(answer, "text_seconds")),
        encode: over(&|answer| of(answer, "encode_seconds")),
        decode: over(&|answer| of(answer, "decode_seconds")),
        // With the warm-up: a process keeps what it has once taken.
        peak: answers.iter().filter_map(|answer| answer["peak_bytes"].as_f64()).max_by(f64::total_cmp),
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
                "peak_bytes": 7, "round_trip": {"max_abs_error": 0.0, "equal": 4, "total": 4},
            })
        };
        seconds.iter().map(answer).collect()
    }

    #[test]
    fn ratios_are_formed_within_a_round_and_the_first_is_left_out() {
        // The machine is ten times slower in one round: medians of the times alone would say 0.5 and 1 of something else.
        let (own, other) = (answers(&[90.0, 1.0, 20.0, 2.0]), answers(&[1.0, 2.0, 40.0, 4.0]));
        let row = row("own", &own, Some(&other));
        assert_eq!((row.edit, row.edit_ratio, row.call_ratio), (2.0, Some(0.5), Some(0.5)));
        assert_eq!((row.call, row.calls, row.overhead), (0.05, 10.0, 0.5));
        assert_eq!(row.peak, Some(7.0));
        assert_eq!(row.round_trip["equal"], 4);
    }

    #[test]
    fn medians_of_even_counts_are_means_of_the_middle() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
