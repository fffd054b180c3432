//! The residual block of U-Net and autoencoder.

use crate::backend::Backend;
use crate::error::LoadError;
use crate::parameters::Parameters;

/// Group norm, SiLU and convolution, twice, added to the input (diffusers' `ResnetBlock2D`).
pub(crate) struct ResnetBlock<B: Backend> {
    norm1: B::Norm,
    conv1: B::Conv2d,
    time_projection: Option<B::Linear>,
    norm2: B::Norm,
    conv2: B::Conv2d,
    shortcut: Option<B::Conv2d>,
    settings: ResnetSettings,
}

/// What the residual blocks of a network have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResnetSettings {
    /// Channels of the timestep embedding, where there is one.
    pub(crate) time_channels: Option<usize>,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    /// Divides the sum.
    pub(crate) output_scale: f64,
}

impl<B: Backend> ResnetBlock<B> {
    pub(crate) fn load(
        parameters: &Parameters<'_, B>,
        [inputs, outputs]: [usize; 2],
        settings: ResnetSettings,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            norm1: parameters.norm("norm1", inputs)?,
            conv1: parameters.same_conv2d("conv1", [inputs, outputs], 3)?,
            time_projection: settings
                .time_channels
                .map(|channels| parameters.linear("time_emb_proj", [channels, outputs]))
                .transpose()?,
            norm2: parameters.norm("norm2", outputs)?,
            conv2: parameters.same_conv2d("conv2", [outputs, outputs], 3)?,
            shortcut: if inputs == outputs {
                None
            } else {
                Some(parameters.same_conv2d("conv_shortcut", [inputs, outputs], 1)?)
            },
            settings,
        })
    }

    /// Maps an image to one of the same size; `time` is the activated timestep embedding `[batch, time_channels]`.
    pub(crate) fn forward(
        &self,
        backend: &B,
        image: &B::Tensor,
        time: Option<&B::Tensor>,
    ) -> Result<B::Tensor, B::Error> {
        let ResnetSettings { groups, eps, output_scale, .. } = self.settings;
        let mut x = backend.group_norm_silu(image, &self.norm1, groups, eps)?;
        x = backend.conv2d(&x, &self.conv1)?;
        if let (Some(projection), Some(time)) = (&self.time_projection, time) {
            x = backend.add_channel_bias(&x, &backend.linear(time, projection)?)?;
        }
        x = backend.group_norm_silu(&x, &self.norm2, groups, eps)?;
        x = backend.conv2d(&x, &self.conv2)?;
        let sum = match &self.shortcut {
            Some(shortcut) => backend.add(&backend.conv2d(image, shortcut)?, &x)?,
            None => backend.add(image, &x)?,
        };
        if output_scale == 1.0 { Ok(sum) } else { backend.scale(&sum, 1.0 / output_scale) }
    }
}
