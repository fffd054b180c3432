//! Stable Diffusion, written once: networks generic over a tensor [`Backend`], the Hugging Face folder reader, the tokenizer,
//! images in and out, and editing by exact inversion.
#![forbid(unsafe_code)]

mod backend;

pub use backend::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
