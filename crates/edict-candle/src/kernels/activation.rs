//! Activation functions and sums, element by element.

use candle_core::{D, Tensor};
use pulp::Simd;

use super::{
    Real, RowKernel, Unwritten, by_width, filled, in_memory, in_wide, misfit, pixels, widen, with_slice,
};
use crate::error::Result;

/// Elements of a row where rows have no meaning.
const WIDTH: usize = 1 << 14;

/// A function of one element.
trait Function: Sync {
    fn of<S: Simd, T: Real>(&self, x: T) -> T;
}

macro_rules! function {
    ($name:ident, $method:ident) => {
        struct $name;

        impl Function for $name {
            #[inline(always)]
            fn of<S: Simd, T: Real>(&self, x: T) -> T {
                Real::$method::<S>(x)
            }
        }
    };
}

function!(Silu, silu);
function!(Gelu, gelu);
function!(QuickGelu, quick_gelu);

/// Computes `x factor`, the factor first rounded to the precision computed in.
struct Scale(f64);

impl Function for Scale {
    #[inline(always)]
    fn of<S: Simd, T: Real>(&self, x: T) -> T {
        x * T::of(self.0)
    }
}

/// A function of every element of `x`.
struct Map<'a, T, F> {
    x: &'a [T],
    function: F,
}

impl<T: Real, F: Function> RowKernel<T> for Map<'_, T, F> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let x = &self.x[i * WIDTH..][..out.len()];
        out.each(|j| self.function.of::<S, T>(x[j]))
    }
}

fn map(operation: &'static str, x: &Tensor, function: impl Function) -> Result<Tensor> {
    in_wide(x, |x| in_memory(x, |x| by_width!(operation, x, T => map_cpu::<T>(x, function))))
}

fn map_cpu<T: Real>(x: &Tensor, function: impl Function) -> Result<Tensor> {
    let out = with_slice(x, |x: &[T]| filled(x.len(), WIDTH, &Map { x, function }))?;
    out.into_tensor(x.shape())
}

/// Computes `x / (1 + exp(-x))`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { map("silu", x, Silu) } else { Ok(x.silu()?) }
}

/// Computes `x Phi(x)`.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { map("gelu", x, Gelu) } else { Ok(x.gelu_erf()?) }
}

/// Computes `x / (1 + exp(-1.702 x))`.
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok((x / ((x * -1.702)?.exp()? + 1.0)?)?);
    }
    map("quick_gelu", x, QuickGelu)
}

/// Multiplies by a number, which is first rounded to the precision computed in.
pub(crate) fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    if x.device().is_cpu() { map("scale", x, Scale(factor)) } else { Ok((x * factor)?) }
}

/// Splits the last axis in halves `u`, `g` and returns `u gelu(g)`.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let Some(width) = x.dims().last().copied().filter(|width| width % 2 == 0) else {
        return Err(misfit("geglu", "a last axis of even extent", &[x.dims()]));
    };
    let half = width / 2;
    if !x.device().is_cpu() {
        let [u, g] = [0, half].map(|start| x.narrow(D::Minus1, start, half));
        return Ok((u? * g?.contiguous()?.gelu_erf()?)?);
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = half;
    }
    in_wide(x, |x| {
        by_width!("geglu", x, T => {
            let out = with_slice(x, |x: &[T]| filled(x.len() / 2, half, &Geglu { x, half }))?;
            out.into_tensor(shape)
        })
    })
}

struct Geglu<'a, T> {
    x: &'a [T],
    half: usize,
}

impl<T: Real> RowKernel<T> for Geglu<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let (u, g) = self.x[2 * self.half * i..][..2 * self.half].split_at(self.half);
        let (u, g) = (&u[..out.len()], &g[..out.len()]);
        out.each(|j| u[j] * g[j].gelu::<S>())
    }
}

/// Adds tensors of one shape.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        return Err(misfit("add", "two tensors of one shape", &[x.dims(), y.dims()]));
    }
    if !x.device().is_cpu() {
        return Ok((x + y)?);
    }
    in_wide(x, |x| {
        let y = if y.rank() == 4 { pixels(&widen(y)?)? } else { widen(y)? };
        in_memory(x, |x| {
            by_width!("add", x, T => {
                let out = with_slice(x, |x: &[T]| {
                    with_slice(&y, |y: &[T]| filled(x.len(), WIDTH, &Add { x, y }))
                })??;
                out.into_tensor(x.shape())
            })
        })
    })
}

struct Add<'a, T> {
    x: &'a [T],
    y: &'a [T],
}

impl<T: Real> RowKernel<T> for Add<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let (x, y) = (&self.x[i * WIDTH..][..out.len()], &self.y[i * WIDTH..][..out.len()]);
        out.each(|j| x[j] + y[j])
    }
}
