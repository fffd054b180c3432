//! A back end that keeps a clock for every kind of operation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use edict_candle::{CandleBackend, CandleError, Conv2d, Linear, Norm, Tensor};
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::{ArrayD, ArrayView2, ArrayViewD};
use serde_json::{Map, Value};

type Answer<T> = Result<T, CandleError>;

/// candle's back end, timed.
#[derive(Clone)]
pub(crate) struct Timed {
    inner: CandleBackend,
    clocks: Arc<Mutex<BTreeMap<&'static str, f64>>>,
}

impl Timed {
    pub(crate) fn new(inner: CandleBackend) -> Self {
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

    fn time<T>(&self, kind: &'static str, work: impl FnOnce(&CandleBackend) -> T) -> T {
        let begun = Instant::now();
        let result = work(&self.inner);
        let seconds = begun.elapsed().as_secs_f64();
        *self.clocks.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += seconds;
        result
    }
}

impl Backend for Timed {
    type Tensor = Tensor;
    type Conv2d = Conv2d;
    type Linear = Linear;
    type Norm = Norm;
    type Error = CandleError;

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
    ) -> Answer<Conv2d> {
        self.inner.load_conv2d(weight, bias, geometry)
    }

    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Answer<Linear> {
        self.inner.load_linear(weight, bias)
    }

    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Answer<Norm> {
        self.inner.load_norm(weight, bias)
    }

    fn load_table(&self, table: RawTensor<'_>) -> Answer<Tensor> {
        self.inner.load_table(table)
    }

    fn upload(&self, values: ArrayViewD<'_, f64>) -> Answer<Tensor> {
        self.time("copies", |b| b.upload(values))
    }

    fn download(&self, tensor: &Tensor) -> Answer<ArrayD<f64>> {
        self.time("copies", |b| b.download(tensor))
    }

    fn conv2d(&self, image: &Tensor, conv: &Conv2d) -> Answer<Tensor> {
        self.time("convolution", |b| b.conv2d(image, conv))
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Answer<Tensor> {
        self.time("linear", |b| b.linear(x, linear))
    }

    fn group_norm(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Answer<Tensor> {
        self.time("norms", |b| b.group_norm(image, norm, groups, eps))
    }

    fn group_norm_silu(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Answer<Tensor> {
        self.time("norms", |b| b.group_norm_silu(image, norm, groups, eps))
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm, eps: f64) -> Answer<Tensor> {
        self.time("norms", |b| b.layer_norm(x, norm, eps))
    }

    fn attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Answer<Tensor> {
        self.time("attention", |b| b.attention(query, key, value, heads, options))
    }

    fn geglu(&self, x: &Tensor) -> Answer<Tensor> {
        self.time("activations", |b| b.geglu(x))
    }

    fn linear_geglu(&self, x: &Tensor, linear: &Linear) -> Answer<Tensor> {
        self.time("linear", |b| b.linear_geglu(x, linear))
    }

    fn gelu(&self, x: &Tensor) -> Answer<Tensor> {
        self.time("activations", |b| b.gelu(x))
    }

    fn quick_gelu(&self, x: &Tensor) -> Answer<Tensor> {
        self.time("activations", |b| b.quick_gelu(x))
    }

    fn silu(&self, x: &Tensor) -> Answer<Tensor> {
        self.time("activations", |b| b.silu(x))
    }

    fn upsample_to(&self, image: &Tensor, height: usize, width: usize) -> Answer<Tensor> {
        self.time("copies", |b| b.upsample_to(image, height, width))
    }

    fn concat_channels(&self, first: &Tensor, second: &Tensor) -> Answer<Tensor> {
        self.time("copies", |b| b.concat_channels(first, second))
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Answer<Tensor> {
        self.time("sums", |b| b.add(x, y))
    }

    fn add_channel_bias(&self, image: &Tensor, bias: &Tensor) -> Answer<Tensor> {
        self.time("sums", |b| b.add_channel_bias(image, bias))
    }

    fn scale(&self, x: &Tensor, factor: f64) -> Answer<Tensor> {
        self.time("sums", |b| b.scale(x, factor))
    }

    fn image_to_tokens(&self, image: &Tensor) -> Answer<Tensor> {
        self.time("copies", |b| b.image_to_tokens(image))
    }

    fn tokens_to_image(&self, tokens: &Tensor, height: usize, width: usize) -> Answer<Tensor> {
        self.time("copies", |b| b.tokens_to_image(tokens, height, width))
    }

    fn embed(&self, table: &Tensor, ids: ArrayView2<'_, u32>) -> Answer<Tensor> {
        self.time("copies", |b| b.embed(table, ids))
    }

    fn image_size(&self, image: &Tensor) -> [usize; 2] {
        self.inner.image_size(image)
    }
}
