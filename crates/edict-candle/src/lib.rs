//! The candle back end of edict: Stable Diffusion on CPU and GPU in pure Rust.
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
