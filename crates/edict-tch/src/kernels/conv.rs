//! Convolutions.

use super::{extents, image_dims, misfit, narrow, widen};
use crate::error::{Result, TchError};
use crate::shim;
use crate::tensor::Tensor;
use crate::weights::{Conv2d, ConvWeight};

/// Convolves an image.
pub(crate) fn conv2d(image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
    let [_, channels, height, width] = image_dims("conv2d", image)?;
    let Conv2d { outputs, inputs, kernel, geometry, .. } = *conv;
    let padding = geometry.padding_before + geometry.padding_after;
    if channels != inputs || height + padding < kernel || width + padding < kernel {
        return Err(misfit(
            "conv2d",
            "an image [batch, in, height, width] not smaller than the window of the weight [out, in, kernel, kernel]",
            &[image.dims(), &[outputs, inputs, kernel, kernel]],
        ));
    }
    if image.dtype() != conv.dtype {
        return Err(TchError::ElementType {
            operation: "conv2d",
            expected: image.dtype(),
            found: conv.dtype,
        });
    }
    let [stride, before, after] = extents([geometry.stride, geometry.padding_before, geometry.padding_after]);
    let [padding] = extents([conv.even_padding()]);
    let mut wide = widen(image)?;
    if before != after {
        // PyTorch's convolution pads alike on both sides.
        wide = wide.f_constant_pad_nd([before, after, before, after])?;
    }
    let bias = conv.bias.as_ref().map(widen).transpose()?;
    let out = match conv.weight_for(&wide, [stride, padding])? {
        ConvWeight::Packed(weight) => {
            shim::conv2d(&wide, &weight, bias.as_ref(), stride, padding).map_err(TchError::from_shim)?
        }
        ConvWeight::Plain(weight) => {
            let weight = widen(&weight)?;
            wide.f_conv2d(&weight, bias, [stride, stride], [padding, padding], [1, 1], 1)?
        }
    };
    narrow(out, image.dtype())
}
