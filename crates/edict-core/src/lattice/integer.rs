//! Rounding to the lattice, and sums that stay on it.
//!
//! Every update is written once, over [`Integers`], and run twice if need be: over a block of elements with [`Fast`], which
//! vectorises and only notices that a number was too large for it, and where that happens element by element with [`Checked`],
//! which is right up to the range and names the value that leaves it. Where both are right they agree in every bit.

/// Registers and roundings stay below this in magnitude; sums of two of them fit into an `i64`.
pub(super) const RANGE: i64 = 1 << 62;

/// A value that has left [`RANGE`], or was none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OutOfRange(pub(super) f64);

/// The arithmetic of the lattice.
pub(super) trait Integers {
    /// Rounds to the nearest integer, halves to even.
    fn round(&mut self, value: f64) -> i64;

    /// Rounds an integer to the nearest `f64`.
    fn float(&mut self, value: i64) -> f64;

    /// Adds two integers.
    fn add(&mut self, a: i64, b: i64) -> i64;
}

// Adding 1.5 * 2^52 to a number below 2^51 leaves its nearest integer in the low bits of the sum: `round_ties_even` is a library
// call on x86-64 without SSE 4.1, and there is no vector conversion between f64 and i64 before AVX-512.
const SHIFT: f64 = 6_755_399_441_055_744.0;
const SHIFT_BITS: i64 = SHIFT.to_bits() as i64;
const FAST: i64 = 1 << 51;

#[inline(always)]
fn round_fast(value: f64) -> i64 {
    ((value + SHIFT).to_bits() as i64).wrapping_sub(SHIFT_BITS)
}

/// Arithmetic of numbers below 2^51, which gathers whether one was larger, without a branch.
#[derive(Clone, Copy, Default)]
pub(super) struct Fast {
    /// A bit from the 52nd up is set once a number was too large or none.
    large: u64,
}

impl Fast {
    /// Returns whether all results are right.
    pub(super) fn passed(self) -> bool {
        self.large >> 52 == 0
    }

    #[inline(always)]
    fn see(&mut self, value: i64) {
        self.large |= value.wrapping_add(FAST) as u64;
    }
}

impl Integers for Fast {
    #[inline(always)]
    fn round(&mut self, value: f64) -> i64 {
        // A sum with another exponent or sign than SHIFT's, infinite and NaN ones too, becomes a large integer.
        let rounded = round_fast(value);
        self.see(rounded);
        rounded
    }

    #[inline(always)]
    fn float(&mut self, value: i64) -> f64 {
        self.see(value);
        f64::from_bits(value.wrapping_add(SHIFT_BITS) as u64) - SHIFT
    }

    #[inline(always)]
    fn add(&mut self, a: i64, b: i64) -> i64 {
        // Far below the range: what is read again later is looked at then, and what is not has been two small numbers.
        let sum = a.wrapping_add(b);
        self.see(sum);
        sum
    }
}

/// Arithmetic of the whole range, which keeps the first value that leaves it.
#[derive(Clone, Copy, Default)]
pub(super) struct Checked(Option<OutOfRange>);

impl Checked {
    /// Fails if a value has left the range.
    pub(super) fn passed(self) -> Result<(), OutOfRange> {
        self.0.map_or(Ok(()), Err)
    }

    fn refuse(&mut self, value: f64) {
        self.0.get_or_insert(OutOfRange(value));
    }
}

impl Integers for Checked {
    fn round(&mut self, value: f64) -> i64 {
        if value.abs() < FAST as f64 {
            round_fast(value)
        } else if value.abs() < RANGE as f64 {
            value.round_ties_even() as i64
        } else {
            self.refuse(value);
            0
        }
    }

    fn float(&mut self, value: i64) -> f64 {
        value as f64
    }

    fn add(&mut self, a: i64, b: i64) -> i64 {
        // Both are below 2^62, so nothing wraps.
        let sum = a.wrapping_add(b);
        if -RANGE < sum && sum < RANGE {
            sum
        } else {
            self.refuse(a as f64 + b as f64);
            0
        }
    }
}

/// Rounds to the nearest integer, halves to even; refuses NaN, infinities and what lies outside [`RANGE`].
pub(super) fn round(value: f64) -> Result<i64, OutOfRange> {
    let mut checked = Checked::default();
    let rounded = checked.round(value);
    checked.passed()?;
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(a: i64, b: i64) -> Result<i64, OutOfRange> {
        let mut checked = Checked::default();
        let sum = checked.add(a, b);
        checked.passed().map(|()| sum)
    }

    #[test]
    fn rounds_as_round_ties_even_on_both_sides_of_the_fast_path() {
        let border = FAST as f64;
        let mut values = vec![0.0, -0.0, 0.5, 1.5, 2.5, 0.49999999999999994, 5e-324, 1e-300];
        for step in -40..=40 {
            // Around the border neighbours are 0.25 below and 0.5 above it.
            values.push(border + 0.25 * f64::from(step));
            values.push(1000.0 + 0.25 * f64::from(step));
            values.push(RANGE as f64 * 0.5 + 512.0 * f64::from(step));
        }
        for value in values.iter().flat_map(|v| [*v, -*v]) {
            let expected = value.round_ties_even() as i64;
            assert_eq!(round(value), Ok(expected), "{value:?}");
            let mut fast = Fast::default();
            let found = fast.round(value);
            assert!(fast.passed() || value.abs() > border - 1.0, "{value:?}");
            assert!(!fast.passed() || found == expected, "{value:?}");
        }
    }

    #[test]
    fn the_fast_path_notices_every_integer_it_cannot_convert() {
        for value in
            [0, 1, -1, FAST - 1, FAST, FAST + 1, RANGE - 1, i64::MAX].into_iter().flat_map(|v| [v, -v])
        {
            let mut fast = Fast::default();
            let found = fast.float(value);
            assert_eq!(fast.passed(), (-FAST..FAST).contains(&value), "{value}");
            assert!(!fast.passed() || found == value as f64, "{value}");
            let mut fast = Fast::default();
            fast.add(value, 0);
            assert_eq!(fast.passed(), (-FAST..FAST).contains(&value), "{value}");
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
        for value in [range, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN] {
            let mut fast = Fast::default();
            fast.round(value);
            assert!(!fast.passed(), "{value}");
        }
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
