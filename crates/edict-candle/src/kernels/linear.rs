//! Linear maps of the last axis.

use candle_core::Tensor;

use super::activation::geglu;
use super::matmul::{Matrix, product, product_geglu};
use super::panels::PANEL;
use super::{Real, by_width, in_wide, misfit, widen, with_slice};
use crate::error::Result;
use crate::weights::{Linear, Weight};

/// Applies a linear map to the last axis of a tensor of any rank.
pub(crate) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    mapped(x, linear, false)
}

/// Applies a linear map to the last axis, of which halves `u`, `g` then become `u gelu(g)`: block by block, while a block is in the cache.
pub(crate) fn linear_geglu(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    // Halves begin with a panel.
    if matches!(linear.weight, Weight::Packed(_)) && linear.outputs.is_multiple_of(2 * PANEL) {
        mapped(x, linear, true)
    } else if x.device().is_cpu() {
        in_wide(x, |x| geglu(&mapped(x, linear, false)?))
    } else {
        geglu(&mapped(x, linear, false)?)
    }
}

/// Applies a linear map, and GEGLU to packed weights' results if `gated`.
fn mapped(x: &Tensor, linear: &Linear, gated: bool) -> Result<Tensor> {
    let Some((_, outer)) = x.dims().split_last().filter(|(last, _)| **last == linear.inputs) else {
        return Err(misfit(
            "linear",
            "an input [.., in], a weight [out, in]",
            &[x.dims(), &[linear.outputs, linear.inputs]],
        ));
    };
    let rows = outer.iter().product::<usize>();
    let outputs = if gated { linear.outputs / 2 } else { linear.outputs };
    let shape: Vec<usize> = outer.iter().copied().chain([outputs]).collect();
    let panels = match &linear.weight {
        Weight::Packed(panels) => panels,
        Weight::Tensor(weight) => {
            let y = x.reshape((rows, linear.inputs))?.matmul(&weight.t()?)?;
            let y = linear.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
            return Ok(y.reshape(shape)?);
        }
    };
    in_wide(x, |x| {
        let bias = linear.bias.as_ref().map(widen).transpose()?;
        by_width!("linear", x, T => {
            let y = with_slice(x, |x: &[T]| {
                let left = Matrix { elements: x, width: linear.inputs };
                with_bias(bias.as_ref(), |bias| {
                    if gated {
                        product_geglu(rows, &left, panels, bias)
                    } else {
                        product(rows, &left, panels, bias)
                    }
                })
            })???;
            y.into_tensor(shape)
        })
    })
}

/// Lends a bias, if there is one.
pub(crate) fn with_bias<T: Real, R>(bias: Option<&Tensor>, f: impl FnOnce(Option<&[T]>) -> R) -> Result<R> {
    match bias {
        Some(bias) => with_slice(bias, |bias: &[T]| f(Some(bias))),
        None => Ok(f(None)),
    }
}
