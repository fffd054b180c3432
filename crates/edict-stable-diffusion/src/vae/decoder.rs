//! From latents to images.

use super::mid::{EPS, MidBlock, settings};
use crate::attention::Pass;
use crate::backend::Backend;
use crate::config::VaeConfig;
use crate::error::LoadError;
use crate::parameters::Parameters;
use crate::resnet::ResnetBlock;

/// diffusers' `Decoder`, with the 1x1 convolution before it.
pub(super) struct Decoder<B: Backend> {
    post_quant_conv: Option<B::Conv2d>,
    conv_in: B::Conv2d,
    mid: MidBlock<B>,
    /// Coarsest first.
    levels: Vec<Level<B>>,
    norm_out: B::Norm,
    conv_out: B::Conv2d,
    groups: usize,
}

struct Level<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    double: Option<B::Conv2d>,
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(root: &Parameters<'_, B>, config: &VaeConfig) -> Result<Self, LoadError> {
        let place = root.at("decoder");
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (coarsest, finest) = (channels[0], channels[channels.len() - 1]);
        let level = |i: usize| -> Result<Level<B>, LoadError> {
            let block = place.at("up_blocks").at(i);
            let (inputs, outputs) = (channels[i.saturating_sub(1)], channels[i]);
            let resnets = (0..=config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { inputs } else { outputs };
                    ResnetBlock::load(&block.at("resnets").at(j), [inputs, outputs], settings(config))
                })
                .collect::<Result<_, _>>()?;
            let double = (i + 1 < channels.len())
                .then(|| block.same_conv2d("upsamplers.0.conv", [outputs, outputs], 3))
                .transpose()?;
            Ok(Level { resnets, double })
        };
        let latent = config.latent_channels;
        Ok(Self {
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| root.same_conv2d("post_quant_conv", [latent, latent], 1))
                .transpose()?,
            conv_in: place.same_conv2d("conv_in", [latent, coarsest], 3)?,
            mid: MidBlock::load(&place.at("mid_block"), config, coarsest)?,
            levels: (0..channels.len()).map(level).collect::<Result<_, _>>()?,
            norm_out: place.norm("conv_norm_out", finest)?,
            conv_out: place.same_conv2d("conv_out", [finest, config.out_channels], 3)?,
            groups: config.norm_num_groups,
        })
    }

    /// Maps unscaled latents to images `[batch, out_channels, factor height, factor width]`.
    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, latents: &B::Tensor) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let mut x = match &self.post_quant_conv {
            Some(conv) => backend.conv2d(latents, conv)?,
            None => latents.clone(),
        };
        x = backend.conv2d(&x, &self.conv_in)?;
        x = self.mid.forward(pass, &x)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(backend, &x, None)?;
            }
            if let Some(double) = &level.double {
                let [height, width] = backend.image_size(&x);
                x = backend.conv2d(&backend.upsample_to(&x, 2 * height, 2 * width)?, double)?;
            }
        }
        x = backend.group_norm_silu(&x, &self.norm_out, self.groups, EPS)?;
        backend.conv2d(&x, &self.conv_out)
    }
}
