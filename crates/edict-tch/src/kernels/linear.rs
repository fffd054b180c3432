//! Linear maps of the last axis.

use super::{misfit, narrow, same_type, widen};
use crate::error::Result;
use crate::tensor::Tensor;
use crate::weights::Linear;

/// Applies a linear map to the last axis of a tensor of any rank.
pub(crate) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    if x.dims().last() != Some(&linear.inputs) {
        return Err(misfit(
            "linear",
            "an input [.., in], a weight [out, in]",
            &[x.dims(), &[linear.outputs, linear.inputs]],
        ));
    }
    same_type("linear", x, &[&linear.weight])?;
    let bias = linear.bias.as_ref().map(widen).transpose()?;
    narrow(widen(x)?.f_linear(&widen(&linear.weight)?, bias)?, x.dtype())
}
