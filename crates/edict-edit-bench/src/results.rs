//! Results on disk, a line each, so that a long run can be cut and gone on with.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use edict_scenes::Attribute;
use serde_json::{Value, json};

use crate::Fault;
use crate::method::Setting;
use crate::score::Score;

/// What one edit is known by.
pub(crate) fn key(method: &str, setting: Setting, attribute: Attribute, number: u64) -> String {
    let Setting { guidance, strength, steps } = setting;
    format!("{method} g{guidance} s{strength} n{steps} {} {number}", attribute.word())
}

/// The score and the mean squared error of the reconstruction, or why there is none.
pub(crate) type Outcome = Result<(Score, Option<f64>), String>;

/// The results there are.
pub(crate) struct Results {
    scores: Mutex<HashMap<String, Outcome>>,
    file: Mutex<File>,
}

impl Results {
    /// Opens a file of results, or begins one.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let mut scores = HashMap::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines() {
                // The last line may have been cut.
                let Ok(value) = serde_json::from_str::<Value>(&line?) else { continue };
                let Some(key) = value["key"].as_str() else { continue };
                let result = match (Score::from_json(&value["score"]), value["error"].as_str()) {
                    (Some(score), _) => Ok((score, value["reconstruction"].as_f64())),
                    (None, Some(error)) => Err(error.to_owned()),
                    (None, None) => continue,
                };
                scores.insert(key.to_owned(), result);
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { scores: Mutex::new(scores), file: Mutex::new(file) })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.scores().contains_key(key)
    }

    /// Adds a result.
    pub(crate) fn add(&self, key: &str, result: Outcome) -> Result<(), Fault> {
        let line = match &result {
            Ok((score, reconstruction)) => {
                json!({"key": key, "score": score.json(), "reconstruction": reconstruction})
            }
            Err(error) => json!({"key": key, "error": error}),
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}")?;
        self.scores().insert(key.to_owned(), result);
        Ok(())
    }

    pub(crate) fn scores(&self) -> MutexGuard<'_, HashMap<String, Outcome>> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
