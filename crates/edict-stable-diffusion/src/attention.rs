//! Attention, in one place for all networks, where it can be watched.

use std::fmt;

use crate::backend::{AttentionOptions, Backend};
use crate::error::LoadError;
use crate::parameters::{Parameters, Stored};

/// Whether a site attends to its own tokens or to the prompt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Queries, keys and values come from the same tokens.
    SelfAttention,
    /// Keys and values come from the text encoder.
    CrossAttention,
}

/// One place in a network where attention happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AttentionSite {
    /// Its place in the weight file: `down_blocks.0.attentions.0.transformer_blocks.0.attn2`.
    pub name: String,
    /// What it attends to.
    pub kind: AttentionKind,
    /// Number of heads; heads are consecutive channels.
    pub heads: usize,
}

/// What went into and came out of one call of attention.
///
/// Tensors are on the device: `[batch, n, channels]` for `query` and `output`, `[batch, m, channels]` for `key` and `value`.
/// Head by head, `output = softmax(query key^T / sqrt(channels / heads)) value`, before the output projection.
pub struct AttentionCall<'a, B: Backend> {
    /// Where.
    pub site: &'a AttentionSite,
    /// The back end the tensors live on.
    pub backend: &'a B,
    /// Projected queries.
    pub query: &'a B::Tensor,
    /// Projected keys.
    pub key: &'a B::Tensor,
    /// Projected values.
    pub value: &'a B::Tensor,
    /// The values, averaged by attention.
    pub output: &'a B::Tensor,
}

impl<B: Backend> fmt::Debug for AttentionCall<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttentionCall").field("site", self.site).finish_non_exhaustive()
    }
}

/// Watches the attention of a network. Closures are observers; `()` watches nothing.
pub trait AttentionObserver<B: Backend> {
    /// Is told of one call, right after it.
    fn attended(&mut self, call: &AttentionCall<'_, B>);
}

impl<B: Backend> AttentionObserver<B> for () {
    fn attended(&mut self, _: &AttentionCall<'_, B>) {}
}

impl<B: Backend, F: FnMut(&AttentionCall<'_, B>)> AttentionObserver<B> for F {
    fn attended(&mut self, call: &AttentionCall<'_, B>) {
        self(call);
    }
}

/// What the layers of one run share.
pub(crate) struct Pass<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) observer: &'a mut dyn AttentionObserver<B>,
}

/// Names of the four projections in a weight file.
#[derive(Clone, Copy)]
pub(crate) struct ProjectionNames {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) output: &'static str,
}

/// Names in diffusers' `Attention`.
pub(crate) const DIFFUSERS: ProjectionNames =
    ProjectionNames { query: "to_q", key: "to_k", value: "to_v", output: "to_out.0" };
/// Names in diffusers' `AttentionBlock`, which autoencoders had before version 0.18.
pub(crate) const DIFFUSERS_OLD: ProjectionNames =
    ProjectionNames { query: "query", key: "key", value: "value", output: "proj_attn" };
/// Names in transformers' `CLIPAttention`.
pub(crate) const CLIP: ProjectionNames =
    ProjectionNames { query: "q_proj", key: "k_proj", value: "v_proj", output: "out_proj" };

/// Extents and settings of an attention layer.
pub(crate) struct AttentionShape {
    pub(crate) channels: usize,
    /// Channels of what keys and values are projected from, where that is the prompt.
    pub(crate) context_channels: Option<usize>,
    pub(crate) heads: usize,
    /// Whether queries, keys and values have a bias.
    pub(crate) with_bias: bool,
    pub(crate) stored: Stored,
    pub(crate) options: AttentionOptions,
}

/// Multi-head attention with its four projections.
pub(crate) struct Attention<B: Backend> {
    site: AttentionSite,
    query: B::Linear,
    key: B::Linear,
    value: B::Linear,
    output: B::Linear,
    options: AttentionOptions,
}

impl<B: Backend> Attention<B> {
    pub(crate) fn load(
        parameters: &Parameters<'_, B>,
        names: ProjectionNames,
        shape: &AttentionShape,
    ) -> Result<Self, LoadError> {
        let &AttentionShape { channels, context_channels, heads, with_bias, stored, options } = shape;
        let inputs = context_channels.unwrap_or(channels);
        let projection =
            |name, inputs, with_bias| parameters.linear_stored(name, [inputs, channels], stored, with_bias);
        let kind = match context_channels {
            Some(_) => AttentionKind::CrossAttention,
            None => AttentionKind::SelfAttention,
        };
        Ok(Self {
            site: AttentionSite { name: parameters.prefix().to_owned(), kind, heads },
            query: projection(names.query, channels, with_bias)?,
            key: projection(names.key, inputs, with_bias)?,
            value: projection(names.value, inputs, with_bias)?,
            output: projection(names.output, channels, true)?,
            options,
        })
    }

    /// Attends from `x` `[batch, n, channels]` to `context` `[batch, m, context_channels]`, or to `x` itself.
    pub(crate) fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        x: &B::Tensor,
        context: Option<&B::Tensor>,
    ) -> Result<B::Tensor, B::Error> {
        let backend = pass.backend;
        let source = context.unwrap_or(x);
        let query = backend.linear(x, &self.query)?;
        let key = backend.linear(source, &self.key)?;
        let value = backend.linear(source, &self.value)?;
        let output = backend.attention(&query, &key, &value, self.site.heads, self.options)?;
        pass.observer.attended(&AttentionCall {
            site: &self.site,
            backend,
            query: &query,
            key: &key,
            value: &value,
            output: &output,
        });
        backend.linear(&output, &self.output)
    }
}
