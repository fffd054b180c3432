//! The back end on PyTorch: what every back end has to do, and what only this one does.

#[path = "../../../../tests/support/backend/mod.rs"]
mod backend;
mod devices;
mod fast;
mod threads;

use backend::{Complaint, Tested, oracle};
use edict_stable_diffusion::DType;
use edict_tch::{TchBackend, TchError};

struct Tch;

impl Tested for Tch {
    type Backend = TchBackend;

    // PyTorch answers 0 there, on the processor.
    const ATTENTION_KEEPS_NAN: bool = false;

    fn cpu(dtype: DType) -> TchBackend {
        TchBackend::cpu(dtype)
    }

    fn with_threads(dtype: DType, threads: usize) -> TchBackend {
        TchBackend::cpu(dtype).with_threads(threads).unwrap()
    }

    fn threads(backend: &TchBackend) -> usize {
        backend.threads()
    }

    fn complaint(error: &TchError) -> Complaint {
        match *error {
            TchError::Shape { operation, .. } => Complaint::Shape(operation),
            TchError::IdOutOfRange { id, rows } => Complaint::Id { id, rows },
            TchError::DataLength { found, .. } => Complaint::DataLength(found),
            _ => Complaint::Other,
        }
    }

    fn gelu_bound(x: f64, _: f64) -> f64 {
        // PyTorch computes x (1 + erf(x / sqrt 2)) / 2, of which little is left where erf is near -1.
        8.0 * oracle::rounding(DType::F64) * x.abs().max(1.0)
    }
}

backend::backend_tests!(crate::Tch);
