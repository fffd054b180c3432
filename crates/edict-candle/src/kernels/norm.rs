//! Group and layer norms.

use candle_core::{D, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    Aligned, Real, RowKernel, Unwritten, by_width, filled, image_dims, in_memory, in_wide, misfit, moments,
    widen, with_slice,
};
use crate::error::Result;
use crate::weights::Norm;

/// Normalises channel groups of an image, scales and shifts channels, and applies SiLU if `silu`.
pub(crate) fn group_norm(image: &Tensor, norm: &Norm, groups: usize, eps: f64, silu: bool) -> Result<Tensor> {
    let [_, channels, height, width] = image_dims("group_norm", image)?;
    if groups == 0 || channels % groups != 0 || norm.channels() != channels {
        return Err(misfit(
            "group_norm",
            "an image [batch, channels, height, width], a norm [channels], a number of groups that divides channels",
            &[image.dims(), &[norm.channels()], &[groups]],
        ));
    }
    if !image.device().is_cpu() {
        return group_norm_composed(image, norm, groups, eps, silu);
    }
    in_wide(image, |image| {
        by_width!("group_norm", image, T => in_memory(image, |image| {
            let (weight, bias) = (widen(&norm.weight)?, widen(&norm.bias)?);
            let out = with_slice(&weight, |weight: &[T]| {
                with_slice(&bias, |bias: &[T]| {
                    with_slice(image, |x: &[T]| group_norm_cpu(x, height * width, groups, eps, [weight, bias], silu))
                })
            })???;
            out.into_tensor(image.shape())
        }))
    })
}

/// Pixels whose sums are formed together; those of blocks are added up in order.
const BLOCK: usize = 256;

fn group_norm_cpu<T: Real>(
    x: &[T],
    plane: usize,
    groups: usize,
    eps: f64,
    [weight, bias]: [&[T]; 2],
    silu: bool,
) -> Aligned<T> {
    let channels = weight.len();
    if x.is_empty() {
        return Aligned::default();
    }
    let items: Vec<_> =
        x.par_chunks(plane * channels).map(|x| Affine::of(x, groups, eps, [weight, bias])).collect();
    if silu {
        filled(x.len(), channels, &Normalise::<_, true> { x, plane, items: &items })
    } else {
        filled(x.len(), channels, &Normalise::<_, false> { x, plane, items: &items })
    }
}

/// Normalises pixels, and applies SiLU if `SILU`.
struct Normalise<'a, T, const SILU: bool> {
    x: &'a [T],
    /// Pixels of an image.
    plane: usize,
    items: &'a [Affine<T>],
}

impl<T: Real, const SILU: bool> RowKernel<T> for Normalise<'_, T, SILU> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let width = out.len();
        let Affine { mean, factor, shift } = &self.items[i / self.plane];
        // One by one: lengths that went through an array would be tested at every element.
        let (mean, factor, shift) = (&mean[..width], &factor[..width], &shift[..width]);
        let x = &self.x[i * width..][..width];
        out.each(|j| {
            let y = (x[j] - mean[j]).fused::<S>(factor[j], shift[j]);
            if SILU { y.silu::<S>() } else { y }
        })
    }
}

/// What a norm does to each channel of an image: `(x - mean) factor + shift`.
///
/// The mean is rounded to the elements' precision, and `shift` makes up for that: the difference to an element near it is then exact.
struct Affine<T> {
    mean: Vec<T>,
    factor: Vec<T>,
    shift: Vec<T>,
}

/// Sums and sums of squares of each channel's differences to `origin`.
struct Moments<'a, T> {
    pixels: &'a [T],
    origin: &'a [f64],
}

impl<T: Real> WithSimd for Moments<'_, T> {
    type Output = [Vec<f64>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let channels = self.origin.len();
        let [mut sums, mut squares] = [vec![0.0; channels], vec![0.0; channels]];
        for x in self.pixels.chunks_exact(channels) {
            let sums = sums.iter_mut().zip(&mut squares);
            for ((sum, square), (x, origin)) in sums.zip(x.iter().zip(self.origin)) {
                let x = x.wide() - origin;
                *sum += x;
                *square += x * x;
            }
        }
        [sums, squares]
    }
}

impl<T: Real> Affine<T> {
    /// Finds mean and variance of each group of channels of an image's pixels.
    fn of(x: &[T], groups: usize, eps: f64, [weight, bias]: [&[T]; 2]) -> Self {
        let channels = weight.len();
        // Sums are of differences to the first pixel: a mean that is large beside the spread costs no digits.
        let origin: Vec<f64> = x[..channels].iter().map(|x| x.wide()).collect();
        let blocks: Vec<[Vec<f64>; 2]> = (x.par_chunks(BLOCK * channels))
            .map(|pixels| Arch::new().dispatch(Moments { pixels, origin: &origin }))
            .collect();
        let n = (x.len() / channels) as f64;
        let total =
            |which: usize, channel: usize| blocks.iter().map(|block| block[which][channel]).sum::<f64>();
        let width = channels / groups;
        let mut affine = Self { mean: Vec::new(), factor: Vec::new(), shift: Vec::new() };
        for first in (0..channels).step_by(width) {
            let sums = (first..first + width).map(|c| (origin[c], total(0, c), total(1, c)));
            let sums: Vec<_> = sums.collect();
            let means: Vec<_> = sums.iter().map(|(origin, sum, _)| origin + sum / n).collect();
            let mean = means.iter().sum::<f64>() / width as f64;
            let within = sums.iter().map(|(_, sum, square)| square - sum * sum / n).sum::<f64>();
            let between = means.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>();
            let variance = within / (n * width as f64) + between / width as f64;
            let factor = (variance + eps).sqrt().recip();
            let rounded = T::of(mean);
            for c in first..first + width {
                let factor = factor * weight[c].wide();
                affine.mean.push(rounded);
                affine.factor.push(T::of(factor));
                affine.shift.push(T::of(bias[c].wide() + (rounded.wide() - mean) * factor));
            }
        }
        affine
    }
}

/// Normalises the last axis, scales and shifts.
pub(crate) fn layer_norm(x: &Tensor, norm: &Norm, eps: f64) -> Result<Tensor> {
    let channels = norm.channels();
    if x.dims().last() != Some(&channels) {
        return Err(misfit(
            "layer_norm",
            "an input [.., channels], a norm [channels]",
            &[x.dims(), &[channels]],
        ));
    }
    if !x.device().is_cpu() {
        return layer_norm_composed(x, norm, eps);
    }
    in_wide(x, |x| {
        let (weight, bias) = (widen(&norm.weight)?, widen(&norm.bias)?);
        by_width!("layer_norm", x, T => {
            let out = with_slice(&weight, |weight: &[T]| {
                with_slice(&bias, |bias: &[T]| {
                    with_slice(x, |x: &[T]| filled(x.len(), channels, &NormaliseRow { x, weight, bias, eps }))
                })
            })???;
            out.into_tensor(x.shape())
        })
    })
}

/// Normalises rows.
struct NormaliseRow<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    bias: &'a [T],
    eps: f64,
}

impl<T: Real> RowKernel<T> for NormaliseRow<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, simd: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let width = out.len();
        let x = &self.x[i * width..][..width];
        let (weight, bias) = (&self.weight[..width], &self.bias[..width]);
        let [mean, variance] = moments(simd, x);
        let factor = (variance + self.eps).sqrt().recip();
        // As in [`Affine`].
        let rounded = T::of(mean);
        let (factor, shift) = (T::of(factor), T::of((rounded.wide() - mean) * factor));
        out.each(|j| (x[j] - rounded).fused::<S>(factor, shift).fused::<S>(weight[j], bias[j]))
    }
}

fn group_norm_composed(image: &Tensor, norm: &Norm, groups: usize, eps: f64, silu: bool) -> Result<Tensor> {
    let (batch, channels, height, width) = image.dims4()?;
    let normal = normalised(&image.reshape((batch, groups, channels / groups * height * width))?, eps)?;
    let normal = normal.reshape((batch, channels, height * width))?;
    let y = scaled_and_shifted(&normal, norm, (1, channels, 1))?.reshape(image.shape())?;
    Ok(if silu { y.silu()? } else { y })
}

fn layer_norm_composed(x: &Tensor, norm: &Norm, eps: f64) -> Result<Tensor> {
    scaled_and_shifted(&normalised(x, eps)?, norm, norm.channels())
}

/// Brings the last axis to mean 0 and variance 1 with candle's operations; halves become `f32`.
fn normalised(x: &Tensor, eps: f64) -> Result<Tensor> {
    let x = widen(x)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + eps)?.sqrt()?)?)
}

/// Applies a norm's parameters with candle's operations and returns to the parameters' element type.
fn scaled_and_shifted(x: &Tensor, norm: &Norm, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let weight = widen(&norm.weight)?.reshape(&shape)?;
    let bias = widen(&norm.bias)?.reshape(&shape)?;
    Ok(x.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(norm.weight.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    #[test]
    fn candle_normalises_alike() {
        let norm = Norm::new(values(&[6], 2), values(&[6], 3)).unwrap();
        let image = values(&[2, 6, 5, 7], 1);
        for silu in [false, true] {
            let expected = group_norm(&image, &norm, 3, 1e-5, silu).unwrap();
            assert_close(&group_norm_composed(&image, &norm, 3, 1e-5, silu).unwrap(), &expected, 1e-14);
        }
        let tokens = values(&[2, 7, 6], 1);
        let expected = layer_norm(&tokens, &norm, 1e-5).unwrap();
        assert_close(&layer_norm_composed(&tokens, &norm, 1e-5).unwrap(), &expected, 1e-14);
    }
}
