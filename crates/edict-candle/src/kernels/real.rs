//! The two element types CPU kernels compute in.

use candle_core::{CpuStorage, WithDType};

/// `f32` or `f64`: what kernels on the CPU compute in; half formats are widened first.
pub(crate) trait Real: WithDType {
    /// Converts from `f64`, rounding once.
    fn of(x: f64) -> Self;
    /// Converts to `f64`, exactly.
    fn wide(self) -> f64;
    /// Computes `e^self`.
    fn exp(self) -> Self;
    /// Computes `self Phi(self)`.
    fn gelu(self) -> Self;
    /// Borrows the elements of a storage of this type for writing.
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// Computes `self / (1 + e^-self)`.
    fn silu(self) -> Self {
        self / (Self::of(1.0) + (Self::zero() - self).exp())
    }

    /// Computes `self / (1 + e^(-1.702 self))`.
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

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F64(values) => Some(values),
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

    fn exp(self) -> Self {
        f32::exp(self)
    }

    fn gelu(self) -> Self {
        0.5 * self * libm::erfcf(-self * std::f32::consts::FRAC_1_SQRT_2)
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }
}
