//! The candle back end of edict: Stable Diffusion on CPU and GPU in pure Rust.
//!
//! [`CandleBackend`] implements [`edict_stable_diffusion::Backend`] on candle's tensors. Where candle has no kernel for an
//! element type on the CPU, or one that is wasteful, `kernels` supplies it.
//!
//! # Precision on the CPU
//! `f64` and `f32` are computed in their own precision, statistics of norms and sums of softmaxes in `f64`. `f16` and
//! `bf16` are storage formats: every operation widens its arguments to `f32`, computes there (attention scores and softmax
//! too, so [`AttentionOptions::upcast`](edict_stable_diffusion::AttentionOptions) changes nothing) and rounds its result
//! once.
//!
//! # Determinism and threads
//! Each sum is formed in an order given by the shapes alone, so results are bitwise equal whatever the number of threads.
//! Work runs on rayon's global pool, or on a pool of the back end's own after [`CandleBackend::with_threads`].
//!
//! ```
//! use edict_candle::CandleBackend;
//! use edict_stable_diffusion::{Backend, DType};
//! use ndarray::arr1;
//!
//! let backend = CandleBackend::cpu(DType::F64);
//! let x = backend.upload(arr1(&[0.0, 1.0]).into_dyn().view())?;
//! let y = backend.download(&backend.silu(&x)?)?;
//! assert_eq!(y[[0]], 0.0);
//! # Ok::<(), edict_candle::CandleError>(())
//! ```
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backend;
mod device;
mod error;
mod kernels;
mod weights;

pub use backend::CandleBackend;
pub use device::DeviceSpec;
pub use error::CandleError;
pub use weights::{Conv2d, Linear, Norm};

/// An activation or parameter on the device, as candle has it.
pub use candle_core::Tensor;
