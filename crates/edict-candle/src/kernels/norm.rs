//! Group and layer norms.

use candle_core::{D, Tensor};

use super::{Real, by_width, for_each_row, image_dims, in_wide, misfit, sum, widen, with_slice};
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
    let plane = height * width;
    if !image.device().is_cpu() {
        return group_norm_composed(image, norm, groups, eps, silu);
    }
    let slab = channels / groups * plane;
    in_wide(image, |image| {
        by_width!("group_norm", image, T => {
            rows_cpu::<T>(image, norm, slab, eps, |i, place| {
                let (weights, biases) = place.parameters;
                let first = i % groups * (channels / groups);
                let planes = place.out.chunks_mut(plane.max(1)).zip(place.x.chunks(plane.max(1)));
                for (c, (out, x)) in (first..).zip(planes) {
                    let (factor, shift) = (place.factor * weights[c].wide(), biases[c].wide());
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = T::of((x.wide() - place.mean) * factor + shift);
                    }
                }
                if silu {
                    place.out.iter_mut().for_each(|y| *y = y.silu());
                }
            })
        })
    })
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
        by_width!("layer_norm", x, T => {
            rows_cpu::<T>(x, norm, channels, eps, |_, place| {
                let (weights, biases) = place.parameters;
                let elements = place.out.iter_mut().zip(place.x);
                for ((out, x), (weight, bias)) in elements.zip(weights.iter().zip(biases)) {
                    *out = T::of((x.wide() - place.mean) * (place.factor * weight.wide()) + bias.wide());
                }
            })
        })
    })
}

/// A row to be normalised.
struct Place<'a, T> {
    x: &'a [T],
    out: &'a mut [T],
    mean: f64,
    /// `1 / sqrt(variance + eps)`.
    factor: f64,
    parameters: (&'a [T], &'a [T]),
}

/// Calls `normalise` on every row of `width` elements, with its statistics.
fn rows_cpu<T: Real>(
    x: &Tensor,
    norm: &Norm,
    width: usize,
    eps: f64,
    normalise: impl Fn(usize, Place<'_, T>) + Sync + Send,
) -> Result<Tensor> {
    let (weight, bias) = (widen(&norm.weight)?, widen(&norm.bias)?);
    let out = with_slice(&weight, |weight: &[T]| {
        with_slice(&bias, |bias: &[T]| {
            with_slice(x, |x: &[T]| {
                let mut out = vec![T::zero(); x.len()];
                for_each_row(&mut out, width, |i, out| {
                    let x = &x[i * width..][..out.len()];
                    let mean = sum(x, |x| x) / width as f64;
                    let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f64;
                    let factor = (variance + eps).sqrt().recip();
                    normalise(i, Place { x, out, mean, factor, parameters: (weight, bias) });
                });
                out
            })
        })
    })???;
    Ok(Tensor::from_vec(out, x.shape(), x.device())?)
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
