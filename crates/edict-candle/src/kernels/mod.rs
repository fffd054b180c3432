//! Operations on candle tensors: own loops on the CPU, candle's operations composed elsewhere.
//!
//! One concept a file. Each file has the operation, its CPU loop over slices of [`Real`] and, for other devices, its
//! composition out of candle's operations.

pub(crate) mod activation;
pub(crate) mod aligned;
pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod linear;
mod matmul;
mod memory;
pub(crate) mod norm;
pub(crate) mod panels;
mod real;
pub(crate) mod shape;
mod sum;
mod tile;
mod vector;
mod winograd;

use candle_core::{DType, Storage, Tensor};
use pulp::{Arch, Simd, WithSimd};

use crate::error::{CandleError, Result};
use aligned::Aligned;
use memory::Unwritten;
pub(crate) use real::Real;
pub(crate) use sum::moments;
pub(crate) use vector::Vectored;

/// Elements a task has at least: less is not worth handing to another thread.
const GRAIN: usize = 1 << 14;

/// Runs an expression with `$T` the type the tensor's elements have, `f32` or `f64`.
macro_rules! by_width {
    ($operation:expr, $tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            found => Err($crate::error::CandleError::ElementType { operation: $operation, found }),
        }
    };
}
pub(crate) use by_width;

/// Converts half formats to `f32`; shares the storage of others.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => cast(x, DType::F32),
        _ => Ok(x.clone()),
    }
}

/// Converts elements where they lie: candle's own conversion would lay images out anew.
fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    in_memory(x, |x| Ok(x.to_dtype(dtype)?))
}

/// Computes in `f32` where `x` is of a half format and rounds the result once to it.
pub(crate) fn in_wide(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let y = f(&widen(x)?)?;
    if y.dtype() == x.dtype() { Ok(y) } else { cast(&y, x.dtype()) }
}

/// Lends the elements of a CPU tensor in row-major order.
pub(crate) fn with_slice<T: Real, R>(x: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(CandleError::ElementType { operation: "CPU kernel", found: x.dtype() });
    };
    let start = layout.start_offset();
    let elements = storage.as_slice::<T>()?;
    Ok(f(&elements[start..start + layout.shape().elem_count()]))
}

/// What is done to each row of a result.
pub(crate) trait RowKernel<T>: Sync {
    /// Writes row `i`.
    ///
    /// What a row is computed from must not depend on the rows beside it, so that the split among threads cannot be seen in the
    /// result. Implementations that compute are `#[inline(always)]`: only within [`some_rows`] do they get the
    /// processor's vectors.
    fn row<'a, S: Simd>(&self, simd: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T];
}

/// Makes `count` elements in rows of `width` (the last may be shorter), in parallel where it pays.
pub(crate) fn filled<T: Real>(count: usize, width: usize, kernel: &impl RowKernel<T>) -> Aligned<T> {
    let width = width.max(1);
    let rows = GRAIN.div_ceil(width);
    memory::made(count, rows * width, |i, out| some_rows(out, width, i * rows, kernel))
}

/// Writes rows, the first being number `first`, with the vectors that the processor has.
fn some_rows<'a, T: Real>(
    out: Unwritten<'a, T>,
    width: usize,
    first: usize,
    kernel: &impl RowKernel<T>,
) -> &'a mut [T] {
    struct Some<'a, 'b, T, K> {
        out: Unwritten<'a, T>,
        width: usize,
        first: usize,
        kernel: &'b K,
    }

    impl<'a, T: Real, K: RowKernel<T>> WithSimd for Some<'a, '_, T, K> {
        type Output = &'a mut [T];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> &'a mut [T] {
            self.out.rows(self.width, |i, row| self.kernel.row(simd, self.first + i, row))
        }
    }

    Arch::new().dispatch(Some { out, width, first, kernel })
}

/// Makes the error for shapes that do not fit.
pub(crate) fn misfit(operation: &'static str, expected: &'static str, found: &[&[usize]]) -> CandleError {
    CandleError::Shape { operation, expected, found: found.iter().map(|&shape| shape.to_vec()).collect() }
}

/// Returns an image's `[batch, channels, height, width]`.
pub(crate) fn image_dims(operation: &'static str, image: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(image.dims())
        .map_err(|_| misfit(operation, "an image [batch, channels, height, width]", &[image.dims()]))
}

/// Lays an image out with the channels of a pixel side by side, `[batch, height, width, channels]`: in memory that is how every
/// image is that comes from a kernel on the CPU.
pub(crate) fn pixels(image: &Tensor) -> Result<Tensor> {
    Ok(image.permute((0, 2, 3, 1))?.contiguous()?)
}

/// Views `[batch, height, width, channels]` as an image `[batch, channels, height, width]`.
pub(crate) fn pixels_to_image(pixels: &Tensor) -> Result<Tensor> {
    let image = pixels.permute((0, 3, 1, 2))?;
    // On other devices images lie in the order of their axes, which is candle's.
    if image.device().is_cpu() { Ok(image) } else { Ok(image.contiguous()?) }
}

/// Does to an image's pixels, or to a tensor of another rank, what keeps the shape.
pub(crate) fn in_memory(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.rank() == 4 && x.device().is_cpu() { pixels_to_image(&f(&pixels(x)?)?) } else { f(x) }
}

/// Returns tokens' `[batch, tokens, channels]`.
pub(crate) fn token_dims(operation: &'static str, tokens: &Tensor) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(tokens.dims())
        .map_err(|_| misfit(operation, "tokens [batch, tokens, channels]", &[tokens.dims()]))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Every instruction set that this processor has and kernels are compiled for.
    pub(super) fn arches() -> Vec<Arch> {
        let mut arches = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            arches.extend(pulp::x86::V3::try_new().map(Arch::V3));
            arches.extend(pulp::x86::V4::try_new().map(Arch::V4));
        }
        arches
    }

    /// Values between -1 and 1 that differ from element to element.
    pub(super) fn values(shape: &[usize], seed: u32) -> Tensor {
        let count = shape.iter().product::<usize>();
        let values = (0..count as u32)
            .map(|i| f64::from((i + 77 * seed).wrapping_mul(2_654_435_761)) / 2f64.powi(31) - 1.0);
        Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
    }

    #[track_caller]
    pub(super) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
        assert_eq!(found.dims(), expected.dims());
        let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        let (error, scale) = (largest(&(found - expected).unwrap()), largest(expected));
        // candle's largest element passes over what is not a number; a sum does not.
        let sum = found.sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(
            !sum.is_nan() && scale > 0.0 && error <= tolerance * scale,
            "error {error:e} at a scale of {scale:e}"
        );
    }
}
