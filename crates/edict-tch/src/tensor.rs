//! A tensor that threads can share.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use edict_stable_diffusion::DType;

use crate::error::{Result, TchError};

/// An activation or parameter on the device.
///
/// Cloning shares storage, and nothing writes to it any more.
#[derive(Clone)]
pub struct Tensor {
    /// tch's tensors may be sent to other threads, not looked at from two at once: the lock is held while a handle is copied.
    handle: Arc<Mutex<tch::Tensor>>,
    dims: Arc<[usize]>,
    dtype: DType,
}

impl Tensor {
    /// Takes over a tensor of PyTorch's.
    ///
    /// # Errors
    /// [`TchError::Torch`] if its elements are none of the four formats.
    pub(crate) fn new(tensor: tch::Tensor) -> Result<Self> {
        let dims = tensor.size().into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
        let dtype = match tensor.f_kind()? {
            tch::Kind::Half => DType::F16,
            tch::Kind::BFloat16 => DType::BF16,
            tch::Kind::Float => DType::F32,
            tch::Kind::Double => DType::F64,
            other => return Err(TchError::Torch(format!("elements of kind {other:?} are not supported"))),
        };
        Ok(Self { handle: Arc::new(Mutex::new(tensor)), dims, dtype })
    }

    /// Returns the extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns PyTorch's tensor, which shares storage with this one: writing to it is seen by every clone.
    pub fn tch(&self) -> tch::Tensor {
        // A panic in between leaves the handle as it was.
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor").field("dims", &self.dims).field("dtype", &self.dtype).finish_non_exhaustive()
    }
}

/// PyTorch's name of an element type.
pub(crate) fn kind(dtype: DType) -> tch::Kind {
    match dtype {
        DType::F16 => tch::Kind::Half,
        DType::BF16 => tch::Kind::BFloat16,
        DType::F32 => tch::Kind::Float,
        DType::F64 => tch::Kind::Double,
    }
}
