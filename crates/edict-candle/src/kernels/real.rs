//! The two element types CPU kernels compute in.
//!
//! Functions of an element have no branches and no calls where that can be, so that loops around them use the vector registers of the
//! instruction set `S` they are compiled for.

use std::ops::Range;

use candle_core::WithDType;
use pulp::Simd;

use super::Vectored;
use super::panels::{Storable, Stored, widened};

/// `f32` or `f64`: what kernels on the CPU compute in; half formats are widened first.
pub(crate) trait Real: WithDType + Storable + Vectored {
    /// Converts from `f64`, rounding once.
    fn of(x: f64) -> Self;
    /// Converts to `f64`, exactly.
    fn wide(self) -> f64;
    /// Computes `self y + z`, with one rounding where `S` has an instruction for it.
    fn fused<S: Simd>(self, y: Self, z: Self) -> Self;
    /// Computes `e^self`.
    fn exp<S: Simd>(self) -> Self;
    /// Computes `2^self` of a number below 1; in f32, what is below `2^-125.5` becomes 0.
    fn exp2_below_one<S: Simd>(self) -> Self;
    /// Computes `self Phi(self)`.
    fn gelu<S: Simd>(self) -> Self;
    /// Borrows packed weights to compute with; halves are widened into `scratch`. `None` if they are of the other type.
    fn of_stored<'a>(
        stored: &'a Stored,
        range: Range<usize>,
        scratch: &'a mut Vec<Self>,
    ) -> Option<&'a [Self]>;

    /// Computes `self / (1 + e^-self)`.
    #[inline(always)]
    fn silu<S: Simd>(self) -> Self {
        self / (Self::of(1.0) + (Self::zero() - self).exp::<S>())
    }

    /// Computes `self / (1 + e^(-1.702 self))`.
    #[inline(always)]
    fn quick_gelu<S: Simd>(self) -> Self {
        self / (Self::of(1.0) + (self * Self::of(-1.702)).exp::<S>())
    }
}

/// Tells whether `S` multiplies and adds in one instruction; elsewhere [`f32::mul_add`] would be a call.
const fn fuses<S: Simd>() -> bool {
    !S::IS_SCALAR && cfg!(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn fused<S: Simd>(self, y: Self, z: Self) -> Self {
        if const { fuses::<S>() } { self.mul_add(y, z) } else { self * y + z }
    }

    fn exp<S: Simd>(self) -> Self {
        f64::exp(self)
    }

    fn exp2_below_one<S: Simd>(self) -> Self {
        f64::exp2(self)
    }

    fn gelu<S: Simd>(self) -> Self {
        // erfc rather than 1 + erf: it keeps its relative accuracy where erf comes near -1.
        0.5 * self * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2)
    }

    fn of_stored<'a>(stored: &'a Stored, range: Range<usize>, _: &'a mut Vec<Self>) -> Option<&'a [Self]> {
        match stored {
            Stored::F64(values) => Some(&values[range]),
            _ => None,
        }
    }
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn fused<S: Simd>(self, y: Self, z: Self) -> Self {
        if const { fuses::<S>() } { self.mul_add(y, z) } else { self * y + z }
    }

    #[inline(always)]
    fn exp<S: Simd>(self) -> Self {
        exp_f32::<S>(self)
    }

    #[inline(always)]
    fn exp2_below_one<S: Simd>(self) -> Self {
        exp2_below_one_f32::<S>(self)
    }

    #[inline(always)]
    fn gelu<S: Simd>(self) -> Self {
        self * normal_f32::<S>(self)
    }

    fn of_stored<'a>(
        stored: &'a Stored,
        range: Range<usize>,
        scratch: &'a mut Vec<Self>,
    ) -> Option<&'a [Self]> {
        match stored {
            Stored::F64(_) => None,
            Stored::F32(values) => Some(&values[range]),
            Stored::F16(values) => Some(widened(&values[range], scratch)),
            Stored::BF16(values) => Some(widened(&values[range], scratch)),
        }
    }
}

// Polynomials are evaluated in pairs of terms, and pairs of pairs. One term after the other they would need fewer operations, each
// of which waits for the one before: more than a processor finds others to do for.

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
const SHIFT: f32 = 12_582_912.0;

/// Adds what exponents are stored with, so that the low bits are the exponent of a power of two.
const BIASED_SHIFT: f32 = SHIFT + 127.0;

/// Computes `e^x` to within two units in the last place.
///
/// The polynomial is that of S. Moshier's Cephes library (`expf`).
#[inline(always)]
fn exp_f32<S: Simd>(x: f32) -> f32 {
    // Beyond these it is 0 or infinite. Comparisons, and not `clamp`, leave what is not a number as it is.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.fused::<S>(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    // ln 2 in two parts, the first of so few bits that its product with n is exact.
    let r = n.fused::<S>(-355.0 / 512.0, x);
    let r = n.fused::<S>(2.121_944_4e-4, r);
    let r2 = r * r;
    let p = r.fused::<S>(1.987_569_1e-4, 1.398_2e-3);
    let p = p.fused::<S>(r2, r.fused::<S>(8.333_452e-3, 4.166_579_6e-2));
    let p = p.fused::<S>(r2, r.fused::<S>(0.166_666_66, 0.5));
    let y = p.fused::<S>(r2, r) + 1.0;
    // 2^n in two factors: n reaches from -150 to 128, beyond the exponents of one.
    let n = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// Computes `2^x` of `x < 1` to within two units in the last place, or 0 where it is below `2^-125.5`: one factor of 2^n then is enough.
///
/// For many numbers side by side, which wait for nothing: term after term takes the fewest operations.
#[inline(always)]
fn exp2_below_one_f32<S: Simd>(x: f32) -> f32 {
    let (r, power) = split_f32(x);
    let p = r.fused::<S>(EXP2[5], EXP2[4]);
    let p = p.fused::<S>(r, EXP2[3]);
    let p = p.fused::<S>(r, EXP2[2]);
    let p = p.fused::<S>(r, EXP2[1]);
    let p = p.fused::<S>(r, EXP2[0]);
    let y = p.fused::<S>(r, 1.0);
    // This order of comparing leaves what is not a number as it is.
    if x < -125.5 { 0.0 } else { y * power }
}

/// As [`exp2_below_one_f32`], in pairs of terms.
#[inline(always)]
fn exp2_in_pairs_f32<S: Simd>(x: f32) -> f32 {
    let (r, power) = split_f32(x);
    let r2 = r * r;
    let p = r2.fused::<S>(EXP2[5], r.fused::<S>(EXP2[4], EXP2[3]));
    let p = p.fused::<S>(r2, r.fused::<S>(EXP2[2], EXP2[1]));
    let y = p.fused::<S>(r2, r.fused::<S>(EXP2[0], 1.0));
    if x < -125.5 { 0.0 } else { y * power }
}

/// Polynomial fitted to `(2^x - 1) / x` on `|x| <= 1/2` for the smallest relative error of `2^x`, 2.0e-9; the lowest term first.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 5.550_332_4e-2, 9.618_437e-3, 1.339_887_5e-3, 1.535_336_2e-4];

/// Splits `x` into `r` and the power of two of an integer: `2^x` is `2^r` times that.
#[inline(always)]
fn split_f32(x: f32) -> (f32, f32) {
    let shifted = x + BIASED_SHIFT;
    // Exact, as both differ by less than a factor of two or the difference is x itself.
    let r = x - (shifted - BIASED_SHIFT);
    // The other bits are shifted out.
    (r, f32::from_bits(shifted.to_bits() << 23))
}

/// Computes the standard normal distribution function to within three times f32's epsilon.
///
/// Below 0 it is `2^Q(|x|)`: no division, which would take half the time. `Q` was fitted to the logarithm on `|x| <= 13.3`, beyond which
/// there is no such normal number; by itself it makes errors of 3e-8, and where that is more than the function, below -5, of at most
/// 6e-4 of it.
#[inline(always)]
fn normal_f32<S: Simd>(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 14.0 { 14.0 } else { a };
    let a2 = a * a;
    let a4 = a2 * a2;
    let pair = |low: f32, high: f32| a.fused::<S>(high, low);
    let low = pair(-0.459_198_62, -5.252_123_3e-2).fused::<S>(a2, pair(-1.0, -1.151_106_2));
    let middle = pair(-2.227_774_5e-4, 6.119_606_4e-5).fused::<S>(a2, pair(7.079_878_4e-3, -1.166_841_4e-4));
    let high = pair(-4.553_236e-8, 1.436_847e-9).fused::<S>(a2, pair(-8.974_725e-6, 8.145_448e-7));
    let high = a4.fused::<S>(-1.959_157e-11, high);
    let q = high.fused::<S>(a4 * a4, middle.fused::<S>(a4, low));
    let tail = exp2_in_pairs_f32::<S>(q);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;
    use crate::kernels::tests::arches;

    /// A function, compiled for an instruction set.
    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Exp2BelowOne,
        Normal,
    }

    struct Values<'a>(Function, &'a [f32]);

    impl WithSimd for Values<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
            let Self(function, x) = self;
            let mut y = x.to_vec();
            match function {
                Function::Exp => y.iter_mut().for_each(|y| *y = exp_f32::<S>(*y)),
                Function::Exp2BelowOne => y.iter_mut().for_each(|y| *y = exp2_below_one_f32::<S>(*y)),
                Function::Normal => y.iter_mut().for_each(|y| *y = normal_f32::<S>(*y)),
            }
            y
        }
    }

    fn one(arch: Arch, function: Function, x: f32) -> f32 {
        arch.dispatch(Values(function, &[x]))[0]
    }

    /// The largest error of `found`, in units of the last place that the exact value has in f32.
    fn units(found: &[f32], exact: impl Iterator<Item = f64>) -> f64 {
        let mut worst = 0.0f64;
        for (&found, exact) in found.iter().zip(exact) {
            // 2^-23 of the power of two that is not above the exact value.
            let unit = f64::from_bits(exact.to_bits() & (0x7FF << 52)) * f64::from(f32::EPSILON);
            let error = (f64::from(found) - exact).abs() / unit;
            assert!(!error.is_nan());
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        // Every 997th number of either sign whose exponential is a normal number.
        let positive = (0..88.7f32.to_bits()).step_by(997).map(f32::from_bits);
        let negative: Vec<f32> = positive.clone().map(|x| -x).filter(|&x| x > -87.0).collect();
        let both: Vec<f32> = positive.clone().chain(negative).collect();
        let below: Vec<f32> = positive
            .clone()
            .filter(|&x| x < 1.0)
            .chain((0..125.5f32.to_bits()).step_by(997).map(|bits| -f32::from_bits(bits)))
            .collect();
        let exact = |x: &f32| f64::from(*x).exp();
        for arch in arches() {
            let worst = units(&arch.dispatch(Values(Function::Exp, &both)), both.iter().map(exact));
            assert!(worst < 2.0, "{worst} units");
            let found = arch.dispatch(Values(Function::Exp2BelowOne, &below));
            let worst = units(&found, below.iter().map(|&x| f64::from(x).exp2()));
            assert!(worst < 2.0, "{worst} units");
        }
    }

    #[test]
    fn the_normal_distribution_is_within_three_epsilon() {
        let x: Vec<f32> = (-1_400_000..=1_400_000).map(|i| i as f32 / 1e5).collect();
        for arch in arches() {
            let mut worst = 0.0f64;
            for (x, found) in x.iter().zip(arch.dispatch(Values(Function::Normal, &x))) {
                let exact = 0.5 * libm::erfc(-f64::from(*x) * std::f64::consts::FRAC_1_SQRT_2);
                let error = (f64::from(found) - exact).abs();
                assert!(!error.is_nan());
                worst = worst.max(error);
            }
            // The exponential is within two units of its last place, the largest tail is 1/2, and a few roundings come on top.
            assert!(worst < 3.0 * f64::from(f32::EPSILON), "{worst:e}");
            assert_eq!(one(arch, Function::Normal, f32::INFINITY), 1.0);
            assert_eq!(one(arch, Function::Normal, f32::NEG_INFINITY), 0.0);
            assert!(one(arch, Function::Normal, f32::NAN).is_nan());
        }
    }

    #[test]
    fn exponentials_keep_to_the_ends_of_the_range() {
        for arch in arches() {
            let exp = |x: f32| one(arch, Function::Exp, x);
            assert_eq!(exp(0.0), 1.0);
            assert_eq!(exp(f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(-200.0), 0.0);
            assert_eq!(exp(88.8), f32::INFINITY);
            assert_eq!(exp(f32::INFINITY), f32::INFINITY);
            assert!(exp(f32::NAN).is_nan());
            for i in 0..1700 {
                // The subnormals, to the unit.
                let x = -87.0 - i as f32 / 100.0;
                assert!((f64::from(exp(x)) - f64::from(x).exp()).abs() <= 1.5 * 2f64.powi(-149), "{x}");
            }
            let exp2 = |x: f32| one(arch, Function::Exp2BelowOne, x);
            for x in [0.0, -1.0, -63.0, -125.0] {
                assert_eq!(exp2(x), x.exp2(), "{x}");
            }
            for x in [-125.6, -200.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
                assert_eq!(exp2(x), 0.0, "{x}");
            }
            assert!(exp2(f32::NAN).is_nan());
        }
    }
}
