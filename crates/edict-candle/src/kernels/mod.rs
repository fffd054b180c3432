//! Operations on candle tensors: own loops on the CPU, candle's operations composed elsewhere.
//!
//! One concept a file. Each file has the operation, its CPU loop over slices of [`Real`] and, for other devices, its
//! composition out of candle's operations.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod linear;
pub(crate) mod norm;
mod real;
pub(crate) mod shape;
mod sum;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor};
use rayon::prelude::*;

use crate::error::{CandleError, Result};
pub(crate) use real::Real;
pub(crate) use sum::sum;

/// Elements a task has at least: less is not worth handing to another thread.
const GRAIN: usize = 1 << 14;

/// Runs an expression with `$T` the type the tensor's elements have, `f32` or `f64`.
macro_rules! by_width {
    ($operation:literal, $tensor:expr, $T:ident => $body:expr) => {
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
        DType::F16 | DType::BF16 => Ok(x.to_dtype(DType::F32)?),
        _ => Ok(x.clone()),
    }
}

/// Computes in `f32` where `x` is of a half format and rounds the result once to it.
pub(crate) fn in_wide(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    Ok(f(&widen(x)?)?.to_dtype(x.dtype())?)
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

/// Changes the elements of a CPU tensor that nobody else holds yet.
pub(crate) fn change<T: Real>(x: &Tensor, f: impl Fn(&mut [T])) -> Result<()> {
    struct Change<T, F>(F, std::marker::PhantomData<fn(T)>);

    impl<T: Real, F: Fn(&mut [T])> InplaceOp1 for Change<T, F> {
        fn name(&self) -> &'static str {
            "change"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("change needs a contiguous tensor")
            };
            let Some(elements) = T::slice_mut(storage) else {
                candle_core::bail!("change was given another element type")
            };
            (self.0)(&mut elements[start..end]);
            Ok(())
        }
    }

    Ok(x.inplace_op1(&Change(f, std::marker::PhantomData))?)
}

/// Calls `f(i, row)` for row `i` of `out`, rows being `width` long (the last may be shorter), in parallel where it pays.
///
/// What a row is computed from must not depend on the rows beside it, so the split among threads cannot be seen in the
/// result.
pub(crate) fn for_each_row<T: Real>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let width = width.max(1);
    if out.len() <= GRAIN {
        out.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        out.par_chunks_mut(width)
            .with_min_len(GRAIN.div_ceil(width))
            .enumerate()
            .for_each(|(i, row)| f(i, row));
    }
}

/// Applies `f` to every element.
pub(crate) fn map<T: Real>(x: &Tensor, f: impl Fn(T) -> T + Sync + Send) -> Result<Tensor> {
    let out = with_slice(x, |x: &[T]| {
        let mut out = vec![T::zero(); x.len()];
        for_each_row(&mut out, GRAIN, |i, out| {
            for (out, &x) in out.iter_mut().zip(&x[i * GRAIN..]) {
                *out = f(x);
            }
        });
        out
    })?;
    Ok(Tensor::from_vec(out, x.shape(), x.device())?)
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

/// Returns tokens' `[batch, tokens, channels]`.
pub(crate) fn token_dims(operation: &'static str, tokens: &Tensor) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(tokens.dims())
        .map_err(|_| misfit(operation, "tokens [batch, tokens, channels]", &[tokens.dims()]))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

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
        assert!(scale > 0.0 && error <= tolerance * scale, "error {error:e} at a scale of {scale:e}");
    }
}
