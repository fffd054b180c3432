//! How far two arrays are apart.

use std::fmt;

use ndarray::ArrayViewD;

/// How two arrays of one shape differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Values that differ in a bit.
    pub different: usize,
    /// Values compared.
    pub total: usize,
    /// The largest difference; NaN if there is one that is no number.
    pub largest: f64,
}

impl Difference {
    /// Compares two arrays of one shape.
    pub(super) fn of(a: ArrayViewD<'_, f64>, b: ArrayViewD<'_, f64>) -> Self {
        let pairs = || a.iter().zip(&b);
        Self {
            different: pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count(),
            total: a.len(),
            // A NaN stays: it is larger than any bound.
            largest: pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d }),
        }
    }

    /// Whether values differ by at most `tolerance` times the largest of `expected`, or in no bit if it is 0.
    pub(super) fn is_within(self, tolerance: f64, expected: ArrayViewD<'_, f64>) -> bool {
        let size = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        self.different == 0 || tolerance > 0.0 && self.largest <= tolerance * size
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { different, total, largest } = self;
        write!(f, "{different} of {total} values differ, by up to {largest:e}")
    }
}
