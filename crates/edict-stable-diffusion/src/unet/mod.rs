//! The noise predictor: diffusers' `UNet2DConditionModel` with the blocks of Stable Diffusion 1 and 2.

mod blocks;
mod time;
mod transformer;

use std::fmt;

use ndarray::{ArrayD, ArrayViewD};

use crate::attention::{AttentionObserver, Pass};
use crate::backend::Backend;
use crate::config::UNetConfig;
use crate::error::{LoadError, ModelError};
use crate::parameters::Parameters;
use crate::weights::WeightFile;
use blocks::{Conditions, DownBlock, MidBlock, UpBlock};
use time::TimeEmbedding;

/// The noise predictor on a back end.
pub struct UNet<B: Backend> {
    backend: B,
    config: UNetConfig,
    conv_in: B::Conv2d,
    time: TimeEmbedding<B>,
    down: Vec<DownBlock<B>>,
    mid: MidBlock<B>,
    /// Coarsest first.
    up: Vec<UpBlock<B>>,
    norm_out: B::Norm,
    conv_out: B::Conv2d,
}

/// Encoded prompts on the device, `[batch, tokens, context_channels]`; made by [`UNet::context`], once for a run.
#[derive(Clone, Debug)]
pub struct TextContext<B: Backend> {
    tensor: B::Tensor,
    batch: usize,
}

impl<B: Backend> TextContext<B> {
    /// Returns the number of prompts.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

impl<B: Backend> UNet<B> {
    /// Loads the network.
    ///
    /// # Errors
    /// [`LoadError`], naming file and tensor.
    pub fn load(backend: &B, weights: &WeightFile, config: &UNetConfig) -> Result<Self, LoadError> {
        let root = Parameters::new(backend, weights);
        let levels = &config.levels;
        let [Some(finest), Some(coarsest)] = [levels.first(), levels.last()] else {
            return Err(LoadError::InvalidValue {
                path: weights.path().to_owned(),
                key: "block_out_channels".to_owned(),
                value: "[]".to_owned(),
                wanted: "at least one level".to_owned(),
            });
        };
        let n = levels.len();
        Ok(Self {
            conv_in: root.same_conv2d(
                "conv_in",
                [config.in_channels, finest.channels],
                config.conv_in_kernel,
            )?,
            time: TimeEmbedding::load(&root.at("time_embedding"), config)?,
            down: (0..n).map(|i| DownBlock::load(&root, config, i)).collect::<Result<_, _>>()?,
            mid: MidBlock::load(&root, config, coarsest)?,
            up: (0..n).rev().map(|i| UpBlock::load(&root, config, i)).collect::<Result<_, _>>()?,
            norm_out: root.norm("conv_norm_out", finest.channels)?,
            conv_out: root.same_conv2d(
                "conv_out",
                [finest.channels, config.out_channels],
                config.conv_out_kernel,
            )?,
            backend: backend.clone(),
            config: config.clone(),
        })
    }

    /// Returns the config the network was loaded with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Puts encoded prompts on the device, rounded once to its element type.
    ///
    /// `hidden_states` is `[batch, tokens, context_channels]`, from [`TextEncoder::encode`](crate::TextEncoder::encode).
    ///
    /// # Errors
    /// [`ModelError::Shape`] if it is not, [`ModelError::Backend`] if the back end fails.
    pub fn context(
        &self,
        hidden_states: ArrayViewD<'_, f64>,
    ) -> Result<TextContext<B>, ModelError<B::Error>> {
        match *hidden_states.shape() {
            [batch, tokens, channels]
                if batch > 0 && tokens > 0 && channels == self.config.context_channels =>
            {
                Ok(TextContext { tensor: self.backend.upload(hidden_states)?, batch })
            }
            ref found => Err(ModelError::Shape {
                what: "encoded prompts",
                expected: format!("[batch, tokens, {}]", self.config.context_channels),
                found: found.to_vec(),
            }),
        }
    }

    /// Predicts what the network was trained to predict (noise, velocity or sample) from noisy latents.
    ///
    /// `latents` is `[batch, in_channels, height, width]`, any sides above 0; `timestep` a training timestep; `context` has as
    /// many prompts as there are latents. Returns `[batch, out_channels, height, width]`. Equal arguments give bitwise equal
    /// results.
    ///
    /// # Errors
    /// [`ModelError::Shape`] if a shape does not fit, [`ModelError::Backend`] if the back end fails.
    pub fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        timestep: usize,
        context: &TextContext<B>,
    ) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        self.predict_watched(latents, timestep, context, &mut ())
    }

    /// As [`Self::predict`], with an observer of attention.
    ///
    /// # Errors
    /// As [`Self::predict`].
    pub fn predict_watched(
        &self,
        latents: ArrayViewD<'_, f64>,
        timestep: usize,
        context: &TextContext<B>,
        observer: &mut dyn AttentionObserver<B>,
    ) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        match *latents.shape() {
            [batch, channels, height, width]
                if batch == context.batch
                    && channels == self.config.in_channels
                    && height > 0
                    && width > 0 => {}
            ref found => {
                return Err(ModelError::Shape {
                    what: "latents",
                    expected: format!("[{}, {}, height, width]", context.batch, self.config.in_channels),
                    found: found.to_vec(),
                });
            }
        }
        let mut pass = Pass { backend: &self.backend, observer };
        let output = self.forward(&mut pass, &self.backend.upload(latents)?, timestep, context)?;
        Ok(self.backend.download(&output)?)
    }

    fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        latents: &B::Tensor,
        timestep: usize,
        context: &TextContext<B>,
    ) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let time = self.time.forward(backend, timestep, context.batch)?;
        let conditions = Conditions { time: &time, context: &context.tensor };
        let mut image = backend.conv2d(latents, &self.conv_in)?;
        let mut skips = vec![image.clone()];
        for block in &self.down {
            image = block.forward(pass, image, &conditions, &mut skips)?;
        }
        image = self.mid.forward(pass, &image, &conditions)?;
        for block in &self.up {
            image = block.forward(pass, image, &conditions, &mut skips)?;
        }
        let (groups, eps) = (self.config.norm_num_groups, self.config.norm_eps);
        image = backend.group_norm_silu(&image, &self.norm_out, groups, eps)?;
        backend.conv2d(&image, &self.conv_out)
    }
}

impl<B: Backend> fmt::Debug for UNet<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UNet").field("config", &self.config).finish_non_exhaustive()
    }
}
