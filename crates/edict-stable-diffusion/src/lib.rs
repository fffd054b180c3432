//! Stable Diffusion, written once: networks generic over a tensor [`Backend`], the Hugging Face folder reader, the tokenizer,
//! images in and out, and editing by exact inversion.
#![forbid(unsafe_code)]
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod any_sampler;
mod atomic_file;
mod attention;
mod backend;
mod checkpoint;
mod config;
mod error;
mod folder;
mod image;
mod inversion;
mod inversion_file;
mod limited;
mod metrics;
mod model;
mod noise;
mod parameters;
#[cfg(test)]
mod published_sizes;
mod resample;
mod resnet;
mod state_tensors;
mod tensor_file;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;
mod weights;

pub use any_sampler::{AnySampler, AnyState};
pub use atomic_file::{OutputError, check_writable, write_atomically};
pub use attention::{AttentionCall, AttentionKind, AttentionObserver, AttentionSite};
pub use backend::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
pub use checkpoint::{Checkpoint, Generation};
pub use config::{
    BetaSchedule, ConfigKey, HiddenActivation, KeyRole, ModelIndex, PredictionType, SCHEDULER_KEYS,
    SchedulerConfig, TEXT_ENCODER_KEYS, TextEncoderConfig, UNET_KEYS, UNetConfig, UNetLevel, VAE_KEYS,
    VaeConfig,
};
pub use error::{LoadError, ModelError};
pub use folder::{EmbeddedFiles, ModelFolder};
pub use image::{ImageError, ImageSize, MAX_SIDE, ParseSizeError, Picture, to_rgb8, write_png};
pub use inversion::{GuidanceSettings, Inversion, Origin, instruction_set};
pub use inversion_file::{INVERSION_FORMAT, InversionFileError, latents_to_bytes};
pub use metrics::{
    BitIdentical, MetricError, Moments, bit_identical, bit_identical_pair, latent_max_abs_error, latent_mse,
    moments, pixel_mse, psnr,
};
pub use model::{PromptEmbedding, PromptError, StableDiffusion, UNetPredictor};
pub use noise::seeded_noise;
pub use text_encoder::TextEncoder;
pub use tokenizer::{EncodedPrompt, Tokenizer, TokenizerError, TokenizerFiles};
pub use unet::{TextContext, UNet};
pub use vae::{Posterior, Vae};
pub use weights::{TensorEntry, WeightFile};
