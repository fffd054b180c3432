//! Sums of rows.

use super::Real;

/// Sums `f` over a row in f64, in an order given by the row's length alone.
#[inline(always)]
pub(crate) fn sum<T: Real>(x: &[T], f: impl Fn(f64) -> f64) -> f64 {
    const LANES: usize = 16;
    // Sums of pieces are added up with compensation (W. Kahan, 1965): a long row's error is that of a piece.
    const PIECE: usize = 64 * LANES;
    let (mut total, mut lost) = (0.0, 0.0);
    for x in x.chunks(PIECE) {
        let mut lanes = [0.0; LANES];
        let (whole, rest) = x.as_chunks::<LANES>();
        for x in whole {
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane += f(x.wide());
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += f(x.wide());
        }
        let piece = lanes.iter().sum::<f64>() - lost;
        let sum = total + piece;
        lost = (sum - total) - piece;
        total = sum;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_long_rows_to_the_last_digit() {
        // The naive sum of 0.1 over a million elements is off by 1e-11.
        let sum = sum(&vec![0.1f64; 1_000_003], |x| x);
        assert!((sum / 100_000.3 - 1.0).abs() < 1e-14, "{sum:e}");
    }
}
