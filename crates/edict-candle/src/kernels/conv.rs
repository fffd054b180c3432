//! Convolutions as matrix products.
//!
//! In memory the channels of a pixel lie side by side. An output pixel is then a row of a product whose left side, the pixels that
//! its window sees, need not be laid out: it is made of slices of the image.

use std::ops::Range;

use candle_core::Tensor;
use edict_stable_diffusion::Conv2dGeometry;
use rayon::prelude::*;

use super::aligned::Aligned;
use super::linear::with_bias;
use super::matmul::{Matrix, Rows, fill, product};
use super::panels::Panels;
use super::winograd::Convolve;
use super::{
    Real, by_width, image_dims, in_wide, memory, misfit, pixels, pixels_to_image, widen, with_slice,
};
use crate::error::Result;
use crate::weights::{Conv2d, Weight};

/// Below this many channels the windows are laid out: slices would be too short to compute with.
const FEW_CHANNELS: usize = 16;

/// Windows that are laid out at once.
const LAID_OUT: usize = 192;

/// Convolves an image.
pub(crate) fn conv2d(image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
    let [batch, channels, height, width] = image_dims("conv2d", image)?;
    let Conv2d { outputs, inputs, kernel, geometry, .. } = *conv;
    let padding = geometry.padding_before + geometry.padding_after;
    if channels != inputs || height + padding < kernel || width + padding < kernel {
        return Err(misfit(
            "conv2d",
            "an image [batch, in, height, width] not smaller than the window of the weight [out, in, kernel, kernel]",
            &[image.dims(), &[outputs, inputs, kernel, kernel]],
        ));
    }
    let panels = match &conv.weight {
        Weight::Packed(panels) => panels,
        Weight::Tensor(weight) => return composed(image, weight, conv.bias.as_ref(), geometry),
    };
    let extent = |n: usize| (n + padding - kernel) / geometry.stride + 1;
    let shape = [batch, extent(height), extent(width), outputs];
    in_wide(image, |image| {
        let bias = conv.bias.as_ref().map(widen).transpose()?;
        by_width!("conv2d", image, T => {
            let out = with_slice(&pixels(image)?, |image: &[T]| {
                with_bias(bias.as_ref(), |bias| {
                    let windows = Windows::new(image, [batch, height, width, channels], shape, kernel, geometry);
                    match T::convolve(&windows, panels, bias) {
                        Some(out) => out,
                        None => direct(&windows, panels, bias),
                    }
                })
            })???;
            pixels_to_image(&out.into_tensor(&shape)?)
        })
    })
}

/// Convolves as a matrix product.
pub(super) fn direct<T: Real>(
    windows: &Windows<'_, T>,
    panels: &Panels,
    bias: Option<&[T]>,
) -> Result<Aligned<T>> {
    let rows = windows.batch * windows.out[0] * windows.out[1];
    if windows.kernel == 1 && windows.stride == 1 && windows.padding == 0 && windows.out == windows.size {
        return product(rows, &Matrix { elements: windows.image, width: windows.channels }, panels, bias);
    }
    if windows.channels >= FEW_CHANNELS {
        return product(rows, windows, panels, bias);
    }
    panels.check::<T>()?;
    let outputs = panels.outputs();
    Ok(memory::written(rows * outputs, |out| {
        let blocks: Vec<_> = out.chunks(LAID_OUT * outputs.max(1)).collect();
        blocks.into_par_iter().enumerate().for_each(|(block, out)| {
            let first = block * LAID_OUT;
            let elements = windows.laid_out(first..rows.min(first + LAID_OUT));
            fill(out, &Matrix { elements: &elements, width: panels.depth() }, panels, bias);
        });
    }))
}

/// Which pixels each output pixel sees.
pub(crate) struct Windows<'a, T> {
    /// `[batch, height, width, channels]`.
    image: &'a [T],
    pub(super) batch: usize,
    size: [usize; 2],
    pub(super) channels: usize,
    pub(super) out: [usize; 2],
    pub(super) kernel: usize,
    pub(super) stride: usize,
    padding: usize,
    /// A pixel outside the image.
    outside: Vec<T>,
}

impl<'a, T: Real> Windows<'a, T> {
    pub(super) fn new(
        image: &'a [T],
        [batch, height, width, channels]: [usize; 4],
        [_, out_height, out_width, _]: [usize; 4],
        kernel: usize,
        geometry: Conv2dGeometry,
    ) -> Self {
        Self {
            image,
            batch,
            size: [height, width],
            channels,
            out: [out_height, out_width],
            kernel,
            stride: geometry.stride,
            padding: geometry.padding_before,
            outside: vec![T::zero(); channels],
        }
    }

    /// The channels of a pixel; `y` and `x` count from where the padding begins.
    #[inline(always)]
    pub(super) fn pixel(&self, item: usize, y: usize, x: usize) -> &[T] {
        let [height, width] = self.size;
        // Outside to the left or above, the differences wrap round and are far too large.
        let (y, x) = (y.wrapping_sub(self.padding), x.wrapping_sub(self.padding));
        if y < height && x < width {
            &self.image[((item * height + y) * width + x) * self.channels..][..self.channels]
        } else {
            &self.outside
        }
    }

    /// Writes the windows of some rows out, `[rows, kernel, kernel, channels]`.
    fn laid_out(&self, rows: Range<usize>) -> Vec<T> {
        let [height, width] = self.size;
        let line = self.kernel * self.channels;
        let mut windows = vec![T::zero(); rows.len() * self.kernel * line];
        for (row, window) in rows.zip(windows.chunks_mut((self.kernel * line).max(1))) {
            let (item, top, left) = self.place(row);
            for (y, to) in window.chunks_mut(line).enumerate() {
                let (y, x) = ((top + y).wrapping_sub(self.padding), left.wrapping_sub(self.padding));
                // Pixels of a line lie side by side in the image too.
                if y < height && x < width && x + self.kernel <= width {
                    let from = ((item * height + y) * width + x) * self.channels;
                    to.copy_from_slice(&self.image[from..][..line]);
                    continue;
                }
                for (i, to) in to.chunks_mut(self.channels).enumerate() {
                    let x = x.wrapping_add(i);
                    if y < height && x < width {
                        let from = ((item * height + y) * width + x) * self.channels;
                        to.copy_from_slice(&self.image[from..][..self.channels]);
                    }
                }
            }
        }
        windows
    }

    /// Image of an output pixel, and where its window begins, counted as in [`Self::pixel`].
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let [out_height, out_width] = self.out;
        let (row, x) = (row / out_width, row % out_width);
        (row / out_height, row % out_height * self.stride, x * self.stride)
    }
}

impl<T: Real> Rows<T> for Windows<'_, T> {
    fn segments(&self) -> usize {
        self.kernel * self.kernel
    }

    fn length(&self) -> usize {
        self.channels
    }

    #[inline(always)]
    fn slice(&self, place: usize, row: usize) -> &[T] {
        let (item, top, left) = self.place(row);
        self.pixel(item, top + place / self.kernel, left + place % self.kernel)
    }
}

/// Convolves with candle's own operation.
fn composed(
    image: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Conv2dGeometry,
) -> Result<Tensor> {
    let (before, after) = (geometry.padding_before, geometry.padding_after);
    let y = if before == after {
        image.conv2d(weight, before, geometry.stride, 1, 1)?
    } else {
        let padded = image.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        padded.conv2d(weight, 0, geometry.stride, 1, 1)?
    };
    match bias {
        Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?),
        None => Ok(y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{assert_close, values};

    #[test]
    fn candle_convolves_alike() {
        for (kernel, stride, padding_before, padding_after) in
            [(3, 1, 1, 1), (3, 2, 0, 1), (3, 2, 1, 1), (1, 1, 0, 0)]
        {
            for channels in [5, FEW_CHANNELS + 3] {
                let geometry = Conv2dGeometry { stride, padding_before, padding_after };
                let image = values(&[3, channels, 11, 9], 1);
                let (weight, bias) = (values(&[6, channels, kernel, kernel], 2), values(&[6], 3));
                let conv = Conv2d::new(weight.clone(), Some(bias.clone()), geometry).unwrap();
                let expected = composed(&image, &weight, Some(&bias), geometry).unwrap();
                assert_close(&conv2d(&image, &conv).unwrap(), &expected, 1e-14);
            }
        }
    }
}
