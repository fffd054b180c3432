//! A whole Stable Diffusion model: text encoder, autoencoder, noise predictor and schedule.

use std::fmt;

use edict_core::{
    ConfigError, Latents, NoisePredictor, NoiseSchedule, ParameterizationError, SamplePredictor, Timestep,
    Trajectory, VelocityPredictor,
};
use ndarray::{ArrayD, ArrayViewD, Axis, concatenate};
use thiserror::Error;

use crate::{
    Backend, LoadError, ModelError, ModelFolder, Posterior, PredictionType, SchedulerConfig, TextEncoder,
    Tokenizer, TokenizerError, UNet, Vae,
};

/// A Stable Diffusion 1.x or 2.x model on a back end.
pub struct StableDiffusion<B: Backend> {
    unet: UNet<B>,
    vae: Vae<B>,
    text_encoder: TextEncoder<B>,
    tokenizer: Tokenizer,
    scheduler: SchedulerConfig,
    schedule: NoiseSchedule,
}

/// Why a prompt could not be encoded; `E` is the back end's error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PromptError<E: std::error::Error + 'static> {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The text encoder failed.
    #[error(transparent)]
    Model(#[from] ModelError<E>),
}

/// A prompt as the noise predictor takes it: the text encoder's last hidden states, `[1, tokens, channels]`.
///
/// One prompt serves a whole batch of latents.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptEmbedding {
    states: ArrayD<f64>,
    truncated: Option<String>,
}

impl PromptEmbedding {
    /// Returns the hidden states, `[1, tokens, channels]`.
    pub fn states(&self) -> &ArrayD<f64> {
        &self.states
    }

    /// Returns the part of the prompt that did not fit into the tokenizer's length and was cut off.
    pub fn truncated(&self) -> Option<&str> {
        self.truncated.as_deref()
    }
}

impl<B: Backend> StableDiffusion<B> {
    /// Loads every part of a model folder.
    ///
    /// # Errors
    /// [`LoadError`] names the file and what is wrong with it.
    pub fn load(backend: &B, folder: &ModelFolder) -> Result<Self, LoadError> {
        Ok(Self {
            schedule: folder.schedule().clone(),
            scheduler: folder.scheduler_config().clone(),
            tokenizer: folder.tokenizer()?,
            text_encoder: TextEncoder::load(
                backend,
                folder.text_encoder_weights(),
                folder.text_encoder_config(),
            )?,
            unet: UNet::load(backend, folder.unet_weights(), folder.unet_config())?,
            vae: Vae::load(backend, folder.vae_weights(), folder.vae_config())?,
        })
    }

    /// Returns how many pixels along an axis become one latent: 8 for Stable Diffusion.
    pub fn factor(&self) -> usize {
        self.vae.factor()
    }

    /// Returns the schedule the model was trained with.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Lays `steps` steps on the model's schedule, with the spacing and offset of its scheduler config; `strength` in `[0, 1]`
    /// is the share of them that is run.
    ///
    /// # Errors
    /// [`ConfigError`] if the steps do not fit into the schedule or the strength is outside its range.
    pub fn trajectory(&self, steps: usize, strength: f64) -> Result<Trajectory, ConfigError> {
        self.scheduler.trajectory(&self.schedule, steps, strength)
    }

    /// Returns the shape of the latents of a batch of images of `width` by `height` pixels.
    pub fn latent_shape(&self, batch: usize, width: usize, height: usize) -> [usize; 4] {
        let factor = self.factor();
        [batch, self.vae.config().latent_channels, height / factor, width / factor]
    }

    /// Encodes a prompt.
    ///
    /// # Errors
    /// [`PromptError`] if the tokenizer or the text encoder fails. A prompt that is too long is no error:
    /// [`PromptEmbedding::truncated`] tells what was cut.
    pub fn encode_prompt(&self, prompt: &str) -> Result<PromptEmbedding, PromptError<B::Error>> {
        let encoded = self.tokenizer.encode(prompt)?;
        let states = self.text_encoder.encode(encoded.to_batch().view())?;
        Ok(PromptEmbedding { states, truncated: encoded.truncated })
    }

    /// Encodes images to the posterior over their latents; [`Posterior::mode`] is what inversion starts from.
    ///
    /// `images` is `[batch, 3, height, width]` in [-1, 1]; both sides are multiples of [`Self::factor`].
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] if a side is not, [`ModelError::Shape`] for another rank or channel count,
    /// [`ModelError::Backend`] if the back end fails.
    pub fn encode_images(&self, images: ArrayViewD<'_, f64>) -> Result<Posterior, ModelError<B::Error>> {
        self.vae.encode(images)
    }

    /// Decodes scaled latents `[batch, channels, h, w]` to images `[batch, 3, height, width]`, about in [-1, 1].
    ///
    /// # Errors
    /// [`ModelError`] if the shape does not fit or the back end fails.
    pub fn decode(&self, latents: &Latents) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        self.vae.decode(latents.view())
    }

    /// Returns the U-Net as a predictor of noise, whatever it was trained to predict.
    pub fn predictor(&self) -> UNetPredictor<'_, B> {
        self.predictor_with(self.schedule.clone())
    }

    /// Returns the U-Net as a predictor that converts its predictions by a schedule kept from an earlier run,
    /// [`Inversion::schedule`](crate::Inversion::schedule), instead of the model's own.
    pub fn predictor_with(&self, schedule: NoiseSchedule) -> UNetPredictor<'_, B> {
        let raw = RawUNet { unet: &self.unet };
        UNetPredictor(match self.scheduler.prediction_type {
            PredictionType::Epsilon => Parameterization::Noise(raw),
            PredictionType::V => Parameterization::Velocity(VelocityPredictor::new(raw, schedule)),
            PredictionType::Sample => Parameterization::Sample(SamplePredictor::new(raw, schedule)),
        })
    }

    /// Returns the noise predictor, for instance to watch its attention.
    pub fn unet(&self) -> &UNet<B> {
        &self.unet
    }

    /// Returns the autoencoder.
    pub fn vae(&self) -> &Vae<B> {
        &self.vae
    }

    /// Returns the text encoder.
    pub fn text_encoder(&self) -> &TextEncoder<B> {
        &self.text_encoder
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

impl<B: Backend> fmt::Debug for StableDiffusion<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableDiffusion").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

/// The U-Net of a [`StableDiffusion`] model as a [`NoisePredictor`].
///
/// Both conditions of a guided prediction run as one batch, the positive ones first.
#[derive(Debug)]
pub struct UNetPredictor<'a, B: Backend>(Parameterization<'a, B>);

#[derive(Debug)]
enum Parameterization<'a, B: Backend> {
    Noise(RawUNet<'a, B>),
    Velocity(VelocityPredictor<RawUNet<'a, B>>),
    Sample(SamplePredictor<RawUNet<'a, B>>),
}

impl<B: Backend> NoisePredictor for UNetPredictor<'_, B> {
    type Condition = PromptEmbedding;
    type Error = ParameterizationError<ModelError<B::Error>>;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        prompt: &PromptEmbedding,
    ) -> Result<Latents, Self::Error> {
        match &self.0 {
            Parameterization::Noise(model) => {
                model.predict(latents, t, prompt).map_err(ParameterizationError::Model)
            }
            Parameterization::Velocity(model) => model.predict(latents, t, prompt),
            Parameterization::Sample(model) => model.predict(latents, t, prompt),
        }
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        prompts: [&PromptEmbedding; 2],
    ) -> Result<[Latents; 2], Self::Error> {
        match &self.0 {
            Parameterization::Noise(model) => {
                model.predict_pair(latents, t, prompts).map_err(ParameterizationError::Model)
            }
            Parameterization::Velocity(model) => model.predict_pair(latents, t, prompts),
            Parameterization::Sample(model) => model.predict_pair(latents, t, prompts),
        }
    }
}

/// The U-Net's own output, whatever it stands for.
struct RawUNet<'a, B: Backend> {
    unet: &'a UNet<B>,
}

impl<B: Backend> fmt::Debug for RawUNet<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawUNet").finish_non_exhaustive()
    }
}

impl<B: Backend> RawUNet<'_, B> {
    /// Runs every sample of `latents` under every prompt, as one batch ordered by prompt.
    fn run(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        prompts: &[&PromptEmbedding],
    ) -> Result<Latents, ModelError<B::Error>> {
        let batch = latents.shape().first().copied().unwrap_or(0);
        let rows: Vec<_> =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.states.view(), batch)).collect();
        let inputs = vec![latents; prompts.len()];
        let (Ok(states), Ok(inputs)) = (concatenate(Axis(0), &rows), concatenate(Axis(0), &inputs)) else {
            return Err(ModelError::Shape {
                what: "prompt embeddings",
                expected: "[1, tokens, channels], equal for all prompts".to_owned(),
                found: prompts.iter().flat_map(|prompt| prompt.states.shape().to_vec()).collect(),
            });
        };
        let context = self.unet.context(states.view())?;
        self.unet.predict(inputs.view(), t.get(), &context)
    }
}

impl<B: Backend> NoisePredictor for RawUNet<'_, B> {
    type Condition = PromptEmbedding;
    type Error = ModelError<B::Error>;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        prompt: &PromptEmbedding,
    ) -> Result<Latents, Self::Error> {
        self.run(latents, t, &[prompt])
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        [positive, negative]: [&PromptEmbedding; 2],
    ) -> Result<[Latents; 2], Self::Error> {
        let both = self.run(latents, t, &[positive, negative])?;
        let (first, second) = both.view().split_at(Axis(0), both.shape()[0] / 2);
        Ok([first.to_owned(), second.to_owned()])
    }
}
