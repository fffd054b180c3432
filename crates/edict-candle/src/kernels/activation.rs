//! Activation functions and sums, element by element.

use candle_core::{D, Tensor};

use super::{Real, by_width, for_each_row, in_wide, map, misfit, widen, with_slice};
use crate::error::Result;

/// Computes `x / (1 + exp(-x))`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok(x.silu()?);
    }
    in_wide(x, |x| by_width!("silu", x, T => map(x, <T as Real>::silu)))
}

/// Computes `x Phi(x)`.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok(x.gelu_erf()?);
    }
    in_wide(x, |x| by_width!("gelu", x, T => map(x, <T as Real>::gelu)))
}

/// Computes `x / (1 + exp(-1.702 x))`.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x / ((x * -1.702)?.exp()? + 1.0)?)?);
    }
    in_wide(x, |x| by_width!("quick_gelu", x, T => map(x, <T as Real>::quick_gelu)))
}

/// Splits the last axis in halves `u`, `g` and returns `u gelu(g)`.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let Some(width) = x.dims().last().copied().filter(|width| width % 2 == 0) else {
        return Err(misfit("geglu", "a last axis of even extent", &[x.dims()]));
    };
    if !x.device().is_cpu() {
        let [u, g] = [0, width / 2].map(|start| x.narrow(D::Minus1, start, width / 2));
        return Ok((u? * g?.contiguous()?.gelu_erf()?)?);
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width / 2;
    }
    in_wide(x, |x| by_width!("geglu", x, T => geglu_cpu::<T>(x, width / 2, shape)))
}

fn geglu_cpu<T: Real>(x: &Tensor, half: usize, shape: Vec<usize>) -> Result<Tensor> {
    let out = with_slice(x, |x: &[T]| {
        let mut out = vec![T::zero(); x.len() / 2];
        for_each_row(&mut out, half, |i, out| {
            let (u, g) = x[2 * half * i..][..2 * half].split_at(half);
            for ((out, &u), &g) in out.iter_mut().zip(u).zip(g) {
                *out = u * g.gelu();
            }
        });
        out
    })?;
    Ok(Tensor::from_vec(out, shape, x.device())?)
}

/// Adds tensors of one shape.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(misfit("add", "two tensors of one shape", &[x.dims(), y.dims()]));
    }
    if !x.device().is_cpu() {
        return Ok((x + y)?);
    }
    in_wide(x, |x| by_width!("add", x, T => add_cpu::<T>(x, &widen(y)?)))
}

fn add_cpu<T: Real>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let out = with_slice(x, |x: &[T]| {
        with_slice(y, |y: &[T]| {
            const WIDTH: usize = 1 << 14;
            let mut out = vec![T::zero(); x.len()];
            for_each_row(&mut out, WIDTH, |i, out| {
                for ((out, &x), &y) in out.iter_mut().zip(&x[i * WIDTH..]).zip(&y[i * WIDTH..]) {
                    *out = x + y;
                }
            });
            out
        })
    })??;
    Ok(Tensor::from_vec(out, x.shape(), x.device())?)
}

/// Multiplies by a number, which is first rounded to the precision computed in.
pub(crate) fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x * factor)?);
    }
    in_wide(x, |x| {
        by_width!("scale", x, T => {
            let factor = T::of(factor);
            map(x, move |x: T| x * factor)
        })
    })
}
