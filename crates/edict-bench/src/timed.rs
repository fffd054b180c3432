//! A back end that keeps a clock for every kind of operation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::{ArrayD, ArrayView2, ArrayViewD};
use serde_json::{Map, Value};

/// A back end, timed.
#[derive(Clone)]
pub(crate) struct Timed<B> {
    inner: B,
    clocks: Arc<Mutex<BTreeMap<&'static str, f64>>>,
}

impl<B: Backend> Timed<B> {
    pub(crate) fn new(inner: B) -> Self {
        Self { inner, clocks: Arc::default() }
    }

    pub(crate) fn reset(&self) {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The share of `whole` seconds that each kind of operation took, and what is left.
    pub(crate) fn shares(&self, whole: f64) -> Value {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shares: Map<String, Value> =
            clocks.iter().map(|(kind, seconds)| ((*kind).to_owned(), (seconds / whole).into())).collect();
        shares.insert("rest".to_owned(), (1.0 - clocks.values().sum::<f64>() / whole).into());
        shares.insert("seconds".to_owned(), whole.into());
        Value::Object(shares)
    }

    fn time<T>(&self, kind: &'static str, work: impl FnOnce(&B) -> T) -> T {
        let begun = Instant::now();
        let result = work(&self.inner);
        let seconds = begun.elapsed().as_secs_f64();
        *self.clocks.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += seconds;
        result
    }
}

impl<B: Backend> Backend for Timed<B> {
    type Tensor = B::Tensor;
    type Conv2d = B::Conv2d;
    type Linear = B::Linear;
    type Norm = B::Norm;
    type Error = B::Error;

    fn dtype(&self) -> DType {
        self.inner.dtype()
    }

    fn with_dtype(&self, dtype: DType) -> Self {
        Self { inner: self.inner.with_dtype(dtype), clocks: Arc::clone(&self.clocks) }
    }

    fn load_conv2d(
        &self,
        weight: RawTensor<'_>,
        bias: Option<RawTensor<'_>>,
        geometry: Conv2dGeometry,
    ) -> Result<B::Conv2d, B::Error> {
        self.inner.load_conv2d(weight, bias, geometry)
    }

    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Result<B::Linear, B::Error> {
        self.inner.load_linear(weight, bias)
    }

    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Result<B::Norm, B::Error> {
        self.inner.load_norm(weight, bias)
    }

    fn load_table(&self, table: RawTensor<'_>) -> Result<B::Tensor, B::Error> {
        self.inner.load_table(table)
    }

    fn upload(&self, values: ArrayViewD<'_, f64>) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.upload(values))
    }

    fn download(&self, tensor: &B::Tensor) -> Result<ArrayD<f64>, B::Error> {
        self.time("copies", |b| b.download(tensor))
    }

    fn conv2d(&self, image: &B::Tensor, conv: &B::Conv2d) -> Result<B::Tensor, B::Error> {
        self.time("convolution", |b| b.conv2d(image, conv))
    }

    fn linear(&self, x: &B::Tensor, linear: &B::Linear) -> Result<B::Tensor, B::Error> {
        self.time("linear", |b| b.linear(x, linear))
    }

    fn group_norm(
        &self,
        image: &B::Tensor,
        norm: &B::Norm,
        groups: usize,
        eps: f64,
    ) -> Result<B::Tensor, B::Error> {
        self.time("norms", |b| b.group_norm(image, norm, groups, eps))
    }

    fn group_norm_silu(
        &self,
        image: &B::Tensor,
        norm: &B::Norm,
        groups: usize,
        eps: f64,
    ) -> Result<B::Tensor, B::Error> {
        self.time("norms", |b| b.group_norm_silu(image, norm, groups, eps))
    }

    fn layer_norm(&self, x: &B::Tensor, norm: &B::Norm, eps: f64) -> Result<B::Tensor, B::Error> {
        self.time("norms", |b| b.layer_norm(x, norm, eps))
    }

    fn attention(
        &self,
        query: &B::Tensor,
        key: &B::Tensor,
        value: &B::Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Result<B::Tensor, B::Error> {
        self.time("attention", |b| b.attention(query, key, value, heads, options))
    }

    fn geglu(&self, x: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("activations", |b| b.geglu(x))
    }

    fn linear_geglu(&self, x: &B::Tensor, linear: &B::Linear) -> Result<B::Tensor, B::Error> {
        self.time("linear", |b| b.linear_geglu(x, linear))
    }

    fn gelu(&self, x: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("activations", |b| b.gelu(x))
    }

    fn quick_gelu(&self, x: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("activations", |b| b.quick_gelu(x))
    }

    fn silu(&self, x: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("activations", |b| b.silu(x))
    }

    fn upsample_to(&self, image: &B::Tensor, height: usize, width: usize) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.upsample_to(image, height, width))
    }

    fn concat_channels(&self, first: &B::Tensor, second: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.concat_channels(first, second))
    }

    fn add(&self, x: &B::Tensor, y: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("sums", |b| b.add(x, y))
    }

    fn add_channel_bias(&self, image: &B::Tensor, bias: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("sums", |b| b.add_channel_bias(image, bias))
    }

    fn scale(&self, x: &B::Tensor, factor: f64) -> Result<B::Tensor, B::Error> {
        self.time("sums", |b| b.scale(x, factor))
    }

    fn image_to_tokens(&self, image: &B::Tensor) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.image_to_tokens(image))
    }

    fn tokens_to_image(
        &self,
        tokens: &B::Tensor,
        height: usize,
        width: usize,
    ) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.tokens_to_image(tokens, height, width))
    }

    fn embed(&self, table: &B::Tensor, ids: ArrayView2<'_, u32>) -> Result<B::Tensor, B::Error> {
        self.time("copies", |b| b.embed(table, ids))
    }

    fn image_size(&self, image: &B::Tensor) -> [usize; 2] {
        self.inner.image_size(image)
    }
}
