//! A small text-to-image diffusion model compiled into the program, and sample scenes to edit with it.
//!
//! The model has the parts of Stable Diffusion 1 (autoencoder, CLIP text encoder, U-Net), only smaller, and was trained from
//! scratch on 64x64 scenes that a program draws: it knows six kinds of object in eight colours, four grounds, three skies and
//! three styles, in the words of its grammar. Any other word is accepted and means little to it. How it was made, and how well
//! it works, stands in `models/demo/README.md` of the repository.
//!
//! [`folder`] opens it without touching the disk; from there on it is a model folder like any other. The same files, on disk
//! in `model/` of this crate, load in Python diffusers.
//!
//! ```
//! let folder = edict_demo_model::folder()?;
//! assert_eq!(folder.vae_config().factor(), 4);
//!
//! let sample = &edict_demo_model::SAMPLES[0];
//! let picture = edict_stable_diffusion::Picture::decode(sample.png, sample.name)?;
//! assert_eq!(picture.size().to_string(), "64x64");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use edict_stable_diffusion::{EmbeddedFiles, LoadError, ModelFolder};

/// What stands for the model's folder in messages and reports.
pub const NAME: &str = "demo";

/// Names every file once: relative to `model/`, and its bytes.
macro_rules! files {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_bytes!(concat!("../model/", $name)))),+] };
}

/// The model's files, in the Hugging Face layout.
pub const FILES: EmbeddedFiles = files![
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// Opens the model. The disk is not touched.
///
/// # Errors
/// [`LoadError`], as [`ModelFolder::embedded`]; a build whose tests pass returns none.
pub fn folder() -> Result<ModelFolder, LoadError> {
    ModelFolder::embedded(NAME, FILES)
}

/// A scene to edit: a picture that the model was not trained on, and what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// A word to ask for it by: the kind of its object.
    pub name: &'static str,
    /// What it shows, in the words of the model: object with colour, ground, sky, and style unless it is plain.
    pub caption: &'static str,
    /// The picture, 64x64, as the bytes of an 8-bit RGB PNG file.
    pub png: &'static [u8],
}

macro_rules! samples {
    ($($name:literal: $caption:literal,)+) => {
        [$(Sample {
            name: $name,
            caption: $caption,
            png: include_bytes!(concat!("../samples/", $name, ".png")),
        }),+]
    };
}

/// The samples; the first is the one to take when none is asked for.
pub const SAMPLES: [Sample; 6] = samples! {
    "house": "a red house in the snow by day",
    "car": "a pink car in a meadow at sunset",
    "tree": "a white tree on the beach by day",
    "mushroom": "a blue mushroom on the beach at night",
    "balloon": "a yellow balloon in the desert at sunset",
    "star": "a pencil drawing of a purple star in the snow by day",
};

/// Finds a sample by its name.
pub fn sample(name: &str) -> Option<&'static Sample> {
    SAMPLES.iter().find(|sample| sample.name == name)
}
