//! Exact runs, through the program alone: every bit comes back, in another process and after an interruption; or a line says why not.
//!
//! `EDICT_EXACT=all` makes the round trips of every combination, which takes half an hour and more.

mod support;

#[path = "exact/comparison.rs"]
mod comparison;
#[path = "exact/flags.rs"]
mod flags;
#[cfg(unix)]
#[path = "exact/interruptions.rs"]
mod interruptions;
#[path = "exact/predictions.rs"]
mod predictions;
#[path = "exact/round_trips.rs"]
mod round_trips;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use support::golden::model;
use support::{Edict, Tensors, edict, image};
use tempfile::TempDir;

const MODELS: [&str; 3] = ["tiny-sd1", "tiny-sd2", "tiny-legacy"];

/// Elements of the latents of a picture of 64x64.
const ELEMENTS: usize = 4 * 8 * 8;

/// Whether every combination is asked for, or those alone that are made in a few minutes.
fn everything() -> bool {
    std::env::var_os("EDICT_EXACT").is_some_and(|value| value == "all")
}

/// Does `work` for every item, two at a time: each is a process of its own, and machines have two cores.
fn two_at_a_time<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    };
    thread::scope(|scope| {
        scope.spawn(worker);
        scope.spawn(worker);
    });
}

/// A folder of its own for what a test writes, and calls that work in it.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    fn tensors(&self, name: &str) -> Tensors {
        Tensors::open(self.at(name))
    }

    fn names(&self) -> Vec<String> {
        support::listing(self.0.path())
    }

    /// Every file in the folder with its content.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.names().into_iter().map(|name| (name.clone(), self.bytes(&name))).collect()
    }

    fn invert(&self, model_name: &str, output: &str) -> Edict {
        edict("invert")
            .with("--model", model(model_name))
            .with("--image", image("photo-64.png"))
            .with("--prompt", "a photo of a cat")
            .with("--output", self.at(output))
    }

    fn generate(&self, model_name: &str, inversion: &str, output: &str) -> Edict {
        edict("generate")
            .with("--model", model(model_name))
            .with("--inversion", self.at(inversion))
            .with("--latents", self.at(&format!("{output}.latents")))
            .with("--output", self.at(output))
    }

    /// Runs a call that must be refused with one line that says all of `says`, and must change nothing in the folder.
    #[track_caller]
    fn refuses(&self, call: Edict, status: i32, says: &[&str]) -> String {
        let before = self.contents();
        let run = call.arg("--quiet").run();
        let error = run.error(status);
        for part in says {
            assert!(error.contains(part), "{}\nshould say {part:?}: {error}", run.command);
        }
        assert!(self.contents() == before, "{} left {:?}", run.command, self.names());
        error
    }
}

/// A tensor's name, element type, shape and bytes.
type RawTensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// Writes a safetensors file again with a change.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Vec<RawTensor>, &mut BTreeMap<String, Value>)) {
    let file = Tensors::open(from);
    let mut tensors: Vec<RawTensor> = (file.names().into_iter())
        .map(|name| {
            let (dtype, shape, data) = file.raw(&name);
            (name, dtype, shape, data)
        })
        .collect();
    let mut metadata =
        file.metadata().into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
    change(&mut tensors, &mut metadata);
    let views = (tensors.iter())
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let metadata = metadata.into_iter().map(|(key, value)| (key, value.to_string())).collect();
    fs::write(to, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// The bytes of a tensor of a file.
fn data_of<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut Vec<u8> {
    &mut tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap().3
}

/// The number of elements of a tensor of a file.
fn count_of(path: &Path, name: &str) -> usize {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor(name).unwrap().shape().iter().product()
}
