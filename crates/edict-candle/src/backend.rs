//! The back end itself: a device, an element type and threads.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::{ArrayD, ArrayView2, ArrayViewD, IxDyn};
use rayon::ThreadPool;

use crate::device::DeviceSpec;
use crate::error::{CandleError, Result};
use crate::kernels::{activation, attention, conv, linear, norm, shape};
use crate::weights::{self, Conv2d, Linear, Norm};

/// Stable Diffusion's operations on candle's tensors.
///
/// Cloning is cheap: the device and the threads are shared.
#[derive(Clone, Debug)]
pub struct CandleBackend {
    device: Device,
    dtype: DType,
    /// Format of the matrices of linear maps and convolutions, where it is not that of the networks.
    weights: Option<DType>,
    pool: Option<Arc<ThreadPool>>,
}

impl CandleBackend {
    /// Computes on the processor, on rayon's global threads.
    pub fn cpu(dtype: DType) -> Self {
        Self { device: Device::Cpu, dtype, weights: None, pool: None }
    }

    /// Computes on the named device.
    ///
    /// # Errors
    /// [`CandleError::DeviceNotBuilt`] if the crate's feature for it is off, [`CandleError::DeviceUnavailable`] if the
    /// machine has no such device.
    pub fn new(device: DeviceSpec, dtype: DType) -> Result<Self> {
        Ok(Self { device: device.open()?, dtype, weights: None, pool: None })
    }

    /// Computes on `threads` threads of its own (0: as many as rayon finds fit). Results do not depend on the number.
    ///
    /// Every operation hands its work over to these threads, which takes some microseconds; a whole computation inside
    /// [`Self::install`] is handed over once.
    ///
    /// # Errors
    /// [`CandleError::Threads`] if they cannot be started.
    pub fn with_threads(mut self, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("edict-{i}"))
            .build()
            .map_err(|source| CandleError::Threads { threads, source })?;
        self.pool = Some(Arc::new(pool));
        Ok(self)
    }

    /// Keeps the weights of linear maps and convolutions in a half format, `F16` or `BF16`, while the networks compute in f32.
    ///
    /// The weights take half the memory; everything else, biases, norms and embeddings included, stays as it was. Each weight is rounded
    /// once, when it is loaded: to 11 bits as `F16`, to 8 as `BF16`; a model whose files hold that format loses nothing. Weights are
    /// widened a block at a time while they are multiplied. A copy of the back end for another precision
    /// ([`Backend::with_dtype`]) keeps weights in that precision.
    ///
    /// # Errors
    /// [`CandleError::Weights`] if the device is not the processor, the networks do not compute in f32, or `weights` is no half
    /// format.
    pub fn with_weights(mut self, weights: DType) -> Result<Self> {
        if !self.device.is_cpu() || self.dtype != DType::F32 || !matches!(weights, DType::F16 | DType::BF16) {
            return Err(CandleError::Weights { weights, dtype: self.dtype });
        }
        self.weights = Some(weights);
        Ok(self)
    }

    /// Runs a computation on this back end's threads.
    pub fn install<R: Send>(&self, computation: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(computation),
            None => computation(),
        }
    }

    /// Returns the number of threads that operations on the processor use.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads())
    }

    /// Returns candle's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn load(&self, raw: &RawTensor<'_>) -> Result<Tensor> {
        weights::load(raw, self.dtype, &self.device)
    }

    /// Loads what will be packed.
    fn load_matrix(&self, raw: &RawTensor<'_>) -> Result<Tensor> {
        let dtype = self.weights.filter(|_| self.dtype == DType::F32).unwrap_or(self.dtype);
        weights::load(raw, dtype, &self.device)
    }
}

impl Backend for CandleBackend {
    type Tensor = Tensor;
    type Conv2d = Conv2d;
    type Linear = Linear;
    type Norm = Norm;
    type Error = CandleError;

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    fn load_conv2d(
        &self,
        weight: RawTensor<'_>,
        bias: Option<RawTensor<'_>>,
        geometry: Conv2dGeometry,
    ) -> Result<Conv2d> {
        self.install(|| {
            let bias = bias.map(|bias| self.load(&bias)).transpose()?;
            Conv2d::new(self.load_matrix(&weight)?, bias, geometry)
        })
    }

    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Result<Linear> {
        self.install(|| {
            let bias = bias.map(|bias| self.load(&bias)).transpose()?;
            Linear::new(self.load_matrix(&weight)?, bias)
        })
    }

    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Result<Norm> {
        self.install(|| Norm::new(self.load(&weight)?, self.load(&bias)?))
    }

    fn load_table(&self, table: RawTensor<'_>) -> Result<Tensor> {
        self.install(|| self.load(&table))
    }

    fn upload(&self, values: ArrayViewD<'_, f64>) -> Result<Tensor> {
        weights::upload(values.iter().copied(), values.shape(), self.dtype, &self.device)
    }

    fn download(&self, tensor: &Tensor) -> Result<ArrayD<f64>> {
        let values = weights::download(tensor)?;
        let found = values.len();
        ArrayD::from_shape_vec(IxDyn(tensor.dims()), values).map_err(|_| CandleError::Shape {
            operation: "download",
            expected: "as many elements as the shape says",
            found: vec![tensor.dims().to_vec(), vec![found]],
        })
    }

    fn conv2d(&self, image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
        self.install(|| conv::conv2d(image, conv))
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.install(|| linear::linear(x, linear))
    }

    fn group_norm(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Result<Tensor> {
        self.install(|| norm::group_norm(image, norm, groups, eps, false))
    }

    fn group_norm_silu(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Result<Tensor> {
        self.install(|| norm::group_norm(image, norm, groups, eps, true))
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm, eps: f64) -> Result<Tensor> {
        self.install(|| norm::layer_norm(x, norm, eps))
    }

    fn attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Result<Tensor> {
        self.install(|| attention::attention(query, key, value, heads, options))
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        self.install(|| activation::geglu(x))
    }

    fn linear_geglu(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.install(|| linear::linear_geglu(x, linear))
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.install(|| activation::gelu(x))
    }

    fn quick_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.install(|| activation::quick_gelu(x))
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor> {
        self.install(|| activation::silu(x))
    }

    fn upsample_to(&self, image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.install(|| shape::upsample_to(image, height, width))
    }

    fn concat_channels(&self, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        self.install(|| shape::concat_channels(first, second))
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.install(|| activation::add(x, y))
    }

    fn add_channel_bias(&self, image: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.install(|| shape::add_channel_bias(image, bias))
    }

    fn scale(&self, x: &Tensor, factor: f64) -> Result<Tensor> {
        self.install(|| activation::scale(x, factor))
    }

    fn image_to_tokens(&self, image: &Tensor) -> Result<Tensor> {
        self.install(|| shape::image_to_tokens(image))
    }

    fn tokens_to_image(&self, tokens: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.install(|| shape::tokens_to_image(tokens, height, width))
    }

    fn embed(&self, table: &Tensor, ids: ArrayView2<'_, u32>) -> Result<Tensor> {
        shape::embed(table, ids, &self.device)
    }

    fn image_size(&self, image: &Tensor) -> [usize; 2] {
        match *image.dims() {
            [.., height, width] => [height, width],
            _ => [0, 0],
        }
    }
}
