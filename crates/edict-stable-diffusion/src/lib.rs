//! Stable Diffusion, written once: networks generic over a tensor [`Backend`], the Hugging Face folder reader, the tokenizer,
//! images in and out, and editing by exact inversion.
#![forbid(unsafe_code)]
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backend;
mod tokenizer;

pub use backend::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
pub use tokenizer::{EncodedPrompt, Tokenizer, TokenizerError, TokenizerFiles};
