//! Convolutions as matrix products, in blocks of bounded memory.

use candle_core::Tensor;

use super::{Real, by_width, change, for_each_row, image_dims, in_wide, misfit, widen, with_slice};
use crate::error::Result;
use crate::weights::Conv2d;

/// Bytes of patches that are laid out at once; a single row of output pixels may need more.
const BLOCK_BYTES: usize = 16 << 20;

/// Convolves an image.
pub(crate) fn conv2d(image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
    conv2d_in_blocks(image, conv, BLOCK_BYTES)
}

/// [`conv2d`] with blocks of a given size.
pub(crate) fn conv2d_in_blocks(image: &Tensor, conv: &Conv2d, block_bytes: usize) -> Result<Tensor> {
    let [batch, channels, height, width] = image_dims("conv2d", image)?;
    let (outputs, inputs, kernel, _) = conv.weight.dims4()?;
    let geometry = conv.geometry;
    let padding = geometry.padding_before + geometry.padding_after;
    if channels != inputs || height + padding < kernel || width + padding < kernel {
        return Err(misfit(
            "conv2d",
            "an image [batch, in, height, width] not smaller than the window of the weight [out, in, kernel, kernel]",
            &[image.dims(), conv.weight.dims()],
        ));
    }
    if !image.device().is_cpu() {
        return composed(image, conv);
    }
    let extent = |n: usize| (n + padding - kernel) / geometry.stride + 1;
    let windows = Windows {
        batch,
        channels,
        size: [height, width],
        out: [extent(height), extent(width)],
        kernel,
        stride: geometry.stride,
        padding: geometry.padding_before,
    };
    in_wide(image, |image| {
        let weight = widen(&conv.weight)?.reshape((outputs, channels * kernel * kernel))?;
        let bias = conv.bias.as_ref().map(widen).transpose()?;
        by_width!("conv2d", image, T => conv_cpu::<T>(image, &weight, bias.as_ref(), &windows, block_bytes))
    })
}

/// Which input pixels each output pixel sees.
struct Windows {
    batch: usize,
    channels: usize,
    size: [usize; 2],
    out: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Windows {
    /// Rows of output pixels, those of all images one after the other.
    fn rows(&self) -> usize {
        self.batch * self.out[0]
    }

    /// Writes what element `element` of the windows sees for output pixels of the rows from `first` on.
    ///
    /// `patches` has one element for each of these pixels; an element is a channel and a place in the window, as in a
    /// weight's `[in, kernel, kernel]`.
    fn gather<T: Real>(&self, image: &[T], element: usize, first: usize, patches: &mut [T]) {
        let ([height, width], [out_height, out_width]) = (self.size, self.out);
        let (channel, place) = (element / (self.kernel * self.kernel), element % (self.kernel * self.kernel));
        let (dy, dx) = (place / self.kernel, place % self.kernel);
        // Output columns whose pixel lies inside the image.
        let begin = self.padding.saturating_sub(dx).div_ceil(self.stride).min(out_width);
        let end = (width + self.padding).saturating_sub(dx).div_ceil(self.stride).clamp(begin, out_width);
        for (row, patch) in (first..).zip(patches.chunks_mut(out_width)) {
            let (item, y) = (row / out_height, row % out_height * self.stride + dy);
            if y < self.padding || y - self.padding >= height || begin == end {
                patch.fill(T::zero());
                continue;
            }
            let start = ((item * self.channels + channel) * height + y - self.padding) * width;
            let pixels = &image[start..start + width];
            patch[..begin].fill(T::zero());
            patch[end..].fill(T::zero());
            let from = begin * self.stride + dx - self.padding;
            if self.stride == 1 {
                patch[begin..end].copy_from_slice(&pixels[from..from + end - begin]);
            } else {
                for (out, &pixel) in
                    patch[begin..end].iter_mut().zip(pixels[from..].iter().step_by(self.stride))
                {
                    *out = pixel;
                }
            }
        }
    }
}

fn conv_cpu<T: Real>(
    image: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    windows: &Windows,
    block_bytes: usize,
) -> Result<Tensor> {
    let (outputs, elements) = weight.dims2()?;
    let [out_height, out_width] = windows.out;
    let row_bytes = (elements * out_width * size_of::<T>()).max(1);
    let block = (block_bytes / row_bytes).clamp(1, windows.rows().max(1));
    let bias = match bias {
        Some(bias) => with_slice(bias, |bias: &[T]| bias.to_vec())?,
        None => vec![T::zero(); outputs],
    };
    let mut out = vec![T::zero(); outputs * windows.rows() * out_width];
    let mut patches: Option<Tensor> = None;
    for first in (0..windows.rows()).step_by(block) {
        let rows = block.min(windows.rows() - first);
        let pixels = rows * out_width;
        let patches = match patches.take().filter(|patches| patches.dims() == [elements, pixels]) {
            Some(used) => patches.insert(used),
            None => patches.insert(Tensor::zeros((elements, pixels), image.dtype(), image.device())?),
        };
        with_slice(image, |image: &[T]| {
            change(patches, |patches: &mut [T]| {
                for_each_row(patches, pixels, |element, patches| {
                    windows.gather(image, element, first, patches);
                });
            })
        })??;
        let product = weight.matmul(patches)?;
        with_slice(&product, |product: &[T]| {
            for_each_row(&mut out, out_height * out_width, |plane, out| {
                let (item, channel) = (plane / outputs, plane % outputs);
                // The block's rows that lie in this image.
                let begin = first.max(item * out_height);
                let end = (first + rows).min((item + 1) * out_height);
                if begin < end {
                    let out =
                        &mut out[(begin - item * out_height) * out_width..][..(end - begin) * out_width];
                    let product = &product[channel * pixels + (begin - first) * out_width..];
                    for (out, &y) in out.iter_mut().zip(product) {
                        *out = y + bias[channel];
                    }
                }
            });
        })?;
    }
    Ok(Tensor::from_vec(out, (windows.batch, outputs, out_height, out_width), image.device())?)
}

/// Convolves with candle's own operation.
fn composed(image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
    let geometry = conv.geometry;
    let (before, after) = (geometry.padding_before, geometry.padding_after);
    let y = if before == after {
        image.conv2d(&conv.weight, before, geometry.stride, 1, 1)?
    } else {
        let padded = image.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        padded.conv2d(&conv.weight, 0, geometry.stride, 1, 1)?
    };
    match &conv.bias {
        Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?),
        None => Ok(y),
    }
}

#[cfg(test)]
mod tests {
    use edict_stable_diffusion::Conv2dGeometry;

    use super::*;
    use crate::kernels::tests::{assert_close, values};

    fn example(kernel: usize, geometry: Conv2dGeometry) -> (Tensor, Conv2d) {
        let weight = values(&[6, 5, kernel, kernel], 2);
        (values(&[3, 5, 11, 9], 1), Conv2d::new(weight, Some(values(&[6], 3)), geometry).unwrap())
    }

    fn geometries() -> impl Iterator<Item = (usize, Conv2dGeometry)> {
        [(3, 1, 1, 1), (3, 2, 0, 1), (3, 2, 1, 1), (1, 1, 0, 0)].into_iter().map(
            |(kernel, stride, padding_before, padding_after)| {
                (kernel, Conv2dGeometry { stride, padding_before, padding_after })
            },
        )
    }

    #[test]
    fn blocks_of_any_size_give_the_same_image() {
        for (kernel, geometry) in geometries() {
            let (image, conv) = example(kernel, geometry);
            let whole = conv2d(&image, &conv).unwrap();
            // One row at a time; a few rows, so that blocks straddle images and the last is shorter.
            let row = 5 * kernel * kernel * whole.dims()[3] * size_of::<f64>();
            for bytes in [0, 2 * row, 4 * row, 7 * row] {
                assert_close(&conv2d_in_blocks(&image, &conv, bytes).unwrap(), &whole, 1e-14);
            }
        }
    }

    #[test]
    fn candle_convolves_alike() {
        for (kernel, geometry) in geometries() {
            let (image, conv) = example(kernel, geometry);
            assert_close(&composed(&image, &conv).unwrap(), &conv2d(&image, &conv).unwrap(), 1e-14);
        }
    }
}
