//! The candle back end of edict: Stable Diffusion on CPU and GPU in pure Rust.
//!
//! [`CandleBackend`] implements [`edict_stable_diffusion::Backend`] on candle's tensors. On the CPU all that computes is a kernel of
//! this crate; elsewhere operations are composed out of candle's.
//!
//! # Layout on the CPU
//! Weights are packed when they are loaded; halves stay halves and are widened a block at a time
//! ([`CandleBackend::with_weights`] keeps them so for networks in f32). Images lie in memory with the channels of a pixel
//! side by side: tensors have the shape `[batch, channels, height, width]` and the strides of `[batch, height, width, channels]`.
//!
//! # Precision on the CPU
//! `f64` and `f32` are computed in their own precision, statistics of norms in `f64`, sums of softmaxes too (of sixteen weights at a time). Convolutions of 3x3 in `f32`
//! are computed by Winograd's F(4x4, 3x3) where its root mean square error, on noise, is at most four times the direct sum's. `f16` and
//! `bf16` are storage formats: every operation widens its arguments to `f32`, computes there (attention scores and softmax
//! too, so [`AttentionOptions::upcast`](edict_stable_diffusion::AttentionOptions) changes nothing) and rounds its result
//! once.
//!
//! # Determinism and threads
//! Each sum is formed in an order given by the shapes alone, so results are bitwise equal whatever the number of threads, and an item of a batch
//! gets the bits that it would get alone. They may
//! differ between processors: vectors are those that the processor has (AVX-512, AVX2 with FMA, or the target's own), found while running.
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
