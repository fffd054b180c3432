//! Linear maps of the last axis.

use super::{extents, lie_by_pixels, misfit, narrow, same_type, widen};
use crate::error::{Result, TchError};
use crate::shim;
use crate::tensor::Tensor;
use crate::weights::Linear;

/// Applies a linear map to the last axis of a tensor of any rank.
pub(crate) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    check("linear", x, linear)?;
    let bias = linear.bias.as_ref().map(widen).transpose()?;
    narrow(widen(x)?.f_linear(&widen(&linear.weight)?, bias)?, x.dtype())
}

/// Applies a linear map, and multiplies the first half `u` of its outputs by `gelu(g)` of the second.
pub(crate) fn linear_geglu(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    check("linear_geglu", x, linear)?;
    if !linear.outputs.is_multiple_of(2) {
        return Err(misfit("linear_geglu", "a weight of an even number of outputs", &[&[linear.outputs]]));
    }
    let wide = widen(x)?;
    let bias = linear.bias.as_ref().map(widen).transpose()?;
    let weight = widen(&linear.weight)?;
    if lie_by_pixels(&wide)
        && wide.numel() > 0
        && let Some(out) = shim::linear_geglu(&wide, &weight, bias.as_ref()).map_err(TchError::from_shim)?
    {
        return narrow(out, x.dtype());
    }
    // Two maps in place of one, so that both results can be written over.
    let [half] = extents([linear.outputs / 2]);
    let apply = |first: i64| -> Result<tch::Tensor> {
        let bias = bias.as_ref().map(|bias| bias.f_narrow(0, first, half)).transpose()?;
        Ok(wide.f_linear(&weight.f_narrow(0, first, half)?, bias)?)
    };
    let gate = apply(half)?.f_gelu_("none")?;
    narrow(apply(0)?.f_mul_(&gate)?, x.dtype())
}

fn check(operation: &'static str, x: &Tensor, linear: &Linear) -> Result<()> {
    if x.dims().last() != Some(&linear.inputs) {
        return Err(misfit(
            operation,
            "an input [.., in], a weight [out, in]",
            &[x.dims(), &[linear.outputs, linear.inputs]],
        ));
    }
    same_type(operation, x, &[&linear.weight])
}
