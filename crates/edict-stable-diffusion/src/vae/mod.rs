//! The autoencoder between images and latents: diffusers' `AutoencoderKL`.

mod decoder;
mod encoder;
mod mid;
mod posterior;

use std::fmt;

use ndarray::{ArrayD, ArrayViewD};

use crate::attention::{AttentionObserver, Pass};
use crate::backend::{Backend, DType};
use crate::config::VaeConfig;
use crate::error::{LoadError, ModelError};
use crate::parameters::Parameters;
use crate::weights::WeightFile;
use decoder::Decoder;
use encoder::Encoder;
pub use posterior::Posterior;

/// The autoencoder on a back end.
///
/// It runs in the back end's element type, or in f32 if that has 16 bits and the config says `force_upcast`.
pub struct Vae<B: Backend> {
    backend: B,
    config: VaeConfig,
    encoder: Encoder<B>,
    decoder: Decoder<B>,
}

impl<B: Backend> Vae<B> {
    /// Loads the network; its attention may have the names of diffusers before or after version 0.18.
    ///
    /// # Errors
    /// [`LoadError`], naming file and tensor.
    pub fn load(backend: &B, weights: &WeightFile, config: &VaeConfig) -> Result<Self, LoadError> {
        let backend = match backend.dtype() {
            DType::F16 | DType::BF16 if config.force_upcast => backend.with_dtype(DType::F32),
            _ => backend.clone(),
        };
        if config.block_out_channels.is_empty() {
            return Err(LoadError::InvalidValue {
                path: weights.path().to_owned(),
                key: "block_out_channels".to_owned(),
                value: "[]".to_owned(),
                wanted: "at least one level".to_owned(),
            });
        }
        let root = Parameters::new(&backend, weights);
        let (encoder, decoder) = (Encoder::load(&root, config)?, Decoder::load(&root, config)?);
        Ok(Self { backend, config: config.clone(), encoder, decoder })
    }

    /// Returns the config the network was loaded with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Returns how many pixels along an axis become one latent.
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// Returns the element type the network runs in.
    pub fn dtype(&self) -> DType {
        self.backend.dtype()
    }

    /// Encodes images to the posterior over their latents.
    ///
    /// `images` is `[batch, in_channels, height, width]` in [-1, 1]; both sides are multiples of [`Self::factor`].
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] if a side is not, [`ModelError::Shape`] if there are other axes or channels,
    /// [`ModelError::Backend`] if the back end fails.
    pub fn encode(&self, images: ArrayViewD<'_, f64>) -> Result<Posterior, ModelError<B::Error>> {
        self.encode_watched(images, &mut ())
    }

    /// As [`Self::encode`], with an observer of attention.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_watched(
        &self,
        images: ArrayViewD<'_, f64>,
        observer: &mut dyn AttentionObserver<B>,
    ) -> Result<Posterior, ModelError<B::Error>> {
        let [height, width] = check(&images, "images", self.config.in_channels)?;
        let factor = self.factor();
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) || height == 0 || width == 0 {
            return Err(ModelError::ImageSize { width, height, factor });
        }
        let mut pass = Pass { backend: &self.backend, observer };
        let moments = self.encoder.forward(&mut pass, &self.backend.upload(images)?)?;
        Ok(Posterior::from_moments(self.backend.download(&moments)?, &self.config))
    }

    /// Decodes latents to images.
    ///
    /// `latents` is `[batch, latent_channels, h, w]`, scaled as [`Posterior::mode`] returns them. Returns
    /// `[batch, out_channels, factor h, factor w]`, about [-1, 1] and not clamped to it.
    ///
    /// # Errors
    /// [`ModelError::Shape`] if there are other axes or channels or a side is 0, [`ModelError::Backend`] if the back end fails.
    pub fn decode(&self, latents: ArrayViewD<'_, f64>) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        self.decode_watched(latents, &mut ())
    }

    /// As [`Self::decode`], with an observer of attention.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_watched(
        &self,
        latents: ArrayViewD<'_, f64>,
        observer: &mut dyn AttentionObserver<B>,
    ) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        check(&latents, "latents", self.config.latent_channels)?;
        let VaeConfig { scaling_factor, shift_factor, .. } = self.config;
        let unscaled = latents.mapv(|z| z / scaling_factor + shift_factor);
        let mut pass = Pass { backend: &self.backend, observer };
        let images = self.decoder.forward(&mut pass, &self.backend.upload(unscaled.view())?)?;
        Ok(self.backend.download(&images)?)
    }
}

fn check<E: std::error::Error>(
    array: &ArrayViewD<'_, f64>,
    what: &'static str,
    channels: usize,
) -> Result<[usize; 2], ModelError<E>> {
    match *array.shape() {
        [batch, c, height, width] if batch > 0 && c == channels && height > 0 && width > 0 => {
            Ok([height, width])
        }
        ref found => Err(ModelError::Shape {
            what,
            expected: format!("[batch, {channels}, height, width]"),
            found: found.to_vec(),
        }),
    }
}

impl<B: Backend> fmt::Debug for Vae<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vae").field("config", &self.config).finish_non_exhaustive()
    }
}
