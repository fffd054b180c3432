//! The JSON files of a model folder.
//!
//! Each config is read into a plain struct. What a key does, the value it takes where it is absent, and the values that are
//! refused stand in one table a class ([`keys`]); nothing else in the crate knows such a number.

mod fields;
mod json;
mod keys;
mod model_index;
mod scheduler;
mod text_encoder;
mod unet;
mod vae;

pub(crate) use json::parse_json;
pub use keys::{ConfigKey, KeyRole, SCHEDULER_KEYS, TEXT_ENCODER_KEYS, UNET_KEYS, VAE_KEYS};
pub use model_index::ModelIndex;
pub use scheduler::{BetaSchedule, PredictionType, SchedulerConfig};
pub use text_encoder::{HiddenActivation, TextEncoderConfig};
pub use unet::{UNetConfig, UNetLevel};
pub use vae::VaeConfig;
