//! Operations composed out of PyTorch's. One concept a file.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod shape;

use edict_stable_diffusion::DType;

use crate::error::{Result, TchError};
use crate::tensor::{Tensor, kind};
use crate::weights::is_half;

/// Tells whether a tensor's operations compute in `f32` and round once: halves on the CPU.
///
/// There PyTorch computes some operations on halves in halves, others in f32, some by kernels a hundred times slower; which is which
/// depends on the processor. On GPUs halves are what kernels are made for.
fn is_widened(x: &tch::Tensor, dtype: DType) -> bool {
    is_half(dtype) && x.device() == tch::Device::Cpu
}

/// Tells whether images of such elements, as operations compute with them, lie in memory pixel by pixel, each with its channels side by
/// side: f32 on the processor.
///
/// oneDNN's convolutions are made for that layout, and tokens are images in it. In f64, which oneDNN does not have, and on GPUs images
/// lie plane by plane.
pub(crate) fn lie_by_pixels(x: &tch::Tensor) -> bool {
    x.device() == tch::Device::Cpu && x.f_kind().is_ok_and(|kind| kind == tch::Kind::Float)
}

/// Returns a tensor of PyTorch's to compute with, in `f32` where [`is_widened`] says so.
pub(crate) fn widen(x: &Tensor) -> Result<tch::Tensor> {
    let inner = x.tch();
    if is_widened(&inner, x.dtype()) { Ok(inner.f_to_kind(tch::Kind::Float)?) } else { Ok(inner) }
}

/// Rounds a result to the element type that the arguments of its operation had.
pub(crate) fn narrow(y: tch::Tensor, dtype: DType) -> Result<Tensor> {
    if y.f_kind()? == kind(dtype) { Tensor::new(y) } else { Tensor::new(y.f_to_kind(kind(dtype))?) }
}

/// Refuses arguments of different element types: PyTorch would widen some of them silently.
pub(crate) fn same_type(operation: &'static str, x: &Tensor, others: &[&Tensor]) -> Result<()> {
    match others.iter().find(|other| other.dtype() != x.dtype()) {
        None => Ok(()),
        Some(other) => Err(TchError::ElementType { operation, expected: other.dtype(), found: x.dtype() }),
    }
}

/// Makes the error for shapes that do not fit.
pub(crate) fn misfit(operation: &'static str, expected: &'static str, found: &[&[usize]]) -> TchError {
    TchError::Shape { operation, expected, found: found.iter().map(|&shape| shape.to_vec()).collect() }
}

/// Returns an image's `[batch, channels, height, width]`.
pub(crate) fn image_dims(operation: &'static str, image: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(image.dims())
        .map_err(|_| misfit(operation, "an image [batch, channels, height, width]", &[image.dims()]))
}

/// Returns tokens' `[batch, tokens, channels]`.
pub(crate) fn token_dims(operation: &'static str, tokens: &Tensor) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(tokens.dims())
        .map_err(|_| misfit(operation, "tokens [batch, tokens, channels]", &[tokens.dims()]))
}

/// Extents as PyTorch counts them. Those of tensors fit: they were PyTorch's before.
pub(crate) fn extents<const N: usize>(dims: [usize; N]) -> [i64; N] {
    dims.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
}
