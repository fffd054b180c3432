//! What can go wrong on this back end.

use edict_stable_diffusion::DType;

/// An error of the PyTorch back end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TchError {
    /// A device's name could not be read, or is not one of PyTorch's here.
    #[error("unknown device `{name}`: the tch back end has `cpu` and `cuda:N` (for example `cuda:0`)")]
    UnknownDevice {
        /// The name as it was given.
        name: String,
    },

    /// The libtorch that was loaded is not the one that the program was built with.
    #[error(
        "edict-tch needs libtorch 2.11.0, and the one that was loaded is {found}: run `cargo xtask libtorch` and build again, or see to \
         LD_LIBRARY_PATH"
    )]
    Version {
        /// The version that was loaded.
        found: String,
    },

    /// The part of libtorch that computes on GPUs could not be loaded.
    #[error(
        "device `{device}` cannot be used: {reason}; a PyTorch 2.11.0 with all its CUDA libraries is needed, for example that of \
         Python (set LIBTORCH to its folder and build again)"
    )]
    CudaNotLoaded {
        /// The device as it would be written on the command line.
        device: String,
        /// What the loader or PyTorch says.
        reason: String,
    },

    /// There is no GPU of this number.
    #[error(
        "device `{device}` cannot be used: PyTorch finds {found} GPUs on this machine; use `cpu`, or see to the driver"
    )]
    DeviceUnavailable {
        /// The device as it would be written on the command line.
        device: String,
        /// How many GPUs there are.
        found: usize,
    },

    /// PyTorch takes no such number of threads.
    #[error("PyTorch cannot use {threads} threads")]
    Threads {
        /// The number asked for.
        threads: usize,
    },

    /// PyTorch's settings could not be made.
    #[error("PyTorch refuses its settings: {reason}")]
    Settings {
        /// What PyTorch says.
        reason: String,
    },

    /// A parameter's bytes are too few or too many for its shape.
    #[error("a {dtype} tensor of shape {shape:?} should have {expected} bytes, found {found}")]
    DataLength {
        /// Element format.
        dtype: DType,
        /// Extents, outermost first.
        shape: Vec<usize>,
        /// Bytes the shape stands for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },

    /// An operation was given shapes that do not fit it, or each other.
    #[error("{operation}: expected {expected}, found {found:?}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// The shapes it takes.
        expected: &'static str,
        /// The shapes (or numbers) it was given.
        found: Vec<Vec<usize>>,
    },

    /// A row of a table was asked for that it does not have.
    #[error("embed: id {id} is outside the table's {rows} rows")]
    IdOutOfRange {
        /// The id asked for.
        id: u32,
        /// Number of rows.
        rows: usize,
    },

    /// A tensor of one element type met an operation that was expecting another.
    #[error("{operation}: expected element type {expected}, found {found}")]
    ElementType {
        /// The operation.
        operation: &'static str,
        /// The element type of its other arguments.
        expected: DType,
        /// The element type it was given.
        found: DType,
    },

    /// There is not enough memory on the device.
    #[error("out of memory: {reason}; a smaller picture, `f16`, or another device needs less")]
    Memory {
        /// What PyTorch says.
        reason: String,
    },

    /// PyTorch refused or failed.
    #[error("PyTorch: {0}")]
    Torch(String),
}

impl TchError {
    /// An error that PyTorch reports through the shim.
    pub(crate) fn from_shim(reason: String) -> Self {
        tch::TchError::Torch(reason).into()
    }
}

impl From<tch::TchError> for TchError {
    fn from(error: tch::TchError) -> Self {
        let text = match error {
            tch::TchError::Torch(text) => text,
            other => other.to_string(),
        };
        // What follows is a stack of C++.
        let reason = text.lines().next().unwrap_or_default().trim().to_owned();
        // Of PyTorch's allocators, of C++, of cuBLAS and cuDNN, and of oneDNN.
        let signs = [
            "out of memory",
            "can't allocate memory",
            "not enough memory",
            "bad_alloc",
            "ALLOC_FAILED",
            "out_of_memory",
        ];
        if signs.iter().any(|sign| reason.contains(sign)) {
            return Self::Memory { reason };
        }
        Self::Torch(reason)
    }
}

/// The result of an operation on this back end.
pub(crate) type Result<T> = std::result::Result<T, TchError>;

#[cfg(test)]
mod tch_tests {
    use super::*;

    #[test]
    fn tells_a_lack_of_memory_from_other_failures() {
        let error = |text: &str| TchError::from(tch::TchError::Torch(text.to_owned()));
        for text in [
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB\nException raised from ..",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
            "std::bad_alloc",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        ] {
            let error = error(text).to_string();
            assert!(error.starts_with("out of memory: ") && error.contains("a smaller picture"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error =
            error("The size of tensor a (3) must match the size of tensor b (4)\nException raised from ..");
        assert_eq!(
            error.to_string(),
            "PyTorch: The size of tensor a (3) must match the size of tensor b (4)"
        );
    }
}
