//! Linear maps of the last axis.

use candle_core::Tensor;

use super::matmul::{Matrix, product};
use super::{Real, by_width, in_wide, misfit, widen, with_slice};
use crate::error::Result;
use crate::weights::{Linear, Weight};

/// Applies a linear map to the last axis of a tensor of any rank.
pub(crate) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let Some((_, outer)) = x.dims().split_last().filter(|(last, _)| **last == linear.inputs) else {
        return Err(misfit(
            "linear",
            "an input [.., in], a weight [out, in]",
            &[x.dims(), &[linear.outputs, linear.inputs]],
        ));
    };
    let rows = outer.iter().product::<usize>();
    let shape: Vec<usize> = outer.iter().copied().chain([linear.outputs]).collect();
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
                with_bias(bias.as_ref(), |bias| product(rows, &left, panels, bias))
            })???;
            Ok(Tensor::from_vec(y, shape, x.device())?)
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
