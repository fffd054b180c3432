//! The block at the coarsest resolution of encoder and decoder.

use crate::attention::{Attention, AttentionShape, DIFFUSERS, DIFFUSERS_OLD, Pass};
use crate::backend::{AttentionOptions, Backend};
use crate::config::VaeConfig;
use crate::error::LoadError;
use crate::parameters::{Parameters, Stored};
use crate::resnet::{ResnetBlock, ResnetSettings};

/// Added to the variance in every norm; fixed in diffusers' `Encoder` and `Decoder`.
pub(super) const EPS: f64 = 1e-6;

/// Settings of the autoencoder's residual blocks.
pub(super) fn settings(config: &VaeConfig) -> ResnetSettings {
    ResnetSettings { time_channels: None, groups: config.norm_num_groups, eps: EPS, output_scale: 1.0 }
}

/// Two residual blocks with single-head attention over all pixels between them.
pub(super) struct MidBlock<B: Backend> {
    first: ResnetBlock<B>,
    attention: Option<(B::Norm, Attention<B>)>,
    second: ResnetBlock<B>,
    groups: usize,
}

impl<B: Backend> MidBlock<B> {
    pub(super) fn load(
        block: &Parameters<'_, B>,
        config: &VaeConfig,
        channels: usize,
    ) -> Result<Self, LoadError> {
        let attention = if config.mid_block_add_attention {
            let place = block.at("attentions.0");
            let old = place.contains("query.weight");
            let shape = AttentionShape {
                channels,
                context_channels: None,
                heads: 1,
                with_bias: true,
                // Checkpoints converted from the original code keep its 1x1 convolutions.
                stored: Stored::Either,
                // `upcast_softmax` in diffusers.
                options: AttentionOptions { causal: false, upcast: true },
            };
            let names = if old { DIFFUSERS_OLD } else { DIFFUSERS };
            Some((place.norm("group_norm", channels)?, Attention::load(&place, names, &shape)?))
        } else {
            None
        };
        Ok(Self {
            first: ResnetBlock::load(&block.at("resnets.0"), [channels, channels], settings(config))?,
            attention,
            second: ResnetBlock::load(&block.at("resnets.1"), [channels, channels], settings(config))?,
            groups: config.norm_num_groups,
        })
    }

    pub(super) fn forward(&self, pass: &mut Pass<'_, B>, image: &B::Tensor) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let mut image = self.first.forward(backend, image, None)?;
        if let Some((norm, attention)) = &self.attention {
            let [height, width] = backend.image_size(&image);
            let tokens = backend.image_to_tokens(&backend.group_norm(&image, norm, self.groups, EPS)?)?;
            let tokens = attention.forward(pass, &tokens, None)?;
            image = backend.add(&image, &backend.tokens_to_image(&tokens, height, width)?)?;
        }
        self.second.forward(backend, &image, None)
    }
}
