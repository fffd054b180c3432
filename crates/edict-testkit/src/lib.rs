//! Checks, analytic noise predictors, error bounds and seeded noise, to test samplers and predictors with.
//!
//! [`conformance`] checks a predictor of your own, or one on a back end of your own. The predictors of this crate are models whose
//! answers are known in closed form, or networks small enough to run thousands of times.
#![forbid(unsafe_code)]
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod conformance;
mod noise;
mod predictors;
mod spy;
pub mod tolerance;

pub use noise::normal;
pub use predictors::{Discontinuous, Elementwise, GaussianData, Mixture, Rounded, Rounding, TanhNetwork};
pub use spy::{Call, Spy};
