//! Parameters: from the bytes of a file to tensors of the network's element type.

use std::sync::{Mutex, PoisonError};

use edict_stable_diffusion::{Conv2dGeometry, DType, RawTensor};
use tch::{Device, Kind};

use crate::error::{Result, TchError};
use crate::kernels::{lie_by_pixels, misfit};
use crate::shim;
use crate::tensor::{Tensor, kind};

/// A convolution's parameters.
#[derive(Debug)]
pub struct Conv2d {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Side of the window.
    pub(crate) kernel: usize,
    /// The weight's element type.
    pub(crate) dtype: DType,
    weight: Mutex<Laid>,
    /// `[out]`.
    pub(crate) bias: Option<Tensor>,
    pub(crate) geometry: Conv2dGeometry,
}

/// A convolution's weight, `[out, in, kernel, kernel]`, and how it lies in memory.
#[derive(Debug)]
struct Laid {
    weight: Tensor,
    /// The shape of images for which oneDNN wants it so; none is row-major order.
    image: Option<[i64; 4]>,
    /// The shape of the last images for which it may not lie right.
    missed: Option<[i64; 4]>,
}

/// A convolution's weight for images of one shape.
pub(crate) enum ConvWeight {
    /// In row-major order.
    Plain(Tensor),
    /// As [`shim::conv2d`] takes it.
    Packed(tch::Tensor),
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
        let dtype = weight.dtype();
        let weight = Mutex::new(Laid { weight, image: None, missed: None });
        Ok(Self { outputs, inputs, kernel, dtype, weight, bias, geometry })
    }

    /// Returns the weight for images of this shape, which padding that is uneven has grown already.
    ///
    /// How oneDNN wants it depends on the image. Laid out for another it is laid out anew in every call, with the same results but by
    /// more work than the convolution of a small image. So it is laid out for the first image, and again for another shape that comes
    /// twice in a row: of shapes that alternate one has to wait.
    pub(crate) fn weight_for(&self, image: &tch::Tensor, [stride, padding]: [i64; 2]) -> Result<ConvWeight> {
        let mut laid = self.weight.lock().unwrap_or_else(PoisonError::into_inner);
        if lie_by_pixels(image)
            && self.dtype == DType::F32
            && image.numel() > 0
            && let Ok(shape) = <[i64; 4]>::try_from(image.size())
            && laid.image != Some(shape)
        {
            if laid.image.is_none() || laid.missed == Some(shape) {
                let packed = shim::pack_conv2d(&laid.weight.tch(), &shape, stride, padding)
                    .map_err(TchError::from_shim)?;
                if let Some(packed) = packed {
                    *laid = Laid { weight: Tensor::new(packed)?, image: Some(shape), missed: None };
                }
            } else {
                laid.missed = Some(shape);
            }
        }
        Ok(match laid.image {
            None => ConvWeight::Plain(laid.weight.clone()),
            Some(_) => ConvWeight::Packed(laid.weight.tch()),
        })
    }

    /// Returns the padding where it is the same on both sides; else the image is padded beforehand, and this is 0.
    pub(crate) fn even_padding(&self) -> usize {
        let Conv2dGeometry { padding_before, padding_after, .. } = self.geometry;
        if padding_before == padding_after { padding_before } else { 0 }
    }
}

/// A linear map's parameters.
#[derive(Debug)]
pub struct Linear {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// `[out, in]`.
    pub(crate) weight: Tensor,
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
        Ok(Self { outputs, inputs, weight, bias })
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
        if weight.dims().len() != 1 || bias.dims() != weight.dims() {
            return Err(misfit("load_norm", "a weight and a bias [channels]", &[weight.dims(), bias.dims()]));
        }
        Ok(Self { weight, bias })
    }

    pub(crate) fn channels(&self) -> usize {
        self.weight.dims().iter().product()
    }
}

/// Tells whether there is no bias or one for each of the weight's outputs.
fn bias_fits(weight: &Tensor, bias: Option<&Tensor>) -> bool {
    bias.is_none_or(|bias| bias.dims().len() == 1 && bias.dims().first() == weight.dims().first())
}

/// Reads a parameter to the device, rounding each element once to `dtype`.
pub(crate) fn load(raw: &RawTensor<'_>, dtype: DType, device: Device) -> Result<Tensor> {
    let expected = raw
        .shape
        .iter()
        .try_fold(raw.dtype.size(), |bytes, &extent| bytes.checked_mul(extent))
        .unwrap_or(usize::MAX);
    if raw.data.len() != expected {
        return Err(TchError::DataLength {
            dtype: raw.dtype,
            shape: raw.shape.clone(),
            expected,
            found: raw.data.len(),
        });
    }
    if raw.dtype == DType::F64 && is_half(dtype) {
        let (numbers, _) = raw.data.as_chunks();
        return upload(numbers.iter().map(|&bytes| f64::from_le_bytes(bytes)), &raw.shape, dtype, device);
    }
    let stored = tch::Tensor::f_from_data_size(&raw.data, &extents(&raw.shape)?, kind(raw.dtype))?;
    Tensor::new(stored.f_to_kind(kind(dtype))?.f_to_device(device)?)
}

/// Puts host values on the device, rounding each once to `dtype`.
pub(crate) fn upload(
    values: impl ExactSizeIterator<Item = f64>,
    shape: &[usize],
    dtype: DType,
    device: Device,
) -> Result<Tensor> {
    let shape = extents(shape)?;
    let tensor = if dtype == DType::F64 {
        tch::Tensor::f_from_slice(&values.collect::<Vec<f64>>())?
    } else if is_half(dtype) {
        // PyTorch converts from f64 by way of f32, which rounds twice.
        tch::Tensor::f_from_slice(&values.map(round_to_odd).collect::<Vec<f32>>())?
    } else {
        tch::Tensor::f_from_slice(&values.map(|x| x as f32).collect::<Vec<f32>>())?
    };
    Tensor::new(tensor.f_view_(shape)?.f_to_kind(kind(dtype))?.f_to_device(device)?)
}

/// Copies a tensor's elements to the host in row-major order.
pub(crate) fn download(tensor: &Tensor) -> Result<Vec<f64>> {
    let tensor = tensor.tch().f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
    let mut values = vec![0.0; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// Extents as PyTorch counts them.
fn extents(shape: &[usize]) -> Result<Vec<i64>> {
    let fits = |&n: &usize| i64::try_from(n).ok();
    shape
        .iter()
        .map(fits)
        .collect::<Option<_>>()
        .ok_or_else(|| misfit("load", "extents that PyTorch can count", &[shape]))
}

/// Tells whether a format has 16 bits.
pub(crate) fn is_half(dtype: DType) -> bool {
    dtype.size() == 2
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
