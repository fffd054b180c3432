//! The back end on candle: what every back end has to do, and what only this one does.

#[path = "../../../../tests/support/backend/mod.rs"]
mod backend;
mod devices;
mod threads;
mod weights;

use backend::{Complaint, Tested};
use edict_candle::{CandleBackend, CandleError};
use edict_stable_diffusion::DType;

struct Candle;

impl Tested for Candle {
    type Backend = CandleBackend;

    const ATTENTION_KEEPS_NAN: bool = true;

    fn cpu(dtype: DType) -> CandleBackend {
        CandleBackend::cpu(dtype)
    }

    fn with_threads(dtype: DType, threads: usize) -> CandleBackend {
        CandleBackend::cpu(dtype).with_threads(threads).unwrap()
    }

    fn threads(backend: &CandleBackend) -> usize {
        backend.threads()
    }

    fn complaint(error: &CandleError) -> Complaint {
        match *error {
            CandleError::Shape { operation, .. } => Complaint::Shape(operation),
            CandleError::IdOutOfRange { id, rows } => Complaint::Id { id, rows },
            CandleError::DataLength { found, .. } => Complaint::DataLength(found),
            _ => Complaint::Other,
        }
    }

    fn gelu_bound(x: f64, expected: f64) -> f64 {
        // The argument of the exponential, z^2/2 <= 112, is rounded once on either side; the oracle's series loses more
        // digits from 0.5 - Phi the nearer z is to 3.
        let relative = if (-3.0..-1.0).contains(&x) { 1e-12 } else { 1e-13 };
        relative * expected.abs()
    }
}

backend::backend_tests!(crate::Candle);
