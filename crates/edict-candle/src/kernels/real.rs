//! The two element types CPU kernels compute in.

use std::ops::Range;

use candle_core::WithDType;

use super::conv::{self, Windows};
use super::panels::{Panels, Storable, Stored, widened};
use super::{Vectored, winograd};
use crate::error::Result;

/// `f32` or `f64`: what kernels on the CPU compute in; half formats are widened first.
pub(crate) trait Real: WithDType + Storable + Vectored {
    /// Converts from `f64`, rounding once.
    fn of(x: f64) -> Self;
    /// Converts to `f64`, exactly.
    fn wide(self) -> f64;
    /// Computes `e^self`.
    fn exp(self) -> Self;
    /// Computes `self Phi(self)`.
    fn gelu(self) -> Self;
    /// Borrows packed weights to compute with; halves are widened into `scratch`. `None` if they are of the other type.
    fn of_stored<'a>(
        stored: &'a Stored,
        range: Range<usize>,
        scratch: &'a mut Vec<Self>,
    ) -> Option<&'a [Self]>;

    /// Convolves in the way that is quickest for the element type.
    fn convolve(windows: &Windows<'_, Self>, panels: &Panels, bias: Option<&[Self]>) -> Result<Vec<Self>> {
        conv::convolve(windows, panels, bias)
    }

    /// Computes `self / (1 + e^-self)`.
    #[inline(always)]
    fn silu(self) -> Self {
        self / (Self::of(1.0) + (Self::zero() - self).exp())
    }

    /// Computes `self / (1 + e^(-1.702 self))`.
    #[inline(always)]
    fn quick_gelu(self) -> Self {
        self / (Self::of(1.0) + (self * Self::of(-1.702)).exp())
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }

    fn wide(self) -> f64 {
        self
    }

    fn exp(self) -> Self {
        f64::exp(self)
    }

    fn gelu(self) -> Self {
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
    fn exp(self) -> Self {
        exp_f32(self)
    }

    fn convolve(windows: &Windows<'_, Self>, panels: &Panels, bias: Option<&[Self]>) -> Result<Vec<Self>> {
        if winograd::pays(windows, panels.outputs()) {
            winograd::convolve(windows, panels, bias)
        } else {
            conv::convolve(windows, panels, bias)
        }
    }

    #[inline(always)]
    fn gelu(self) -> Self {
        self * normal_f32(self)
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

/// Computes `e^x` to within two units in the last place.
///
/// Unlike the standard library's it has no branches and no calls, so loops around it use the vector registers. The
/// polynomial is that of S. Moshier's Cephes library (`expf`).
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    // Beyond these it is 0 or infinite. Comparisons, and not `clamp`, leave what is not a number as it is.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    // ln 2 in two parts, the first of so few bits that its product with n is exact.
    let r = (x - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // 2^n in two factors: n reaches from -150 to 128, beyond the exponents of one.
    let n = shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    y * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// Computes the standard normal distribution function to within three times f32's epsilon; without branches and calls, as [`exp_f32`].
///
/// Below 0 it is `exp(-x^2/2) t P(t)` with `t = 1/(1 + |x|/4)`; `P` was fitted to `erfcx(|x|/sqrt 2)/2` on `|x| <= 14` for the smallest
/// relative error, 8.1e-9.
#[inline(always)]
fn normal_f32(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.25 * x.abs());
    let p = 0.016_563_656;
    let p = p * t - 0.062_702_72;
    let p = p * t + 0.051_435_11;
    let p = p * t + 0.028_736_107;
    let p = p * t + 0.012_451_998;
    let p = p * t + 0.086_802_62;
    let p = p * t + 0.071_946_55;
    let p = p * t + 0.095_527_664;
    let p = p * t + 0.099_491_03;
    let p = p * t + 0.099_747_986;
    let tail = exp_f32(-0.5 * x * x) * (p * t);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        // Every 997th number of either sign whose exponential is a normal number.
        for bits in (0..88.7f32.to_bits()).step_by(997) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)].into_iter().filter(|&x| x > -87.3) {
                let exact = f64::from(x).exp();
                let error = (f64::from(exp_f32(x)) - exact).abs() / exact;
                assert!(!error.is_nan());
                worst = worst.max(error);
            }
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
    }

    #[test]
    fn the_normal_distribution_is_within_three_epsilon() {
        let mut worst = 0.0f64;
        for i in -1_400_000..=1_400_000 {
            let x = i as f32 / 1e5;
            let exact = 0.5 * libm::erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2);
            let error = (f64::from(normal_f32(x)) - exact).abs();
            assert!(!error.is_nan());
            worst = worst.max(error);
        }
        // The exponential is within two units of its last place, the largest tail is 1/2, and a few roundings come on top.
        assert!(worst < 3.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(normal_f32(f32::INFINITY), 1.0);
        assert_eq!(normal_f32(f32::NEG_INFINITY), 0.0);
        assert!(normal_f32(f32::NAN).is_nan());
    }

    #[test]
    fn exponentials_keep_to_the_ends_of_the_range() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(-200.0), 0.0);
        assert_eq!(exp_f32(88.8), f32::INFINITY);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert!(exp_f32(f32::NAN).is_nan());
        for i in 0..1700 {
            // The subnormals, to the unit.
            let x = -87.0 - i as f32 / 100.0;
            assert!((f64::from(exp_f32(x)) - f64::from(x).exp()).abs() <= 1.5 * 2f64.powi(-149), "{x}");
        }
    }
}
