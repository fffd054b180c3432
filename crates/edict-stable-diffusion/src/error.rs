//! What can go wrong: while loading a model, and while running it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use edict_core::ConfigError;

use crate::tokenizer::TokenizerError;

/// Why a model could not be loaded.
///
/// Paths are those of files in the folder given; files compiled into the program have the name they were given in place of a
/// folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A model is a folder, and this is none.
    #[error("{path}: {}", if *is_file { "this is a file; name the folder of a model (checkpoints of a single file are not read)" } else { "there is no such folder" })]
    NotAFolder {
        /// The path that was to be opened.
        path: PathBuf,
        /// Whether there is a file of that name.
        is_file: bool,
    },
    /// None of the names a part of the model may have is in the folder.
    #[error("{folder} has no {}: not a Stable Diffusion folder in the Hugging Face layout, or an incomplete download", looked_for.join(" and no "))]
    MissingFile {
        /// The folder that was searched.
        folder: PathBuf,
        /// The names tried, relative to it.
        looked_for: Vec<String>,
    },
    /// Only pickled weights were found.
    #[error(
        "{path}: only safetensors weights are read; convert this file with `save_pretrained(.., safe_serialization=True)`"
    )]
    PickledWeights {
        /// The file found in place of safetensors.
        path: PathBuf,
    },
    /// A JSON file does not parse.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A config is JSON but not an object.
    #[error("{path}: should hold a JSON object")]
    NotAnObject {
        /// The file.
        path: PathBuf,
    },
    /// A config asks for something this crate does not implement.
    #[error("{path}: `{key}` = {value} is not supported (supported: {supported})")]
    Unsupported {
        /// The config.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// A config has a key that is not in this crate's tables, so its effect is unknown.
    #[error(
        "{path}: `{key}` = {value} is not known, and ignoring it could change the result; remove the key if it has no effect"
    )]
    UnknownKey {
        /// The config.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
    },
    /// A config value has the wrong type or makes no sense.
    #[error("{path}: `{key}` should be {wanted}, found {value}")]
    InvalidValue {
        /// The config.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What was wanted.
        wanted: String,
    },
    /// The betas do not make a noise schedule that can be inverted.
    #[error("{path}: {source}")]
    Schedule {
        /// The scheduler's config.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// Two parts of a model do not fit together.
    #[error("{folder}: `{first}` is {first_value} but `{second}` is {second_value}; they should be equal")]
    PartsDiffer {
        /// The model folder.
        folder: PathBuf,
        /// One key, as `part.key`.
        first: &'static str,
        /// Its value.
        first_value: usize,
        /// The other key.
        second: &'static str,
        /// Its value.
        second_value: usize,
    },
    /// A weight file's header is not that of a safetensors file.
    #[error("{path}: not a valid safetensors file: {reason}")]
    WeightHeader {
        /// The weight file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A weight file is shorter or longer than its header says.
    #[error("{path}: should be {expected} bytes long, found {found}; the file is cut off or damaged")]
    WeightFileLength {
        /// The weight file.
        path: PathBuf,
        /// Length by the header, in bytes.
        expected: u64,
        /// Length on disk, in bytes.
        found: u64,
    },
    /// The header's entry of one tensor is inconsistent.
    #[error("{path}: tensor `{name}` {reason}")]
    TensorEntry {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor the network needs is not there.
    #[error("{path}: tensor `{name}` is missing")]
    MissingTensor {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor does not have the shape the config implies.
    #[error("{path}: tensor `{name}` should have shape {expected:?}, found {found:?}")]
    TensorShape {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape by the config.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor the network needs is not floating point.
    #[error("{path}: tensor `{name}` should be F16, BF16, F32 or F64, found {found}")]
    TensorDType {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Element type by the header.
        found: String,
    },
    /// The back end did not take a parameter.
    #[error("{path}: `{name}` could not be put on the device: {source}")]
    Backend {
        /// The weight file.
        path: PathBuf,
        /// The layer or tensor.
        name: String,
        /// The back end's own error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The tokenizer could not be set up.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The folder of the tokenizer's files.
        path: PathBuf,
        /// What is wrong, and with which file.
        source: TokenizerError,
    },
}

/// Why a network could not be run; `E` is the back end's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError<E: Error + 'static> {
    /// An array does not have the shape the network takes.
    #[error("{what} should have shape {expected}, found {found:?}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// The shape wanted, with names for free extents.
        expected: String,
        /// The shape given.
        found: Vec<usize>,
    },
    /// A side of an image is not a positive multiple of the autoencoder's factor.
    #[error("image is {width}x{height}; both sides should be positive multiples of {factor}")]
    ImageSize {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Pixels per latent along each axis.
        factor: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {id} is outside the text encoder's vocabulary of {vocabulary}")]
    Token {
        /// The id.
        id: u32,
        /// Number of tokens known.
        vocabulary: usize,
    },
    /// A prompt has more tokens than the text encoder has positions.
    #[error("prompt has {found} tokens; the text encoder takes 1 to {limit}")]
    PromptLength {
        /// Tokens given.
        found: usize,
        /// Positions there are.
        limit: usize,
    },
    /// The back end failed.
    #[error(transparent)]
    Backend(#[from] E),
}
