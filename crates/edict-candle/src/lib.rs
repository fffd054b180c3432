//! The candle back end of edict: Stable Diffusion on CPU and GPU in pure Rust.
