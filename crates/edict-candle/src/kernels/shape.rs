//! Operations that move elements, and sums along channels.

use candle_core::{Device, Tensor};
use ndarray::ArrayView2;
use pulp::Simd;

use super::{
    Real, RowKernel, Unwritten, by_width, filled, image_dims, in_memory, in_wide, misfit, pixels,
    pixels_to_image, token_dims, widen, with_slice,
};
use crate::error::{CandleError, Result};

/// Repeats pixels: pixel `i` of an axis of extent `n` is pixel `floor(i m / n)` of extent `m`.
pub(crate) fn upsample_to(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [batch, channels, rows, columns] = image_dims("upsample_to", image)?;
    if rows == 0 || columns == 0 {
        return Err(misfit("upsample_to", "an image with pixels", &[image.dims()]));
    }
    if !image.device().is_cpu() {
        let axis = |n: usize, m: usize| {
            let source: Vec<u32> = (0..n).map(|i| (i * m / n) as u32).collect();
            Tensor::from_vec(source, n, image.device())
        };
        let taller = image.contiguous()?.index_select(&axis(height, rows)?, 2)?;
        return Ok(taller.index_select(&axis(width, columns)?, 3)?);
    }
    in_wide(image, |image| {
        by_width!("upsample_to", image, T => {
            let out = with_slice(&pixels(image)?, |image: &[T]| {
                let from = [rows, columns, channels];
                filled(batch * height * width * channels, width * channels, &Repeat { image, from, to: [height, width] })
            })?;
            pixels_to_image(&out.into_tensor((batch, height, width, channels))?)
        })
    })
}

/// Repeats pixels, line by line.
struct Repeat<'a, T> {
    image: &'a [T],
    /// Height, width and channels of the image.
    from: [usize; 3],
    /// Height and width of the result.
    to: [usize; 2],
}

impl<T: Real> RowKernel<T> for Repeat<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let ([rows, columns, channels], [height, width]) = (self.from, self.to);
        let (item, y) = (i / height, i % height * rows / height);
        let row = &self.image[(item * rows + y) * columns * channels..][..columns * channels];
        out.rows(channels, |x, out| out.copied(&row[x * columns / width * channels..][..channels]))
    }
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
    if !first.device().is_cpu() {
        return Ok(Tensor::cat(&[&first.contiguous()?, &second.contiguous()?], 1)?);
    }
    in_wide(first, |first| {
        by_width!("concat_channels", first, T => {
            let second = pixels(&widen(second)?)?;
            let width = a[1] + b[1];
            let out = with_slice(&pixels(first)?, |first: &[T]| {
                with_slice(&second, |second: &[T]| {
                    filled(first.len() + second.len(), width, &Join { images: [first, second], channels: [a[1], b[1]] })
                })
            })??;
            pixels_to_image(&out.into_tensor((a[0], a[2], a[3], width))?)
        })
    })
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
        by_width!("add_channel_bias", image, T => in_memory(image, |image| {
            let out = with_slice(image, |image: &[T]| {
                with_slice(&widen(bias)?, |bias: &[T]| {
                    filled(image.len(), channels, &AddBias { image, bias, plane: height * width })
                })
            })??;
            out.into_tensor(image.shape())
        }))
    })
}

/// Joins the channels of pixels.
struct Join<'a, T> {
    images: [&'a [T]; 2],
    channels: [usize; 2],
}

impl<T: Real> RowKernel<T> for Join<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let [first, second] = [0, 1].map(|k| &self.images[k][i * self.channels[k]..][..self.channels[k]]);
        out.joined(first, second)
    }
}

struct AddBias<'a, T> {
    image: &'a [T],
    bias: &'a [T],
    /// Pixels of an image.
    plane: usize,
}

impl<T: Real> RowKernel<T> for AddBias<'_, T> {
    #[inline(always)]
    fn row<'a, S: Simd>(&self, _: S, i: usize, out: Unwritten<'a, T>) -> &'a mut [T] {
        let width = out.len();
        let (image, bias) =
            (&self.image[i * width..][..width], &self.bias[i / self.plane * width..][..width]);
        out.each(|j| image[j] + bias[j])
    }
}

/// Turns an image into tokens in reading order: on the CPU another view of the same elements.
pub(crate) fn image_to_tokens(image: &Tensor) -> Result<Tensor> {
    image_dims("image_to_tokens", image)?;
    Ok(pixels(image)?.flatten(1, 2)?)
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
    pixels_to_image(&tokens.reshape((batch, height, width, channels))?)
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
