//! The CLIP text encoder (arXiv:2103.00020), as Stable Diffusion uses it: every token's last hidden state.

use std::fmt;

use ndarray::{Array2, ArrayD, ArrayView2};

use crate::attention::{Attention, AttentionObserver, AttentionShape, CLIP, Pass};
use crate::backend::{AttentionOptions, Backend};
use crate::config::{HiddenActivation, TextEncoderConfig};
use crate::error::{LoadError, ModelError};
use crate::parameters::{Parameters, Stored};
use crate::weights::WeightFile;

/// The CLIP text encoder on a back end.
pub struct TextEncoder<B: Backend> {
    backend: B,
    config: TextEncoderConfig,
    tokens: B::Tensor,
    positions: B::Tensor,
    layers: Vec<Layer<B>>,
    final_norm: B::Norm,
}

struct Layer<B: Backend> {
    attention_norm: B::Norm,
    attention: Attention<B>,
    mlp_norm: B::Norm,
    widen: B::Linear,
    narrow: B::Linear,
}

impl<B: Backend> TextEncoder<B> {
    /// Loads the encoder; tensors may stand under `text_model.` or at the root of the file.
    ///
    /// # Errors
    /// [`LoadError`], naming file and tensor.
    pub fn load(backend: &B, weights: &WeightFile, config: &TextEncoderConfig) -> Result<Self, LoadError> {
        let root = Parameters::new(backend, weights);
        let prefixed = root.at("text_model");
        let root = if prefixed.contains("embeddings.token_embedding.weight") { prefixed } else { root };
        let hidden = config.hidden_size;
        let embeddings = root.at("embeddings");
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::load(&root.at("encoder.layers").at(i), config))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            backend: backend.clone(),
            tokens: embeddings.table("token_embedding", [config.vocab_size, hidden])?,
            positions: embeddings.table("position_embedding", [config.max_position_embeddings, hidden])?,
            layers,
            final_norm: root.norm("final_layer_norm", hidden)?,
            config: config.clone(),
        })
    }

    /// Returns the config the encoder was loaded with.
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// Encodes prompts: ids `[batch, n]` give `[batch, n, hidden_size]`.
    ///
    /// # Errors
    /// [`ModelError::PromptLength`] if `n` is 0 or above the number of positions, [`ModelError::Token`] if an id is not in the
    /// vocabulary, [`ModelError::Backend`] if the back end fails.
    pub fn encode(&self, ids: ArrayView2<'_, u32>) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        self.encode_watched(ids, &mut ())
    }

    /// As [`Self::encode`], with an observer of attention.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_watched(
        &self,
        ids: ArrayView2<'_, u32>,
        observer: &mut dyn AttentionObserver<B>,
    ) -> Result<ArrayD<f64>, ModelError<B::Error>> {
        let (batch, n) = ids.dim();
        let limit = self.config.max_position_embeddings;
        if n == 0 || n > limit {
            return Err(ModelError::PromptLength { found: n, limit });
        }
        if batch == 0 {
            let (expected, found) = ("[batch, tokens]".to_owned(), vec![batch, n]);
            return Err(ModelError::Shape { what: "token ids", expected, found });
        }
        let vocabulary = self.config.vocab_size;
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(ModelError::Token { id, vocabulary });
        }
        let backend = &self.backend;
        let positions = Array2::from_shape_fn((batch, n), |(_, i)| i as u32);
        let mut x = backend
            .add(&backend.embed(&self.tokens, ids)?, &backend.embed(&self.positions, positions.view())?)?;
        let mut pass = Pass { backend, observer };
        for layer in &self.layers {
            x = layer.forward(&mut pass, &self.config, &x)?;
        }
        let x = backend.layer_norm(&x, &self.final_norm, self.config.layer_norm_eps)?;
        Ok(backend.download(&x)?)
    }
}

impl<B: Backend> fmt::Debug for TextEncoder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextEncoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<B: Backend> Layer<B> {
    fn load(parameters: &Parameters<'_, B>, config: &TextEncoderConfig) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let shape = AttentionShape {
            channels: hidden,
            context_channels: None,
            heads: config.num_attention_heads,
            with_bias: true,
            stored: Stored::Linear,
            options: AttentionOptions { causal: true, upcast: false },
        };
        Ok(Self {
            attention_norm: parameters.norm("layer_norm1", hidden)?,
            attention: Attention::load(&parameters.at("self_attn"), CLIP, &shape)?,
            mlp_norm: parameters.norm("layer_norm2", hidden)?,
            widen: parameters.linear("mlp.fc1", [hidden, inner])?,
            narrow: parameters.linear("mlp.fc2", [inner, hidden])?,
        })
    }

    fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        config: &TextEncoderConfig,
        x: &B::Tensor,
    ) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let normed = backend.layer_norm(x, &self.attention_norm, config.layer_norm_eps)?;
        let x = backend.add(x, &self.attention.forward(pass, &normed, None)?)?;
        let normed = backend.layer_norm(&x, &self.mlp_norm, config.layer_norm_eps)?;
        let inner = backend.linear(&normed, &self.widen)?;
        let inner = match config.hidden_act {
            HiddenActivation::Gelu => backend.gelu(&inner)?,
            HiddenActivation::QuickGelu => backend.quick_gelu(&inner)?,
        };
        backend.add(&x, &backend.linear(&inner, &self.narrow)?)
    }
}
