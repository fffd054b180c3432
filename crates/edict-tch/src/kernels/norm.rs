//! Group and layer norms.

use super::{extents, image_dims, lie_by_pixels, misfit, narrow, same_type, widen};
use crate::error::{Result, TchError};
use crate::shim;
use crate::tensor::Tensor;
use crate::weights::Norm;

/// Normalises channel groups of an image, scales and shifts channels, and applies SiLU if `silu`.
pub(crate) fn group_norm(image: &Tensor, norm: &Norm, groups: usize, eps: f64, silu: bool) -> Result<Tensor> {
    let [_, channels, ..] = image_dims("group_norm", image)?;
    if groups == 0 || channels % groups != 0 || norm.channels() != channels {
        return Err(misfit(
            "group_norm",
            "an image [batch, channels, height, width], a norm [channels], a number of groups that divides channels",
            &[image.dims(), &[norm.channels()], &[groups]],
        ));
    }
    same_type("group_norm", image, &[&norm.weight])?;
    let [groups] = extents([groups]);
    let [weight, bias] = [widen(&norm.weight)?, widen(&norm.bias)?];
    let wide = widen(image)?;
    if lie_by_pixels(&wide) && wide.numel() > 0 {
        let out = shim::group_norm(&wide, [&weight, &bias], groups, eps, silu);
        return narrow(out.map_err(TchError::from_shim)?, image.dtype());
    }
    let mut out = wide.f_group_norm(groups, Some(weight), Some(bias), eps, true)?;
    if silu {
        // In place: nobody else has seen it yet.
        out = out.f_silu_()?;
    }
    narrow(out, image.dtype())
}

/// Normalises the last axis, then scales and shifts.
pub(crate) fn layer_norm(x: &Tensor, norm: &Norm, eps: f64) -> Result<Tensor> {
    if x.dims().last() != Some(&norm.channels()) {
        return Err(misfit(
            "layer_norm",
            "an input [.., channels], a norm [channels]",
            &[x.dims(), &[norm.channels()]],
        ));
    }
    same_type("layer_norm", x, &[&norm.weight])?;
    let [weight, bias] = [widen(&norm.weight)?, widen(&norm.bias)?];
    let out = widen(x)?.f_layer_norm(extents([norm.channels()]), Some(weight), Some(bias), eps, true)?;
    narrow(out, x.dtype())
}
