//! What the tests share. Each test file is a program of its own and uses a part.
#![allow(dead_code, unreachable_pub)]

pub mod golden;

use std::collections::BTreeMap;
use std::ffi::OsStr;
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
pub struct Edict {
    command: Command,
    threads: bool,
}

pub fn edict(command: &str) -> Edict {
    let mut process = Command::new(env!("CARGO_BIN_EXE_edict"));
    process.arg(command).stdin(Stdio::null());
    // No reading of the caller's settings.
    process.env_remove("RUST_BACKTRACE").env_remove("RAYON_NUM_THREADS");
    Edict { command: process, threads: command != "info" }
}

impl Edict {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.threads &= argument.as_ref() != "--threads";
        self.command.arg(argument);
        self
    }

    /// Adds words separated by spaces.
    pub fn args(self, words: &str) -> Self {
        words.split_whitespace().fold(self, Self::arg)
    }

    pub fn with(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(flag).arg(value)
    }

    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    fn prepare(&mut self) -> &mut Command {
        if std::mem::take(&mut self.threads) {
            self.command.args(["--threads", "1"]);
        }
        &mut self.command
    }

    pub fn run(mut self) -> Run {
        let output = self.prepare().output().unwrap();
        Run { command: format!("{:?}", self.command), output }
    }

    pub fn spawn(mut self) -> Child {
        self.prepare().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs with `--json`, which must succeed, and returns the object.
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
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code(), 0, "{}\n{}", self.command, self.stderr());
        self
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(self) -> Value {
        let run = self.succeeds();
        let text = run.stdout();
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
        assert!(value.is_object(), "{text}");
        value
    }

    /// The error of a call that must fail: one line on standard error, nothing on standard output.
    #[track_caller]
    pub fn fails(&self, status: i32) -> String {
        let (code, error) = (self.code(), self.stderr());
        assert_eq!(code, status, "{}\n{error}", self.command);
        assert_eq!(self.stdout(), "", "{}", self.command);
        assert!(!error.contains("panicked"), "{}\n{error}", self.command);
        // What comes before is progress, a line of which says that the model is loaded.
        let lines: Vec<_> = error.lines().filter(|line| !line.starts_with("loading ")).collect();
        assert!(lines[0].starts_with("error: "), "{}\n{error}", self.command);
        // Only clap's own messages about usage go over several lines.
        assert!(lines.len() == 1 || error.contains("--help"), "{}\n{error}", self.command);
        error
    }
}

/// Tensors of a safetensors file, all F64, and its metadata.
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
