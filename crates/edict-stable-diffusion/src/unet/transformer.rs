//! The transformer that lets an image read the prompt.

use crate::attention::{Attention, AttentionShape, DIFFUSERS, Pass};
use crate::backend::{AttentionOptions, Backend};
use crate::config::UNetConfig;
use crate::error::LoadError;
use crate::parameters::{Parameters, Stored};

/// Added to the variance in the group norm before a transformer; fixed in diffusers' `Transformer2DModel`.
const GROUP_NORM_EPS: f64 = 1e-6;
/// Added to the variance in layer norms; fixed in diffusers' `BasicTransformerBlock`.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Transformer blocks over the pixels of an image, added to it (diffusers' `Transformer2DModel`).
pub(super) struct Transformer<B: Backend> {
    norm: B::Norm,
    groups: usize,
    enter: B::Linear,
    blocks: Vec<Block<B>>,
    leave: B::Linear,
}

/// Self-attention, cross-attention and a gated feed-forward layer (diffusers' `BasicTransformerBlock`).
struct Block<B: Backend> {
    norm1: B::Norm,
    self_attention: Attention<B>,
    norm2: B::Norm,
    cross_attention: Attention<B>,
    norm3: B::Norm,
    widen: B::Linear,
    narrow: B::Linear,
}

impl<B: Backend> Transformer<B> {
    pub(super) fn load(
        parameters: &Parameters<'_, B>,
        config: &UNetConfig,
        channels: usize,
        heads: usize,
        layers: usize,
    ) -> Result<Self, LoadError> {
        // A 1x1 convolution is a linear map of each pixel's channels: one code path, two ways to store it.
        let stored = if config.use_linear_projection { Stored::Linear } else { Stored::Conv };
        let blocks = parameters.at("transformer_blocks");
        Ok(Self {
            norm: parameters.norm("norm", channels)?,
            groups: config.norm_num_groups,
            enter: parameters.linear_stored("proj_in", [channels, channels], stored, true)?,
            blocks: (0..layers)
                .map(|i| Block::load(&blocks.at(i), config, channels, heads))
                .collect::<Result<_, _>>()?,
            leave: parameters.linear_stored("proj_out", [channels, channels], stored, true)?,
        })
    }

    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        image: &B::Tensor,
        context: &B::Tensor,
    ) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let [height, width] = backend.image_size(image);
        let normed = backend.group_norm(image, &self.norm, self.groups, GROUP_NORM_EPS)?;
        let mut tokens = backend.linear(&backend.image_to_tokens(&normed)?, &self.enter)?;
        for block in &self.blocks {
            tokens = block.forward(pass, &tokens, context)?;
        }
        let tokens = backend.linear(&tokens, &self.leave)?;
        backend.add(image, &backend.tokens_to_image(&tokens, height, width)?)
    }
}

impl<B: Backend> Block<B> {
    fn load(
        parameters: &Parameters<'_, B>,
        config: &UNetConfig,
        channels: usize,
        heads: usize,
    ) -> Result<Self, LoadError> {
        let attention = |name, context_channels| {
            let shape = AttentionShape {
                channels,
                context_channels,
                heads,
                with_bias: false,
                stored: Stored::Linear,
                options: AttentionOptions { causal: false, upcast: config.upcast_attention },
            };
            Attention::load(&parameters.at(name), DIFFUSERS, &shape)
        };
        Ok(Self {
            norm1: parameters.norm("norm1", channels)?,
            self_attention: attention("attn1", None)?,
            norm2: parameters.norm("norm2", channels)?,
            cross_attention: attention("attn2", Some(config.context_channels))?,
            norm3: parameters.norm("norm3", channels)?,
            // Twice the inner width of four times the channels: values and gates.
            widen: parameters.linear("ff.net.0.proj", [channels, 8 * channels])?,
            narrow: parameters.linear("ff.net.2", [4 * channels, channels])?,
        })
    }

    fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        x: &B::Tensor,
        context: &B::Tensor,
    ) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let normed = backend.layer_norm(x, &self.norm1, LAYER_NORM_EPS)?;
        let x = backend.add(x, &self.self_attention.forward(pass, &normed, None)?)?;
        let normed = backend.layer_norm(&x, &self.norm2, LAYER_NORM_EPS)?;
        let x = backend.add(&x, &self.cross_attention.forward(pass, &normed, Some(context))?)?;
        let normed = backend.layer_norm(&x, &self.norm3, LAYER_NORM_EPS)?;
        let inner = backend.linear_geglu(&normed, &self.widen)?;
        backend.add(&x, &backend.linear(&inner, &self.narrow)?)
    }
}
