//! Linear maps of the last axis.

use candle_core::Tensor;

use super::{Real, by_width, change, for_each_row, in_wide, misfit, widen, with_slice};
use crate::error::Result;
use crate::weights::Linear;

/// Applies a linear map to the last axis of a tensor of any rank.
pub(crate) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let (outputs, inputs) = linear.weight.dims2()?;
    let Some((_, outer)) = x.dims().split_last().filter(|(last, _)| **last == inputs) else {
        return Err(misfit(
            "linear",
            "an input [.., in], a weight [out, in]",
            &[x.dims(), &[outputs, inputs]],
        ));
    };
    let rows = outer.iter().product::<usize>();
    let shape: Vec<usize> = outer.iter().copied().chain([outputs]).collect();
    let product = |x: &Tensor, weight: &Tensor| x.reshape((rows, inputs))?.matmul(&weight.t()?);
    if !x.device().is_cpu() {
        let y = product(x, &linear.weight)?;
        let y = linear.bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
        return Ok(y.reshape(shape)?);
    }
    in_wide(x, |x| {
        let y = product(x, &widen(&linear.weight)?)?;
        if let Some(bias) = &linear.bias {
            by_width!("linear", y, T => add_to_rows::<T>(&y, &widen(bias)?))?;
        }
        Ok(y.reshape(shape)?)
    })
}

fn add_to_rows<T: Real>(y: &Tensor, bias: &Tensor) -> Result<()> {
    with_slice(bias, |bias: &[T]| {
        change(y, |y: &mut [T]| {
            for_each_row(y, bias.len(), |_, row| {
                for (y, &bias) in row.iter_mut().zip(bias) {
                    *y += bias;
                }
            });
        })
    })?
}
