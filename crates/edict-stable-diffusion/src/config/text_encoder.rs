//! `text_encoder/config.json`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::fields::Fields;
use super::keys::TEXT_ENCODER_KEYS;
use crate::error::LoadError;

/// What `text_encoder/config.json` says of the CLIP text encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TextEncoderConfig {
    /// Number of tokens known.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub hidden_size: usize,
    /// Channels between the two linear maps of a layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// Activation between the two linear maps.
    pub hidden_act: HiddenActivation,
    /// Added to the variance in layer norms.
    pub layer_norm_eps: f64,
}

/// Activations a text encoder may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum HiddenActivation {
    /// `x Phi(x)` with the error function (Stable Diffusion 2).
    Gelu,
    /// `x / (1 + exp(-1.702 x))` (Stable Diffusion 1).
    QuickGelu,
}

impl TextEncoderConfig {
    /// Reads a config; `path` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`], [`LoadError::UnknownKey`] or [`LoadError::InvalidValue`], naming the key.
    pub fn from_json(path: &Path, config: &Value) -> Result<Self, LoadError> {
        let fields = Fields::new(path, TEXT_ENCODER_KEYS, config)?;
        let hidden_size = fields.count("hidden_size", 1 << 16)?;
        let num_attention_heads = fields.count("num_attention_heads", 1 << 16)?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            let wanted = format!("a divisor of `hidden_size` {hidden_size}");
            return Err(fields.invalid("num_attention_heads", wanted));
        }
        Ok(Self {
            vocab_size: fields.count("vocab_size", 1 << 24)?,
            hidden_size,
            intermediate_size: fields.count("intermediate_size", 1 << 20)?,
            num_hidden_layers: fields.count("num_hidden_layers", 1024)?,
            num_attention_heads,
            max_position_embeddings: fields.count("max_position_embeddings", 1 << 24)?,
            hidden_act: fields.choice(
                "hidden_act",
                &[("gelu", HiddenActivation::Gelu), ("quick_gelu", HiddenActivation::QuickGelu)],
            )?,
            layer_norm_eps: fields.positive_f64("layer_norm_eps")?,
        })
    }
}
