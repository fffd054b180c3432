//! The PyTorch back end of edict: Stable Diffusion on libtorch, on CPU and NVIDIA GPU.
//!
//! **It has not been run on a GPU yet**: no machine with one was at hand. What follows about GPUs is what PyTorch documents.
//!
//! [`TchBackend`] implements [`edict_stable_diffusion::Backend`] on the tensors of libtorch 2.11.0, which has to be there when this crate
//! is built (`cargo xtask libtorch` puts it there) and when the program runs.
//!
//! # Precision
//! On the CPU `f64` and `f32` are computed in their own precision. `f16` and `bf16` are storage formats there: every operation widens its
//! arguments to `f32`, computes, and rounds its result once. On a GPU every operation runs in the element type of the network, sums of
//! products in `f32` at least; attention scores are formed in `f32`, and TF32 is off.
//!
//! # Determinism and threads
//! PyTorch's deterministic algorithms are switched on, cuDNN's search for the fastest kernel and TF32 off, so that equal arguments give
//! equal bits. [`TchBackend::with_fast_kernels`] turns that round, and then exactness is not promised. PyTorch has these settings once
//! for the process, and each back end has its own: operations of fast back ends and of others wait for each other.
//!
//! Results hold for one machine, one version of PyTorch and **one number of threads**: MKL shares the sums of a product out among them, and
//! where a thread's share of an activation ends in the middle of a vector, PyTorch goes on with another `erf` and another `exp`.
//!
//! # What is not a number
//! PyTorch's attention on the CPU answers 0 to a query that is not a number. What goes past attention in a network carries it on.
//!
//! ```no_run
//! use edict_stable_diffusion::{Backend, DType};
//! use edict_tch::TchBackend;
//! use ndarray::arr1;
//!
//! let backend = TchBackend::cpu(DType::F64);
//! let x = backend.upload(arr1(&[0.0, 1.0]).into_dyn().view())?;
//! let y = backend.download(&backend.silu(&x)?)?;
//! assert_eq!(y[[0]], 0.0);
//! # Ok::<(), edict_tch::TchError>(())
//! ```
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backend;
mod device;
mod error;
mod kernels;
mod settings;
mod shim;
mod tensor;
mod weights;

pub use backend::TchBackend;
pub use device::DeviceSpec;
pub use error::TchError;
pub use tensor::Tensor;
pub use weights::{Conv2d, Linear, Norm};
