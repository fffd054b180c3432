//! The back end itself: a device, an element type and PyTorch's settings.

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::{ArrayD, ArrayView2, ArrayViewD, IxDyn};
use tch::Device;

use crate::device::DeviceSpec;
use crate::error::{Result, TchError};
use crate::kernels::{activation, attention, conv, linear, norm, shape};
use crate::settings::{self, Settings};
use crate::tensor::Tensor;
use crate::weights::{self, Conv2d, Linear, Norm};

/// Stable Diffusion's operations on PyTorch's tensors.
#[derive(Clone, Debug)]
pub struct TchBackend {
    device: Device,
    dtype: DType,
    settings: Settings,
}

impl TchBackend {
    /// Computes on the processor, on as many threads as PyTorch had when the process made its first back end.
    pub fn cpu(dtype: DType) -> Self {
        Self { device: Device::Cpu, dtype, settings: Settings::exact() }
    }

    /// Computes on the named device.
    ///
    /// # Errors
    /// [`TchError::Version`] if another libtorch was loaded than the one that this crate was built with, [`TchError::CudaNotLoaded`] if
    /// its CUDA libraries cannot be loaded, [`TchError::DeviceUnavailable`] if the machine has no such GPU.
    pub fn new(device: DeviceSpec, dtype: DType) -> Result<Self> {
        settings::check_version()?;
        // The device first: PyTorch finds out once and for all whether CUDA is there.
        let device = device.open()?;
        Ok(Self { device, dtype, settings: Settings::exact() })
    }

    /// Computes on `threads` threads (0: as many as the processor has).
    ///
    /// # Errors
    /// [`TchError::Threads`] if PyTorch cannot count that far.
    pub fn with_threads(mut self, threads: usize) -> Result<Self> {
        let wanted = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        self.settings.threads = i32::try_from(wanted).map_err(|_| TchError::Threads { threads })?;
        Ok(self)
    }

    /// Lets PyTorch take its fastest kernels if `fast`: cuDNN's own search, TF32, sums in whatever order. A network may then answer
    /// one question in two ways, and exact inversion is not promised.
    ///
    /// PyTorch has one such setting for the process: operations of fast and of other back ends wait for each other.
    #[must_use]
    pub fn with_fast_kernels(mut self, fast: bool) -> Self {
        self.settings.exact = !fast;
        self
    }

    /// Returns the number of threads that operations on the processor use.
    pub fn threads(&self) -> usize {
        usize::try_from(self.settings.threads).unwrap_or(1)
    }

    /// Runs an operation under this back end's settings, and without a record for gradients.
    fn run<T>(&self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let _settings = self.settings.hold()?;
        let _without_gradients = tch::no_grad_guard();
        operation()
    }

    fn load(&self, raw: &RawTensor<'_>) -> Result<Tensor> {
        weights::load(raw, self.dtype, self.device)
    }
}

impl Backend for TchBackend {
    type Tensor = Tensor;
    type Conv2d = Conv2d;
    type Linear = Linear;
    type Norm = Norm;
    type Error = TchError;

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
        self.run(|| {
            let bias = bias.map(|bias| self.load(&bias)).transpose()?;
            Conv2d::new(self.load(&weight)?, bias, geometry)
        })
    }

    fn load_linear(&self, weight: RawTensor<'_>, bias: Option<RawTensor<'_>>) -> Result<Linear> {
        self.run(|| {
            let bias = bias.map(|bias| self.load(&bias)).transpose()?;
            Linear::new(self.load(&weight)?, bias)
        })
    }

    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Result<Norm> {
        self.run(|| Norm::new(self.load(&weight)?, self.load(&bias)?))
    }

    fn load_table(&self, table: RawTensor<'_>) -> Result<Tensor> {
        self.run(|| self.load(&table))
    }

    fn upload(&self, values: ArrayViewD<'_, f64>) -> Result<Tensor> {
        self.run(|| weights::upload(values.iter().copied(), values.shape(), self.dtype, self.device))
    }

    fn download(&self, tensor: &Tensor) -> Result<ArrayD<f64>> {
        let values = self.run(|| weights::download(tensor))?;
        let found = values.len();
        ArrayD::from_shape_vec(IxDyn(tensor.dims()), values).map_err(|_| TchError::Shape {
            operation: "download",
            expected: "as many elements as the shape says",
            found: vec![tensor.dims().to_vec(), vec![found]],
        })
    }

    fn conv2d(&self, image: &Tensor, conv: &Conv2d) -> Result<Tensor> {
        self.run(|| conv::conv2d(image, conv))
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.run(|| linear::linear(x, linear))
    }

    fn group_norm(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Result<Tensor> {
        self.run(|| norm::group_norm(image, norm, groups, eps, false))
    }

    fn group_norm_silu(&self, image: &Tensor, norm: &Norm, groups: usize, eps: f64) -> Result<Tensor> {
        self.run(|| norm::group_norm(image, norm, groups, eps, true))
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm, eps: f64) -> Result<Tensor> {
        self.run(|| norm::layer_norm(x, norm, eps))
    }

    fn attention(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Result<Tensor> {
        self.run(|| attention::attention(query, key, value, heads, options))
    }

    fn geglu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(|| activation::geglu(x))
    }

    fn linear_geglu(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        self.run(|| linear::linear_geglu(x, linear))
    }

    fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(|| activation::gelu(x))
    }

    fn quick_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(|| activation::quick_gelu(x))
    }

    fn silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(|| activation::silu(x))
    }

    fn upsample_to(&self, image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.run(|| shape::upsample_to(image, height, width))
    }

    fn concat_channels(&self, first: &Tensor, second: &Tensor) -> Result<Tensor> {
        self.run(|| shape::concat_channels(first, second))
    }

    fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.run(|| activation::add(x, y))
    }

    fn add_channel_bias(&self, image: &Tensor, bias: &Tensor) -> Result<Tensor> {
        self.run(|| shape::add_channel_bias(image, bias))
    }

    fn scale(&self, x: &Tensor, factor: f64) -> Result<Tensor> {
        self.run(|| activation::scale(x, factor))
    }

    fn image_to_tokens(&self, image: &Tensor) -> Result<Tensor> {
        self.run(|| shape::image_to_tokens(image))
    }

    fn tokens_to_image(&self, tokens: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.run(|| shape::tokens_to_image(tokens, height, width))
    }

    fn embed(&self, table: &Tensor, ids: ArrayView2<'_, u32>) -> Result<Tensor> {
        self.run(|| shape::embed(table, ids, self.device))
    }

    fn image_size(&self, image: &Tensor) -> [usize; 2] {
        match *image.dims() {
            [.., height, width] => [height, width],
            _ => [0, 0],
        }
    }
}
