//! What can go wrong on this back end.

use edict_stable_diffusion::DType;

/// An error of the candle back end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CandleError {
    /// A device's name could not be read.
    #[error("unknown device `{name}`: expected `cpu`, `cuda:N` (for example `cuda:0`) or `metal`")]
    UnknownDevice {
        /// The name as it was given.
        name: String,
    },

    /// A device was asked for that this build has no code for.
    #[error("this build has no {name} support: build with `--features {feature}`")]
    DeviceNotBuilt {
        /// The device family.
        name: &'static str,
        /// The crate feature that adds it.
        feature: &'static str,
    },

    /// A device could not be opened.
    #[error("device `{device}` cannot be used")]
    DeviceUnavailable {
        /// The device as it would be written on the command line.
        device: String,
        /// What candle reports.
        source: Box<candle_core::Error>,
    },

    /// A pool of threads could not be started.
    #[error("a pool of {threads} threads cannot be started")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// What rayon reports.
        source: rayon::ThreadPoolBuildError,
    },

    /// Weights were to be kept in a format that the networks' precision or the device does not allow.
    #[error(
        "weights can be kept in {weights} where the networks compute in f32 on the cpu, not in {dtype} on this device"
    )]
    Weights {
        /// The format asked for.
        weights: DType,
        /// Element type of the networks.
        dtype: DType,
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
    #[error("{operation}: element type {found:?} is not supported")]
    ElementType {
        /// The operation.
        operation: &'static str,
        /// The element type it was given.
        found: candle_core::DType,
    },

    /// candle refused or failed.
    #[error("candle: {0}")]
    Candle(Box<candle_core::Error>),
}

impl From<candle_core::Error> for CandleError {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(Box::new(error))
    }
}

/// The result of an operation on this back end.
pub(crate) type Result<T> = std::result::Result<T, CandleError>;
