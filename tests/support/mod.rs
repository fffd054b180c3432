//! What the tests share. Each test file is a program of its own and uses a part.
#![allow(dead_code, unreachable_pub)]

pub mod golden;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use edict_core::Latents;
use ndarray::IxDyn;
use safetensors::SafeTensors;
use serde_json::Value;

/// A file in tests/golden/images.
pub fn image(name: &str) -> PathBuf {
    golden::root().join("images").join(name)
}

/// A call of the command line, put together argument by argument.
///
/// It runs on one thread unless told otherwise: tests run side by side already.
#[derive(Clone)]
pub struct Edict {
    arguments: Vec<OsString>,
    one_thread: bool,
}

pub fn edict(command: &str) -> Edict {
    let one_thread = ["invert", "generate", "edit", "reconstruct", "compare"].contains(&command);
    Edict { arguments: vec![command.into()], one_thread }
}

impl Edict {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds words separated by spaces.
    pub fn args(self, words: &str) -> Self {
        words.split_whitespace().fold(self, Self::arg)
    }

    pub fn with(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(flag).arg(value)
    }

    /// Gives a flag that was given already another value.
    pub fn instead(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let at = self.arguments.iter().position(|argument| argument == flag).unwrap();
        self.arguments[at + 1] = value.as_ref().to_owned();
        self
    }

    /// Leaves the number of threads to the program.
    pub fn with_threads_of_its_own(mut self) -> Self {
        self.one_thread = false;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edict"));
        command.args(&self.arguments).stdin(Stdio::null());
        // Nothing of the caller's settings.
        command.env_remove("RUST_BACKTRACE").env_remove("RAYON_NUM_THREADS");
        let said = |argument: &OsString| argument.to_string_lossy().starts_with("--threads");
        if self.one_thread && !self.arguments.iter().any(said) {
            command.args(["--threads", "1"]);
        }
        command
    }

    pub fn run(&self) -> Run {
        Run { command: format!("{:?}", self.arguments), output: self.command().output().unwrap() }
    }

    pub fn spawn(&self) -> Child {
        self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs with `--json`, which must succeed, and returns the object.
    #[track_caller]
    pub fn json(self) -> Value {
        self.arg("--json").run().json()
    }
}

/// A call that has ended.
pub struct Run {
    pub command: String,
    pub output: Output,
}

impl Run {
    pub fn code(&self) -> i32 {
        self.output.status.code().unwrap_or_else(|| panic!("{} ended by a signal", self.command))
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.code(), 0, "{}\n{}", self.command, self.stderr());
        self
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.succeeds().stdout();
        assert_eq!(text.lines().count(), 1, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
        assert!(value.is_object(), "{text}");
        value
    }

    /// The error of a call that was refused, which must be one line on standard error and nothing on standard output.
    #[track_caller]
    pub fn error(&self, status: i32) -> String {
        let error = self.stderr();
        assert_eq!(self.code(), status, "{}\n{error}", self.command);
        assert_eq!(self.stdout(), "", "{}", self.command);
        assert!(error.starts_with("error: ") && error.ends_with('\n'), "{}\n{error}", self.command);
        assert!(!error.contains("panicked"), "{}\n{error}", self.command);
        assert!(error.lines().count() == 1, "{}\n{error}", self.command);
        error
    }
}

/// Tensors of a safetensors file and its metadata.
pub struct Tensors {
    bytes: Vec<u8>,
}

impl Tensors {
    pub fn open(path: impl AsRef<Path>) -> Self {
        Self { bytes: fs::read(path).unwrap() }
    }

    pub fn get(&self, name: &str) -> Latents {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F64, "{name}");
        let (values, _) = view.data().as_chunks::<8>();
        let values = values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        Latents::from_shape_vec(IxDyn(view.shape()), values).unwrap()
    }

    /// The element type, shape and bytes of a tensor.
    pub fn raw(&self, name: &str) -> (safetensors::Dtype, Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    }

    /// Metadata of the whole file.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        header.metadata().clone().unwrap_or_default().into_iter().collect()
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let mut names: Vec<_> = file.names().into_iter().map(ToString::to_string).collect();
        names.sort();
        names
    }
}

pub fn largest(latents: &Latents) -> f64 {
    latents.iter().fold(0.0, |most, value| f64::max(most, value.abs()))
}

/// Largest difference of two arrays of one shape; NaN if there is one.
#[track_caller]
pub fn difference(found: &Latents, expected: &Latents) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, value| if value.is_nan() || value > most { value } else { most })
}

/// Names of everything in a folder, hidden files too.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
