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

// Checks look at what an update wrote. With `b != 0` and `p > 0` a prediction that is not finite always shows there, and so does
// a latent that has grown out of range by itself.

/// `z <- a z`
pub(crate) fn scale(z: &mut Latents, a: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).for_each(|z| {
        *z *= a;
        check.see(*z);
    });
    check
}

/// `z <- z / a`
pub(crate) fn unscale(z: &mut Latents, a: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).for_each(|z| {
        *z /= a;
        check.see(*z);
    });
    check
}

/// `z <- a z + b e`
pub(crate) fn advance(z: &mut Latents, e: &Latents, a: f64, b: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).and(e).for_each(|z, &e| {
        *z = a * *z + b * e;
        check.see(*z);
    });
    check
}

/// `z <- (z - b e) / a`
pub(crate) fn retreat(z: &mut Latents, e: &Latents, a: f64, b: f64) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(z).and(e).for_each(|z, &e| {
        *z = (*z - b * e) / a;
        check.see(*z);
    });
    check
}

/// `last <- k0 last + k1 z + k2 e`: the latents after `z`, in the place of those before it.
pub(crate) fn combine(last: &mut Latents, z: &Latents, e: &Latents, [k0, k1, k2]: [f64; 3]) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(last).and(z).and(e).for_each(|last, &z, &e| {
        *last = k0 * *last + k1 * z + k2 * e;
        check.see(*last);
    });
    check
}

/// Undoes [`combine`].
pub(crate) fn uncombine(next: &mut Latents, z: &Latents, e: &Latents, [k0, k1, k2]: [f64; 3]) -> FiniteCheck {
    let mut check = FiniteCheck::default();
    Zip::from(next).and(z).and(e).for_each(|next, &z, &e| {
        *next = (*next - k1 * z - k2 * e) / k0;
        check.see(*next);
    });
    check
}

/// `x <- p x + (1 - p) y`, then `y <- p y + (1 - p) x`
pub(crate) fn mix(x: &mut Latents, y: &mut Latents, p: f64) -> FiniteCheck {
    let mut mixing = Mixing::new(p);
    Zip::from(x).and(y).for_each(|x, y| (*x, *y) = mixing.mix(*x, *y));
    mixing.check
}

/// Undoes [`mix`].
pub(crate) fn unmix(x: &mut Latents, y: &mut Latents, p: f64) -> FiniteCheck {
    let (mut check, q) = (FiniteCheck::default(), 1.0 - p);
    Zip::from(x).and(y).for_each(|x, y| {
        *y = (*y - q * *x) / p;
        *x = (*x - q * *y) / p;
        check.see(*x);
        check.see(*y);
    });
    check
}

/// `x <- a x + b e`, then [`mix`], in one pass.
pub(crate) fn advance_x_and_mix(
    x: &mut Latents,
    y: &mut Latents,
    e: &Latents,
    (a, b): (f64, f64),
    p: f64,
) -> FiniteCheck {
    let mut mixing = Mixing::new(p);
    Zip::from(x).and(y).and(e).for_each(|x, y, &e| (*x, *y) = mixing.mix(a * *x + b * e, *y));
    mixing.check
}

/// `y <- a y + b e`, then [`mix`], in one pass.
pub(crate) fn advance_y_and_mix(
    x: &mut Latents,
    y: &mut Latents,
    e: &Latents,
    (a, b): (f64, f64),
    p: f64,
) -> FiniteCheck {
    let mut mixing = Mixing::new(p);
    Zip::from(x).and(y).and(e).for_each(|x, y, &e| (*x, *y) = mixing.mix(*x, a * *y + b * e));
    mixing.check
}

/// The mixing of one element pair after another.
struct Mixing {
    p: f64,
    q: f64,
    check: FiniteCheck,
}

impl Mixing {
    fn new(p: f64) -> Self {
        Self { p, q: 1.0 - p, check: FiniteCheck::default() }
    }

    #[inline(always)]
    fn mix(&mut self, x: f64, y: f64) -> (f64, f64) {
        let x = self.p * x + self.q * y;
        let y = self.p * y + self.q * x;
        self.check.see(x);
        self.check.see(y);
        (x, y)
    }
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
