//! Parameters: from the bytes of a file to tensors of the network's element type.

use candle_core::{CpuStorage, DType as CandleDType, Device, Storage, Tensor, WithDType};
use edict_stable_diffusion::{Conv2dGeometry, DType, RawTensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::{CandleError, Result};
use crate::kernels::aligned::Aligned;
use crate::kernels::misfit;
use crate::kernels::panels::Panels;

/// A convolution's parameters.
#[derive(Debug)]
pub struct Conv2d {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Side of the window.
    pub(crate) kernel: usize,
    pub(crate) weight: Weight,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
    pub(crate) geometry: Conv2dGeometry,
}

impl Conv2d {
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>, geometry: Conv2dGeometry) -> Result<Self> {
        let (outputs, inputs, kernel) = match *weight.dims() {
            [outputs, inputs, rows, columns]
                if rows == columns
                    && rows > 0
                    && bias_fits(&weight, bias.as_ref())
                    && geometry.stride > 0 =>
            {
                (outputs, inputs, rows)
            }
            _ => {
                let bias = bias.as_ref().map_or(&[][..], Tensor::dims);
                return Err(misfit(
                    "load_conv2d",
                    "a weight [out, in, kernel, kernel], a bias [out] or none, a stride above 0",
                    &[weight.dims(), bias, &[geometry.stride]],
                ));
            }
        };
        // From `[in, kernel, kernel]` to `[kernel, kernel, in]`: the channels of a pixel lie side by side.
        let places = kernel * kernel;
        let weight = Weight::new(weight, outputs, inputs * places, |k| k % inputs * places + k / inputs)?;
        Ok(Self { outputs, inputs, kernel, weight, bias, geometry })
    }
}

/// A linear map's parameters.
#[derive(Debug)]
pub struct Linear {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) weight: Weight,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (outputs, inputs) = match *weight.dims() {
            [outputs, inputs] if bias_fits(&weight, bias.as_ref()) => (outputs, inputs),
            _ => {
                let bias = bias.as_ref().map_or(&[][..], Tensor::dims);
                return Err(misfit(
                    "load_linear",
                    "a weight [out, in], a bias [out] or none",
                    &[weight.dims(), bias],
                ));
            }
        };
        Ok(Self { outputs, inputs, weight: Weight::new(weight, outputs, inputs, |k| k)?, bias })
    }
}

/// A matrix of weights where it is computed with.
#[derive(Debug)]
pub(crate) enum Weight {
    /// On the CPU, packed.
    Packed(Panels),
    /// On another device, as it was loaded.
    Tensor(Tensor),
}

impl Weight {
    fn new(
        weight: Tensor,
        outputs: usize,
        depth: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Self> {
        if !weight.device().is_cpu() {
            return Ok(Self::Tensor(weight));
        }
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        if layout.start_offset() != 0 {
            return Err(misfit("pack", "a weight at the start of its storage", &[weight.dims()]));
        }
        let Storage::Cpu(storage) = &*storage else {
            return Err(CandleError::ElementType { operation: "pack", found: weight.dtype() });
        };
        Ok(Self::Packed(match storage {
            CpuStorage::F64(values) => Panels::pack(values, outputs, depth, source),
            CpuStorage::F32(values) => Panels::pack(values, outputs, depth, source),
            CpuStorage::F16(values) => Panels::pack(values, outputs, depth, source),
            CpuStorage::BF16(values) => Panels::pack(values, outputs, depth, source),
            _ => return Err(CandleError::ElementType { operation: "pack", found: weight.dtype() }),
        }))
    }
}

/// Scale and shift of a group or layer norm.
#[derive(Debug)]
pub struct Norm {
    /// `[channels]`.
    pub(crate) weight: Tensor,
    /// `[channels]`.
    pub(crate) bias: Tensor,
}

impl Norm {
    pub(crate) fn new(weight: Tensor, bias: Tensor) -> Result<Self> {
        if weight.rank() != 1 || bias.dims() != weight.dims() {
            return Err(misfit("load_norm", "a weight and a bias [channels]", &[weight.dims(), bias.dims()]));
        }
        Ok(Self { weight, bias })
    }

    pub(crate) fn channels(&self) -> usize {
        self.weight.elem_count()
    }
}

/// Tells whether there is no bias or one for each of the weight's outputs.
fn bias_fits(weight: &Tensor, bias: Option<&Tensor>) -> bool {
    bias.is_none_or(|bias| bias.rank() == 1 && bias.dims().first() == weight.dims().first())
}

/// Reads a parameter to the device, rounding each element once to `dtype`.
pub(crate) fn load(raw: &RawTensor<'_>, dtype: DType, device: &Device) -> Result<Tensor> {
    let expected = raw
        .shape
        .iter()
        .try_fold(raw.dtype.size(), |bytes, &extent| bytes.checked_mul(extent))
        .unwrap_or(usize::MAX);
    if raw.data.len() != expected {
        return Err(CandleError::DataLength {
            dtype: raw.dtype,
            shape: raw.shape.clone(),
            expected,
            found: raw.data.len(),
        });
    }
    match dtype {
        DType::F16 => load_as::<f16>(raw, device),
        DType::BF16 => load_as::<bf16>(raw, device),
        DType::F32 => load_as::<f32>(raw, device),
        DType::F64 => load_as::<f64>(raw, device),
    }
}

fn load_as<T: Element>(raw: &RawTensor<'_>, device: &Device) -> Result<Tensor> {
    let values: Vec<T> = match raw.dtype {
        DType::F16 => decode(&raw.data, |bytes| T::nearest32(f16::from_le_bytes(bytes).to_f32())),
        DType::BF16 => decode(&raw.data, |bytes| T::nearest32(bf16::from_le_bytes(bytes).to_f32())),
        DType::F32 => decode(&raw.data, |bytes| T::nearest32(f32::from_le_bytes(bytes))),
        DType::F64 => decode(&raw.data, |bytes| T::nearest64(f64::from_le_bytes(bytes))),
    };
    Ok(Tensor::from_vec(values, raw.shape.as_slice(), device)?)
}

/// Decodes elements of `N` bytes each.
fn decode<const N: usize, T: Element>(data: &[u8], read: impl Fn([u8; N]) -> T + Sync + Send) -> Vec<T> {
    const TASK: usize = 1 << 16;
    data.as_chunks::<N>().0.par_iter().with_min_len(TASK).map(|bytes| read(*bytes)).collect()
}

/// Puts host values on the device, rounding each once to `dtype`.
pub(crate) fn upload(
    values: impl ExactSizeIterator<Item = f64>,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    fn put<T: Element>(
        values: impl Iterator<Item = f64>,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        let values: Vec<T> = values.map(T::nearest64).collect();
        if device.is_cpu() {
            return Aligned::copied(&values).into_tensor(shape);
        }
        Ok(Tensor::from_vec(values, shape, device)?)
    }
    match dtype {
        DType::F16 => put::<f16>(values, shape, device),
        DType::BF16 => put::<bf16>(values, shape, device),
        DType::F32 => put::<f32>(values, shape, device),
        DType::F64 => put::<f64>(values, shape, device),
    }
}

/// Copies a tensor's elements to the host in row-major order.
pub(crate) fn download(tensor: &Tensor) -> Result<Vec<f64>> {
    fn get<T: WithDType>(tensor: &Tensor) -> Result<Vec<f64>> {
        Ok(tensor.flatten_all()?.to_vec1::<T>()?.into_iter().map(WithDType::to_f64).collect())
    }
    // Widened here and not by candle: not every device has f64.
    match tensor.dtype() {
        CandleDType::F16 => get::<f16>(tensor),
        CandleDType::BF16 => get::<bf16>(tensor),
        CandleDType::F32 => get::<f32>(tensor),
        CandleDType::F64 => get::<f64>(tensor),
        found => Err(CandleError::ElementType { operation: "download", found }),
    }
}

/// An element of a tensor.
trait Element: WithDType {
    /// Rounds to nearest, ties to even, once.
    fn nearest32(x: f32) -> Self;
    /// Rounds to nearest, ties to even, once.
    fn nearest64(x: f64) -> Self;
}

impl Element for f64 {
    fn nearest32(x: f32) -> Self {
        x.into()
    }

    fn nearest64(x: f64) -> Self {
        x
    }
}

impl Element for f32 {
    fn nearest32(x: f32) -> Self {
        x
    }

    fn nearest64(x: f64) -> Self {
        x as Self
    }
}

// `half` converts from f64 by way of f32 on some processors, which rounds twice.
impl Element for f16 {
    fn nearest32(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn nearest64(x: f64) -> Self {
        Self::from_f32(round_to_odd(x))
    }
}

impl Element for bf16 {
    fn nearest32(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn nearest64(x: f64) -> Self {
        Self::from_f32(round_to_odd(x))
    }
}

/// Rounds to the f32 on the side of zero, with the last bit set if that was not exact.
///
/// A second rounding, to a format of at least two bits less, then gives what a single one from `x` would (S. Boldo and
/// G. Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE Transactions on Computers 57, 2008).
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let error = f64::from(nearest).abs() - x.abs();
    if error > 0.0 {
        f32::from_bits((nearest.to_bits() - 1) | 1)
    } else if error < 0.0 {
        f32::from_bits(nearest.to_bits() | 1)
    } else {
        nearest
    }
}
