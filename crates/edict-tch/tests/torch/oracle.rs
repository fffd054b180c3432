//! What candle's back end is tested by, for this one.
#![allow(dead_code, reason = "each test program uses a part")]

#[path = "../../../edict-candle/tests/oracle/mod.rs"]
mod loops;

use edict_tch::TchBackend;
use ndarray::ArrayD;

pub(crate) use loops::*;

/// Runs an operation in every element type and compares it with the expected result.
pub(crate) fn check(
    what: &str,
    terms: usize,
    expected: &ArrayD<f64>,
    operation: impl Fn(&TchBackend) -> ArrayD<f64>,
) {
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for dtype in DTYPES {
        let found = operation(&TchBackend::cpu(dtype).unwrap());
        assert_eq!(found.shape(), expected.shape(), "{what}, {dtype}");
        let error = (&found - expected)
            .iter()
            .fold(0.0f64, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b.abs()) });
        let bound = tolerance(dtype, terms) * largest;
        assert!(
            error <= bound,
            "{what}, {dtype}: error {error:e} exceeds {bound:e} (largest element {largest:e})"
        );
    }
}
