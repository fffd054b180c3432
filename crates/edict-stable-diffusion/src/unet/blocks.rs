//! The U-Net's levels on the way down, at the bottom and on the way up.

use super::transformer::Transformer;
use crate::attention::Pass;
use crate::backend::{Backend, Conv2dGeometry};
use crate::config::{UNetConfig, UNetLevel};
use crate::error::LoadError;
use crate::parameters::Parameters;
use crate::resnet::{ResnetBlock, ResnetSettings};

/// What conditions every block of one run.
pub(super) struct Conditions<'a, B: Backend> {
    /// Activated timestep embedding `[batch, time_channels]`.
    pub(super) time: &'a B::Tensor,
    /// Text `[batch, tokens, context_channels]`.
    pub(super) context: &'a B::Tensor,
}

/// A residual block with the transformer after it, where there is one.
struct Layer<B: Backend> {
    resnet: ResnetBlock<B>,
    transformer: Option<Transformer<B>>,
}

impl<B: Backend> Layer<B> {
    fn load(
        block: &Parameters<'_, B>,
        index: usize,
        config: &UNetConfig,
        channels: [usize; 2],
        transformer: Option<&UNetLevel>,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            resnet: ResnetBlock::load(&block.at("resnets").at(index), channels, settings(config, 1.0))?,
            transformer: transformer
                .map(|level| load_transformer(&block.at("attentions").at(index), config, level))
                .transpose()?,
        })
    }

    fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        image: &B::Tensor,
        conditions: &Conditions<'_, B>,
    ) -> Result<B::Tensor, B::Error> {
        let image = self.resnet.forward(pass.backend, image, Some(conditions.time))?;
        match &self.transformer {
            Some(transformer) => transformer.forward(pass, &image, conditions.context),
            None => Ok(image),
        }
    }
}

fn settings(config: &UNetConfig, output_scale: f64) -> ResnetSettings {
    ResnetSettings {
        time_channels: Some(config.time_channels),
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        output_scale,
    }
}

fn load_transformer<B: Backend>(
    parameters: &Parameters<'_, B>,
    config: &UNetConfig,
    level: &UNetLevel,
) -> Result<Transformer<B>, LoadError> {
    Transformer::load(parameters, config, level.channels, level.heads, level.transformer_layers)
}

/// One level on the way down.
pub(super) struct DownBlock<B: Backend> {
    layers: Vec<Layer<B>>,
    halve: Option<B::Conv2d>,
}

impl<B: Backend> DownBlock<B> {
    /// Loads level `index`, counted from the finest.
    pub(super) fn load(
        root: &Parameters<'_, B>,
        config: &UNetConfig,
        index: usize,
    ) -> Result<Self, LoadError> {
        let block = root.at("down_blocks").at(index);
        let level = &config.levels[index];
        let inputs = config.levels[index.saturating_sub(1)].channels;
        let layers = (0..level.layers)
            .map(|i| {
                let channels = [if i == 0 { inputs } else { level.channels }, level.channels];
                Layer::load(&block, i, config, channels, level.attention_down.then_some(level))
            })
            .collect::<Result<_, _>>()?;
        let halve = if index + 1 < config.levels.len() {
            // diffusers' `Downsample2D`: no padding means zeros below and to the right alone.
            let (padding_before, padding_after) = match config.downsample_padding {
                0 => (0, 1),
                padding => (padding, padding),
            };
            let geometry = Conv2dGeometry { stride: 2, padding_before, padding_after };
            Some(block.conv2d("downsamplers.0.conv", [level.channels, level.channels], 3, geometry)?)
        } else {
            None
        };
        Ok(Self { layers, halve })
    }

    /// Appends every intermediate image to `skips`; the last is what goes on.
    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        mut image: B::Tensor,
        conditions: &Conditions<'_, B>,
        skips: &mut Vec<B::Tensor>,
    ) -> Result<B::Tensor, B::Error> {
        for layer in &self.layers {
            image = layer.forward(pass, &image, conditions)?;
            skips.push(image.clone());
        }
        if let Some(halve) = &self.halve {
            image = pass.backend.conv2d(&image, halve)?;
            skips.push(image.clone());
        }
        Ok(image)
    }
}

/// The block at the coarsest level.
pub(super) struct MidBlock<B: Backend> {
    first: ResnetBlock<B>,
    transformer: Transformer<B>,
    second: ResnetBlock<B>,
}

impl<B: Backend> MidBlock<B> {
    pub(super) fn load(
        root: &Parameters<'_, B>,
        config: &UNetConfig,
        level: &UNetLevel,
    ) -> Result<Self, LoadError> {
        let block = root.at("mid_block");
        let channels = [level.channels, level.channels];
        let settings = settings(config, config.mid_block_scale_factor);
        Ok(Self {
            first: ResnetBlock::load(&block.at("resnets.0"), channels, settings)?,
            transformer: load_transformer(&block.at("attentions.0"), config, level)?,
            second: ResnetBlock::load(&block.at("resnets.1"), channels, settings)?,
        })
    }

    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        image: &B::Tensor,
        conditions: &Conditions<'_, B>,
    ) -> Result<B::Tensor, B::Error> {
        let image = self.first.forward(pass.backend, image, Some(conditions.time))?;
        let image = self.transformer.forward(pass, &image, conditions.context)?;
        self.second.forward(pass.backend, &image, Some(conditions.time))
    }
}

/// One level on the way up.
pub(super) struct UpBlock<B: Backend> {
    layers: Vec<Layer<B>>,
    enlarge: Option<B::Conv2d>,
}

impl<B: Backend> UpBlock<B> {
    /// Loads level `index`, counted from the finest; files count up blocks from the coarsest.
    pub(super) fn load(
        root: &Parameters<'_, B>,
        config: &UNetConfig,
        index: usize,
    ) -> Result<Self, LoadError> {
        let last = config.levels.len() - 1;
        let block = root.at("up_blocks").at(last - index);
        let level = &config.levels[index];
        // What comes from below, and the channels of the skips: those of this level, then one made a level above.
        let below = config.levels[(index + 1).min(last)].channels;
        let above = config.levels[index.saturating_sub(1)].channels;
        let layers = (0..=level.layers)
            .map(|i| {
                let image = if i == 0 { below } else { level.channels };
                let skip = if i == level.layers { above } else { level.channels };
                let channels = [image + skip, level.channels];
                Layer::load(&block, i, config, channels, level.attention_up.then_some(level))
            })
            .collect::<Result<_, _>>()?;
        let enlarge = if index > 0 {
            Some(block.same_conv2d("upsamplers.0.conv", [level.channels, level.channels], 3)?)
        } else {
            None
        };
        Ok(Self { layers, enlarge })
    }

    /// Joins the image with as many skips as there are layers, last made first used.
    pub(super) fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        mut image: B::Tensor,
        conditions: &Conditions<'_, B>,
        skips: &mut Vec<B::Tensor>,
    ) -> Result<B::Tensor, B::Error> {
        for layer in &self.layers {
            if let Some(skip) = skips.pop() {
                image = pass.backend.concat_channels(&image, &skip)?;
            }
            image = layer.forward(pass, &image, conditions)?;
        }
        if let (Some(enlarge), Some(next)) = (&self.enlarge, skips.last()) {
            // To the size of what it will be joined with, which is not twice this one where a side was odd.
            let [height, width] = pass.backend.image_size(next);
            image = pass.backend.upsample_to(&image, height, width)?;
            image = pass.backend.conv2d(&image, enlarge)?;
        }
        Ok(image)
    }
}
