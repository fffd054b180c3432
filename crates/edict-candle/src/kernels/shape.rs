//! Operations that move elements, and sums along channels.

use candle_core::{Device, Tensor};
use ndarray::ArrayView2;

use super::{Real, by_width, for_each_row, image_dims, in_wide, misfit, token_dims, widen, with_slice};
use crate::error::{CandleError, Result};

/// Repeats pixels: pixel `i` of an axis of extent `n` is pixel `floor(i m / n)` of extent `m`.
pub(crate) fn upsample_to(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [_, _, rows, columns] = image_dims("upsample_to", image)?;
    if rows == 0 || columns == 0 {
        return Err(misfit("upsample_to", "an image with pixels", &[image.dims()]));
    }
    let axis = |n: usize, m: usize| {
        let source: Vec<u32> = (0..n).map(|i| (i * m / n) as u32).collect();
        Tensor::from_vec(source, n, image.device())
    };
    let taller = if height == rows {
        image.clone()
    } else {
        image.contiguous()?.index_select(&axis(height, rows)?, 2)?
    };
    Ok(if width == columns {
        taller
    } else {
        taller.contiguous()?.index_select(&axis(width, columns)?, 3)?
    })
}

/// Joins images along their channels.
pub(crate) fn concat_channels(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    let [a, b] = [image_dims("concat_channels", first)?, image_dims("concat_channels", second)?];
    if (a[0], a[2], a[3]) != (b[0], b[2], b[3]) {
        return Err(misfit(
            "concat_channels",
            "images that differ in channels only",
            &[first.dims(), second.dims()],
        ));
    }
    Ok(Tensor::cat(&[&first.contiguous()?, &second.contiguous()?], 1)?)
}

/// Adds `bias` `[batch, channels]` to every pixel.
pub(crate) fn add_channel_bias(image: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [batch, channels, height, width] = image_dims("add_channel_bias", image)?;
    if bias.dims() != [batch, channels] {
        return Err(misfit(
            "add_channel_bias",
            "an image [batch, channels, height, width], a bias [batch, channels]",
            &[image.dims(), bias.dims()],
        ));
    }
    if !image.device().is_cpu() {
        return Ok(image.broadcast_add(&bias.reshape((batch, channels, 1, 1))?)?);
    }
    in_wide(image, |image| {
        by_width!("add_channel_bias", image, T => {
            add_to_planes::<T>(image, &widen(bias)?, height * width)
        })
    })
}

fn add_to_planes<T: Real>(image: &Tensor, bias: &Tensor, plane: usize) -> Result<Tensor> {
    let out = with_slice(image, |image: &[T]| {
        with_slice(bias, |bias: &[T]| {
            let mut out = vec![T::zero(); image.len()];
            for_each_row(&mut out, plane, |i, out| {
                for (out, &pixel) in out.iter_mut().zip(&image[i * plane..]) {
                    *out = pixel + bias[i];
                }
            });
            out
        })
    })??;
    Ok(Tensor::from_vec(out, image.shape(), image.device())?)
}

/// Turns an image into tokens in reading order.
pub(crate) fn image_to_tokens(image: &Tensor) -> Result<Tensor> {
    image_dims("image_to_tokens", image)?;
    Ok(image.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

/// Turns `height * width` tokens into an image.
pub(crate) fn tokens_to_image(tokens: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [batch, n, channels] = token_dims("tokens_to_image", tokens)?;
    if height.checked_mul(width) != Some(n) {
        return Err(misfit(
            "tokens_to_image",
            "tokens [batch, height * width, channels], [height, width]",
            &[tokens.dims(), &[height, width]],
        ));
    }
    Ok(tokens.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?)
}

/// Looks up rows of a table.
pub(crate) fn embed(table: &Tensor, ids: ArrayView2<'_, u32>, device: &Device) -> Result<Tensor> {
    let &[rows, channels] = table.dims() else {
        return Err(misfit("embed", "a table [rows, channels]", &[table.dims()]));
    };
    // candle does not look on every device.
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
        return Err(CandleError::IdOutOfRange { id, rows });
    }
    let (batch, n) = ids.dim();
    let ids = Tensor::from_vec(ids.iter().copied().collect::<Vec<u32>>(), batch * n, device)?;
    Ok(table.index_select(&ids, 0)?.reshape((batch, n, channels))?)
}
