//! The arithmetic of affine steps: in place, each array read and written once.
//!
//! Expressions are evaluated as written, without fused multiply-add, so that results are the same on every machine.

use ndarray::Zip;

use crate::Latents;

/// Gathers whether any of the values seen was NaN or infinite, without a branch in the loop.
#[derive(Clone, Copy, Default)]
pub(crate) struct FiniteCheck(u64);

impl FiniteCheck {
    const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
    const EXPONENT_ONE: u64 = 0x0010_0000_0000_0000;

    #[inline(always)]
    fn see(&mut self, value: f64) {
        // An exponent of all ones, and only that, carries into the sign bit.
        self.0 |= (value.to_bits() & Self::EXPONENT) + Self::EXPONENT_ONE;
    }

    /// Returns whether all values seen were finite.
    pub(crate) fn passed(self) -> bool {
        self.0 >> 63 == 0
    }

    /// Checks a whole array.
    pub(crate) fn of(values: &Latents) -> Self {
        let mut check = Self::default();
        Zip::from(values).for_each(|&value| check.see(value));
        check
    }
}

/// `z <- a z`
pub(crate) fn scale(z: &mut Latents, a: f64) {
    Zip::from(z).for_each(|z| *z *= a);
}

/// `z <- z / a`
pub(crate) fn unscale(z: &mut Latents, a: f64) {
    Zip::from(z).for_each(|z| *z /= a);
}

/// `z <- a z + b e`
pub(crate) fn advance(z: &mut Latents, e: &Latents, a: f64, b: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).and(e).for_each(|z, &e| {
        check.see(e);
        *z = a * *z + b * e;
    });
    check
}

/// `z <- (z - b e) / a`
pub(crate) fn retreat(z: &mut Latents, e: &Latents, a: f64, b: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).and(e).for_each(|z, &e| {
        check.see(e);
        *z = (*z - b * e) / a;
    });
    check
}

/// Mixes one element pair: `x <- p x + q y`, then `y <- p y + q x`.
#[inline(always)]
fn mix_element(x: f64, y: f64, p: f64, q: f64) -> (f64, f64) {
    let x = p * x + q * y;
    (x, p * y + q * x)
}

/// `x <- p x + (1 - p) y`, then `y <- p y + (1 - p) x`
pub(crate) fn mix(x: &mut Latents, y: &mut Latents, p: f64) {
    let q = 1.0 - p;
    Zip::from(x).and(y).for_each(|x, y| (*x, *y) = mix_element(*x, *y, p, q));
}

/// Undoes [`mix`].
pub(crate) fn unmix(x: &mut Latents, y: &mut Latents, p: f64) {
    let q = 1.0 - p;
    Zip::from(x).and(y).for_each(|x, y| {
        *y = (*y - q * *x) / p;
        *x = (*x - q * *y) / p;
    });
}

/// `x <- a x + b e`, then [`mix`], in one pass.
pub(crate) fn advance_x_and_mix(
    x: &mut Latents,
    y: &mut Latents,
    e: &Latents,
    (a, b): (f64, f64),
    p: f64,
) -> FiniteCheck {
    let (mut check, q) = (FiniteCheck::default(), 1.0 - p);
    Zip::from(x).and(y).and(e).for_each(|x, y, &e| {
        check.see(e);
        (*x, *y) = mix_element(a * *x + b * e, *y, p, q);
    });
    check
}

/// `y <- a y + b e`, then [`mix`], in one pass.
pub(crate) fn advance_y_and_mix(
    x: &mut Latents,
    y: &mut Latents,
    e: &Latents,
    (a, b): (f64, f64),
    p: f64,
) -> FiniteCheck {
    let (mut check, q) = (FiniteCheck::default(), 1.0 - p);
    Zip::from(x).and(y).and(e).for_each(|x, y, &e| {
        check.see(e);
        (*x, *y) = mix_element(*x, a * *y + b * e, p, q);
    });
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_check_fails_on_nan_and_infinities_alone() {
        let finite = [0.0, -0.0, 1.0, -1.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324];
        assert!(FiniteCheck::of(&ndarray::arr1(&finite).into_dyn()).passed());
        for bad in
            [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::from_bits(0x7ff0_0000_0000_0001)]
        {
            for position in 0..finite.len() {
                let mut values = finite;
                values[position] = bad;
                assert!(!FiniteCheck::of(&ndarray::arr1(&values).into_dyn()).passed(), "{bad} at {position}");
            }
        }
    }
}
