//! What the integration tests share. Each test file is a program of its own and uses a part.
#![allow(dead_code, unreachable_pub)]

#[path = "../../../../tests/support/golden.rs"]
pub mod golden;
pub mod plain;
pub mod weights;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A copy of a tiny model that a test may change.
pub struct Copy {
    folder: TempDir,
}

impl Copy {
    pub fn of(model: &str) -> Self {
        let folder = TempDir::new().unwrap();
        copy_tree(&golden::model(model), folder.path());
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn json(&self, name: &str) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap()
    }

    pub fn remove(&self, name: &str, key: &str) {
        let mut json = self.json(name);
        json.remove(key);
        fs::write(self.file(name), serde_json::to_vec(&json).unwrap()).unwrap();
    }

    /// Sets a key of a JSON file; null is written as null.
    pub fn set(&self, name: &str, key: &str, value: serde_json::Value) {
        let mut json = self.json(name);
        json.insert(key.to_owned(), value);
        fs::write(self.file(name), serde_json::to_vec(&json).unwrap()).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
