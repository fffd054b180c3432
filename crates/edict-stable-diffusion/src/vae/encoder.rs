//! From images to the moments of the posterior.

use super::mid::{EPS, MidBlock, settings};
use crate::attention::Pass;
use crate::backend::{Backend, Conv2dGeometry};
use crate::config::VaeConfig;
use crate::error::LoadError;
use crate::parameters::Parameters;
use crate::resnet::ResnetBlock;

/// diffusers' `Encoder`, with the 1x1 convolution after it.
pub(super) struct Encoder<B: Backend> {
    conv_in: B::Conv2d,
    levels: Vec<Level<B>>,
    mid: MidBlock<B>,
    norm_out: B::Norm,
    conv_out: B::Conv2d,
    quant_conv: Option<B::Conv2d>,
    groups: usize,
}

struct Level<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    halve: Option<B::Conv2d>,
}

/// Zeros below and to the right alone, as the original code pads.
const HALVING: Conv2dGeometry = Conv2dGeometry { stride: 2, padding_before: 0, padding_after: 1 };

impl<B: Backend> Encoder<B> {
    pub(super) fn load(root: &Parameters<'_, B>, config: &VaeConfig) -> Result<Self, LoadError> {
        let place = root.at("encoder");
        let channels = &config.block_out_channels;
        let (finest, coarsest) = (channels[0], channels[channels.len() - 1]);
        let level = |i: usize| -> Result<Level<B>, LoadError> {
            let block = place.at("down_blocks").at(i);
            let (inputs, outputs) = (channels[i.saturating_sub(1)], channels[i]);
            let resnets = (0..config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { inputs } else { outputs };
                    ResnetBlock::load(&block.at("resnets").at(j), [inputs, outputs], settings(config))
                })
                .collect::<Result<_, _>>()?;
            let halve = (i + 1 < channels.len())
                .then(|| block.conv2d("downsamplers.0.conv", [outputs, outputs], 3, HALVING))
                .transpose()?;
            Ok(Level { resnets, halve })
        };
        let moments = 2 * config.latent_channels;
        Ok(Self {
            conv_in: place.same_conv2d("conv_in", [config.in_channels, finest], 3)?,
            levels: (0..channels.len()).map(level).collect::<Result<_, _>>()?,
            mid: MidBlock::load(&place.at("mid_block"), config, coarsest)?,
            norm_out: place.norm("conv_norm_out", coarsest)?,
            conv_out: place.same_conv2d("conv_out", [coarsest, moments], 3)?,
            quant_conv: config
                .use_quant_conv
                .then(|| root.same_conv2d("quant_conv", [moments, moments], 1))
                .transpose()?,
            groups: config.norm_num_groups,
        })
    }

    /// Maps images to means, then log-variances: `[batch, 2 latent_channels, height / factor, width / factor]`.
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, images: &B::Tensor) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let mut x = backend.conv2d(images, &self.conv_in)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(backend, &x, None)?;
            }
            if let Some(halve) = &level.halve {
                x = backend.conv2d(&x, halve)?;
            }
        }
        x = self.mid.forward(pass, &x)?;
        x = backend.group_norm_silu(&x, &self.norm_out, self.groups, EPS)?;
        x = backend.conv2d(&x, &self.conv_out)?;
        match &self.quant_conv {
            Some(conv) => backend.conv2d(&x, conv),
            None => Ok(x),
        }
    }
}
