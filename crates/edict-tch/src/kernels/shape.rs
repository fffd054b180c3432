//! Operations that move elements, and sums along channels.

use ndarray::ArrayView2;
use tch::Device;

use super::{extents, image_dims, lie_by_pixels, misfit, narrow, same_type, token_dims, widen};
use crate::error::{Result, TchError};
use crate::tensor::Tensor;

/// Repeats pixels: pixel `i` of an axis of extent `n` is pixel `floor(i m / n)` of extent `m`.
pub(crate) fn upsample_to(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [_, _, rows, columns] = image_dims("upsample_to", image)?;
    if rows == 0 || columns == 0 {
        return Err(misfit("upsample_to", "an image with pixels", &[image.dims()]));
    }
    let inner = image.tch();
    if height == 2 * rows && width == 2 * columns {
        return Tensor::new(inner.f_upsample_nearest2d(extents([height, width]), None, None)?);
    }
    // Other ratios PyTorch rounds to f32, which may lead to the pixel beside.
    let axis = |n: usize, m: usize| -> Result<tch::Tensor> {
        let source: Vec<i64> = (0..n).map(|i| extents([i * m / n])[0]).collect();
        Ok(tch::Tensor::f_from_slice(&source)?.f_to_device(inner.device())?)
    };
    let taller = inner.f_index_select(2, &axis(height, rows)?)?;
    Tensor::new(taller.f_index_select(3, &axis(width, columns)?)?)
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
    same_type("concat_channels", first, &[second])?;
    Tensor::new(tch::Tensor::f_cat(&[first.tch(), second.tch()], 1)?)
}

/// Adds `bias` `[batch, channels]` to every pixel.
pub(crate) fn add_channel_bias(image: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let [batch, channels, ..] = image_dims("add_channel_bias", image)?;
    if bias.dims() != [batch, channels] {
        return Err(misfit(
            "add_channel_bias",
            "an image [batch, channels, height, width], a bias [batch, channels]",
            &[image.dims(), bias.dims()],
        ));
    }
    same_type("add_channel_bias", image, &[bias])?;
    let bias = widen(bias)?.f_reshape(extents([batch, channels, 1, 1]))?;
    narrow(widen(image)?.f_add(&bias)?, image.dtype())
}

/// Turns an image into tokens in reading order.
pub(crate) fn image_to_tokens(image: &Tensor) -> Result<Tensor> {
    let [batch, channels, height, width] = image_dims("image_to_tokens", image)?;
    let pixels = image.tch().f_permute([0, 2, 3, 1])?;
    Tensor::new(pixels.f_reshape(extents([batch, height * width, channels]))?)
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
    let by_pixels = lie_by_pixels(&widen(tokens)?);
    let pixels = tokens.tch().f_reshape(extents([batch, height, width, channels]))?;
    let image = pixels.f_permute([0, 3, 1, 2])?;
    // As the convolution after it wants it: pixel by pixel already, or plane by plane.
    Tensor::new(if by_pixels { image } else { image.f_contiguous()? })
}

/// Looks up rows of a table.
pub(crate) fn embed(table: &Tensor, ids: ArrayView2<'_, u32>, device: Device) -> Result<Tensor> {
    let &[rows, channels] = table.dims() else {
        return Err(misfit("embed", "a table [rows, channels]", &[table.dims()]));
    };
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
        return Err(TchError::IdOutOfRange { id, rows });
    }
    let (batch, n) = ids.dim();
    let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
    let ids = tch::Tensor::f_from_slice(&ids)?.f_to_device(device)?;
    Tensor::new(table.tch().f_index_select(0, &ids)?.f_reshape(extents([batch, n, channels]))?)
}
