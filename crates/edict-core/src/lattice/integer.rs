//! Rounding to the lattice, and sums that stay on it.

/// Registers and roundings stay below this in magnitude; sums of two of them fit into an `i64`.
pub(super) const RANGE: i64 = 1 << 62;

/// A value that has left [`RANGE`], or was none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OutOfRange(pub(super) f64);

/// Rounds to the nearest integer, halves to even; refuses NaN, infinities and what lies outside [`RANGE`].
///
/// The same function serves both directions: what one adds, the other takes away.
#[inline(always)]
pub(super) fn round(value: f64) -> Result<i64, OutOfRange> {
    // Adding 1.5 * 2^52 leaves the integer in the low bits of the sum: `round_ties_even` is a library call on x86-64 without
    // SSE 4.1, and there is no vector conversion to i64 before AVX-512.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    const SHIFT_BITS: i64 = SHIFT.to_bits() as i64;
    const FAST: f64 = (1u64 << 51) as f64;
    if value.abs() < FAST {
        Ok(((value + SHIFT).to_bits() as i64).wrapping_sub(SHIFT_BITS))
    } else if value.abs() < RANGE as f64 {
        Ok(value.round_ties_even() as i64)
    } else {
        Err(OutOfRange(value))
    }
}

/// Adds two numbers of [`RANGE`], and refuses a sum outside it.
#[inline(always)]
pub(super) fn add(a: i64, b: i64) -> Result<i64, OutOfRange> {
    let sum = a.wrapping_add(b);
    if -RANGE < sum && sum < RANGE { Ok(sum) } else { Err(OutOfRange(a as f64 + b as f64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_round_ties_even_on_both_sides_of_the_fast_path() {
        let border = (1u64 << 51) as f64;
        let mut values = vec![0.0, -0.0, 0.5, 1.5, 2.5, 0.49999999999999994, 5e-324, 1e-300];
        for step in -40..=40 {
            // Around the border neighbours are 0.25 below and 0.5 above it.
            values.push(border + 0.25 * f64::from(step));
            values.push(1000.0 + 0.25 * f64::from(step));
            values.push(RANGE as f64 * 0.5 + 512.0 * f64::from(step));
        }
        for value in values.iter().flat_map(|v| [*v, -*v]) {
            assert_eq!(round(value), Ok(value.round_ties_even() as i64), "{value:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_lattice_value() {
        let range = RANGE as f64;
        for value in [range, -range, f64::MAX, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(round(value), Err(OutOfRange(value)));
        }
        assert!(round(f64::NAN).is_err());
        assert_eq!(round(range.next_down()), Ok(range.next_down() as i64));
    }

    #[test]
    fn sums_are_refused_exactly_from_the_range_on() {
        assert_eq!(add(RANGE - 2, 1), Ok(RANGE - 1));
        assert!(add(RANGE - 1, 1).is_err());
        assert_eq!(add(2 - RANGE, -1), Ok(1 - RANGE));
        assert!(add(1 - RANGE, -1).is_err());
        assert!(add(RANGE - 1, RANGE - 1).is_err());
        assert!(add(1 - RANGE, 1 - RANGE).is_err());
    }
}
