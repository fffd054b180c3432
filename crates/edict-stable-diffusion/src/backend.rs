//! What a tensor library must offer so that Stable Diffusion runs on it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use ndarray::{ArrayD, ArrayView2, ArrayViewD};

/// Floating-point format of a tensor, on disk or in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl DType {
    /// Returns the size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Returns the lower-case name: `f16`, `bf16`, `f32` or `f64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A parameter as it stands in a weight file: little-endian bytes in row-major order.
///
/// `data.len()` is `shape.iter().product() * dtype.size()`; the bytes need not be aligned.
#[derive(Clone, Debug)]
pub struct RawTensor<'a> {
    /// Format of the elements.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// The elements' bytes.
    pub data: Cow<'a, [u8]>,
}

/// How a convolution window moves; its size is that of the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGeometry {
    /// Distance between windows, the same along both axes.
    pub stride: usize,
    /// Rows of zeros above and columns of zeros to the left of the image.
    pub padding_before: usize,
    /// Rows of zeros below and columns of zeros to the right of the image.
    pub padding_after: usize,
}

/// How scores are formed in [`Backend::attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AttentionOptions {
    /// Lets a query see only keys at its own position and before it.
    pub causal: bool,
    /// Computes scores and softmax in f32 where the tensors have fewer bits (`upcast_attention`).
    pub upcast: bool,
}

/// A tensor library with its device, element type, thread count and determinism settings.
///
/// The networks of this crate are written against this trait alone. Activations are `[batch, channels, height, width]`
/// ("images") or `[batch, tokens, channels]` ("tokens"); how they lie in memory is the back end's business. Every operation
/// is deterministic: equal arguments, bitwise equal results, as long as the shapes (the batch among them) are equal.
///
/// Shapes are checked when a model is loaded; an operation given shapes that do not fit returns an error, it does not panic.
pub trait Backend: Clone + Send + Sync {
    /// An activation or a parameter vector; cloning shares storage.
    type Tensor: Clone + fmt::Debug + Send + Sync;
    /// A convolution's parameters, prepared (packed, converted) once at load.
    type Conv2d: fmt::Debug + Send + Sync;
    /// A linear map's parameters, prepared once at load.
    type Linear: fmt::Debug + Send + Sync;
    /// Scale and shift of a group or layer norm.
    type Norm: fmt::Debug + Send + Sync;
    /// What can go wrong in an operation.
    type Error: Error + Send + Sync + 'static;

    /// Returns the element type activations have.
    fn dtype(&self) -> DType;

    /// Returns the same device and settings with another element type.
    fn with_dtype(&self, dtype: DType) -> Self;

    // --- parameters -----------------------------------------------------------------------------------------------------

    /// Prepares a convolution: `weight` is `[out, in, kernel, kernel]`, `bias` `[out]`.
    fn load_conv2d(
        &self,
        weight: RawTensor<'_>,
        bias: Option<RawTensor<'_>>,
        geometry: Conv2dGeometry,
    ) -> Result<Self::Conv2d, Self::Error>;

    /// Prepares a linear map: `weight` is `[out, in]`, `bias` `[out]`.
    fn load_linear(
        &self,
        weight: RawTensor<'_>,
        bias: Option<RawTensor<'_>>,
    ) -> Result<Self::Linear, Self::Error>;

    /// Prepares a norm over `channels` channels: `weight` and `bias` are `[channels]`.
    fn load_norm(&self, weight: RawTensor<'_>, bias: RawTensor<'_>) -> Result<Self::Norm, Self::Error>;

    /// Puts a table of embeddings `[rows, channels]` on the device.
    fn load_table(&self, table: RawTensor<'_>) -> Result<Self::Tensor, Self::Error>;

    // --- host transfer --------------------------------------------------------------------------------------------------

    /// Copies host values to the device, rounding each once to [`Self::dtype`].
    fn upload(&self, values: ArrayViewD<'_, f64>) -> Result<Self::Tensor, Self::Error>;

    /// Copies a tensor to the host; every element type is exact in f64.
    fn download(&self, tensor: &Self::Tensor) -> Result<ArrayD<f64>, Self::Error>;

    // --- layers ---------------------------------------------------------------------------------------------------------

    /// Convolves an image.
    fn conv2d(&self, image: &Self::Tensor, conv: &Self::Conv2d) -> Result<Self::Tensor, Self::Error>;

    /// Applies a linear map to the last axis of a tensor of any rank.
    fn linear(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor, Self::Error>;

    /// Normalises each of `groups` channel groups of an image to mean 0 and variance 1, then scales and shifts channels.
    fn group_norm(
        &self,
        image: &Self::Tensor,
        norm: &Self::Norm,
        groups: usize,
        eps: f64,
    ) -> Result<Self::Tensor, Self::Error>;

    /// [`Self::group_norm`] followed by [`Self::silu`]; one pass where the back end can.
    fn group_norm_silu(
        &self,
        image: &Self::Tensor,
        norm: &Self::Norm,
        groups: usize,
        eps: f64,
    ) -> Result<Self::Tensor, Self::Error> {
        self.silu(&self.group_norm(image, norm, groups, eps)?)
    }

    /// Normalises the last axis to mean 0 and variance 1, then scales and shifts.
    fn layer_norm(&self, x: &Self::Tensor, norm: &Self::Norm, eps: f64) -> Result<Self::Tensor, Self::Error>;

    /// Computes `softmax(q k^T / sqrt(channels / heads)) v` head by head.
    ///
    /// `query` is `[batch, n, channels]`, `key` `[batch, m, channels]`, `value` `[batch, m, channels]`; heads are
    /// consecutive channels. Returns `[batch, n, channels]`. Scores are formed in blocks, never as a whole `n x m` matrix
    /// per head.
    fn attention(
        &self,
        query: &Self::Tensor,
        key: &Self::Tensor,
        value: &Self::Tensor,
        heads: usize,
        options: AttentionOptions,
    ) -> Result<Self::Tensor, Self::Error>;

    // --- activations ----------------------------------------------------------------------------------------------------

    /// Splits the last axis in halves `u`, `g` and returns `u gelu(g)`.
    fn geglu(&self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Applies a linear map and then [`Self::geglu`].
    ///
    /// Override it to keep the map's result, twice as wide as what is returned, out of memory.
    fn linear_geglu(&self, x: &Self::Tensor, linear: &Self::Linear) -> Result<Self::Tensor, Self::Error> {
        self.geglu(&self.linear(x, linear)?)
    }

    /// Computes `x Phi(x)` with the error function (not its tanh approximation).
    fn gelu(&self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Computes `x / (1 + exp(-1.702 x))`.
    fn quick_gelu(&self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Computes `x / (1 + exp(-x))`.
    fn silu(&self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    // --- shape and sums -------------------------------------------------------------------------------------------------

    /// Repeats pixels to the nearest-neighbour image of `height x width`.
    ///
    /// Pixel `i` of an output axis of extent `n` is input pixel `floor(i m / n)` of extent `m`.
    fn upsample_to(
        &self,
        image: &Self::Tensor,
        height: usize,
        width: usize,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Joins images along their channels, `first` first.
    fn concat_channels(
        &self,
        first: &Self::Tensor,
        second: &Self::Tensor,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Adds tensors of one shape.
    fn add(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Adds `bias` `[batch, channels]` to every pixel of an image.
    fn add_channel_bias(
        &self,
        image: &Self::Tensor,
        bias: &Self::Tensor,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Multiplies by a number.
    fn scale(&self, x: &Self::Tensor, factor: f64) -> Result<Self::Tensor, Self::Error>;

    /// Turns an image into tokens, one a pixel, in reading order.
    fn image_to_tokens(&self, image: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Turns `height * width` tokens back into an image.
    fn tokens_to_image(
        &self,
        tokens: &Self::Tensor,
        height: usize,
        width: usize,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Looks up rows of a table: `ids` `[batch, n]` gives tokens `[batch, n, channels]`.
    fn embed(&self, table: &Self::Tensor, ids: ArrayView2<'_, u32>) -> Result<Self::Tensor, Self::Error>;

    /// Returns an image's `[height, width]`.
    fn image_size(&self, image: &Self::Tensor) -> [usize; 2];
}
