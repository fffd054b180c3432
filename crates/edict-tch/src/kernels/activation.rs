//! Functions of single elements.

use super::{extents, misfit, narrow, same_type, widen};
use crate::error::Result;
use crate::tensor::Tensor;

/// Splits the last axis in halves `u`, `g` and returns `u gelu(g)`.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let Some(&channels) = x.dims().last().filter(|&&channels| channels % 2 == 0) else {
        return Err(misfit("geglu", "an even last axis", &[x.dims()]));
    };
    let wide = widen(x)?;
    let [half] = extents([channels / 2]);
    let gate = wide.f_narrow(-1, half, half)?.f_gelu("none")?;
    narrow(wide.f_narrow(-1, 0, half)?.f_mul(&gate)?, x.dtype())
}

/// Computes `x Phi(x)`.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    narrow(widen(x)?.f_gelu("none")?, x.dtype())
}

/// Computes `x / (1 + exp(-1.702 x))`.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    let wide = widen(x)?;
    narrow(wide.f_mul_scalar(1.702)?.f_sigmoid()?.f_mul(&wide)?, x.dtype())
}

/// Computes `x / (1 + exp(-x))`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    narrow(widen(x)?.f_silu()?, x.dtype())
}

/// Adds tensors of one shape.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(misfit("add", "two tensors of one shape", &[x.dims(), y.dims()]));
    }
    same_type("add", x, &[y])?;
    narrow(widen(x)?.f_add(&widen(y)?)?, x.dtype())
}

/// Multiplies by a number.
pub(crate) fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    narrow(widen(x)?.f_mul_scalar(factor)?, x.dtype())
}
