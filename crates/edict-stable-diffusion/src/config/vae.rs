//! `vae/config.json`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::fields::Fields;
use super::keys::VAE_KEYS;
use crate::error::LoadError;

/// What `vae/config.json` says of the autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VaeConfig {
    /// Channels of the images encoded.
    pub in_channels: usize,
    /// Channels of the images decoded.
    pub out_channels: usize,
    /// Channels of each resolution, finest first; each is half the one before.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a resolution in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Latents are the posterior's times this.
    pub scaling_factor: f64,
    /// Taken off the posterior's before it is scaled; 0 where the config has none.
    pub shift_factor: f64,
    /// Runs in f32 where the back end's element type has fewer bits.
    pub force_upcast: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks have attention.
    pub mid_block_add_attention: bool,
}

impl VaeConfig {
    /// Reads a config; `path` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], [`LoadError::UnknownKey`] or [`LoadError::InvalidValue`], naming the key.
    pub fn from_json(path: &Path, config: &Value) -> Result<Self, LoadError> {
        let fields = Fields::new(path, VAE_KEYS, config)?;
        let channels = fields.count_list("block_out_channels", 1 << 16)?;
        fields.choices("down_block_types", channels.len(), &[("DownEncoderBlock2D", ())])?;
        fields.choices("up_block_types", channels.len(), &[("UpDecoderBlock2D", ())])?;
        let norm_num_groups = fields.count("norm_num_groups", 1 << 16)?;
        if channels.iter().any(|c| c % norm_num_groups != 0) {
            return Err(fields.invalid("norm_num_groups", format!("a divisor of all of {channels:?}")));
        }
        let shift_factor =
            if fields.value("shift_factor").is_null() { 0.0 } else { fields.f64("shift_factor")? };
        Ok(Self {
            in_channels: fields.count("in_channels", 1 << 16)?,
            out_channels: fields.count("out_channels", 1 << 16)?,
            block_out_channels: channels,
            layers_per_block: fields.count("layers_per_block", 64)?,
            latent_channels: fields.count("latent_channels", 1 << 16)?,
            norm_num_groups,
            scaling_factor: fields.positive_f64("scaling_factor")?,
            shift_factor,
            force_upcast: fields.bool("force_upcast")?,
            use_quant_conv: fields.bool("use_quant_conv")?,
            use_post_quant_conv: fields.bool("use_post_quant_conv")?,
            mid_block_add_attention: fields.bool("mid_block_add_attention")?,
        })
    }

    /// Returns how many pixels along an axis become one latent: 2 to the number of halvings.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}
