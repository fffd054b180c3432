//! Exact inversion of diffusion models, from noise to picture and back.
//!
//! EDICT (arXiv:2211.12446) finds the noise that a diffusion model turns into a given image by carrying two coupled latents
//! that undo each other. With that noise in hand a photograph is edited by generating again under another prompt; what the
//! prompt does not touch stays. No training, any pretrained model.
//!
//! This crate only gathers the others under one name:
//!
//! * the samplers and the trait for a model of your own, from [`edict_core`], at the root: [`LatticeEdict`], [`NoisePredictor`],
//!   [`Trajectory`], ...;
//! * [`stable_diffusion`]: the networks, model folders, pictures and inversion files;
//! * [`candle`]: the back end they run on; with the feature `tch`, that on PyTorch's C++ library too.
//!
//! With `default-features = false` the samplers alone remain.
//!
//! # Conventions
//!
//! `generate` goes from noise to image, `invert` from image to noise. Images are RGB in [-1, 1], `[batch, 3, height, width]`;
//! latents are `[batch, channels, h, w]` in `f64` on the host, scaled by the model's own factor. A *timestep* is an index into
//! the training schedule, a *step* a position in the run, counted from the noisy end.
#![forbid(unsafe_code)]

pub use edict_core::*;

#[cfg(feature = "candle")]
pub use edict_candle as candle;
#[cfg(any(feature = "candle", feature = "tch"))]
pub use edict_stable_diffusion as stable_diffusion;
#[cfg(feature = "tch")]
pub use edict_tch as tch;

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "candle"))]
#[doc = include_str!("../README.md")]
struct Readme;
