//! Results on disk, a line each, so that a long run can be cut and gone on with.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use edict_scenes::Attribute;
use serde_json::{Value, json};

use crate::Fault;
use crate::method::Setting;
use crate::score::Score;

/// What one edit is known by.
pub(crate) fn key(method: &str, setting: Setting, attribute: Attribute, number: u64) -> String {
    let Setting { guidance, source_guidance, strength, steps } = setting;
    format!("{method} g{guidance} from g{source_guidance} s{strength} n{steps} {} {number}", attribute.word())
}

/// What the ideal edit, encoded and decoded, is known by.
pub(crate) fn ceiling_key(attribute: Attribute, number: u64) -> String {
    format!("ceiling {} {number}", attribute.word())
}

/// Mean squared errors in [-1, 1] of a picture that was inverted and generated again, and of the autoencoder alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reconstruction {
    pub(crate) mse: f64,
    pub(crate) floor: f64,
}

impl Reconstruction {
    fn from_json(value: &Value) -> Option<Self> {
        Some(Self { mse: value.get(0)?.as_f64()?, floor: value.get(1)?.as_f64()? })
    }
}

/// The score and the reconstruction where one was asked for, or why there is none.
pub(crate) type Outcome = Result<(Score, Option<Reconstruction>), String>;

/// The results there are.
pub(crate) struct Results {
    path: PathBuf,
    scores: Mutex<HashMap<String, Outcome>>,
    /// `None` if it is only read.
    file: Mutex<Option<File>>,
}

impl Results {
    /// Opens a file of results, or begins one. Its first line says what all of them were made with.
    ///
    /// # Errors
    /// If that is not `with`: the results of two models together are those of none. If the file is of something else.
    pub(crate) fn open(path: &Path, with: &Value) -> Result<Self, Fault> {
        let named = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(named)?,
        };
        let head = format!("{}\n", json!({ "with": with }));
        // A head that was cut is written anew.
        let begun = text.len() >= head.len() || !head.as_bytes().starts_with(&text);
        let scores = if begun { parse(path, &text, with)? } else { HashMap::new() };
        make_parent(path)?;
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(named)?;
        if !begun {
            if !text.is_empty() {
                file.set_len(0).map_err(named)?;
            }
            file.write_all(head.as_bytes()).map_err(named)?;
        } else if text.last().is_some_and(|byte| *byte != b'\n') {
            writeln!(file).map_err(named)?;
        }
        Ok(Self { path: path.to_owned(), scores: Mutex::new(scores), file: Mutex::new(Some(file)) })
    }

    /// Reads a file of results, to which another program may be adding.
    ///
    /// # Errors
    /// As [`Results::open`], and if there is no such file.
    pub(crate) fn read(path: &Path, with: &Value) -> Result<Self, Fault> {
        let name = path.display();
        let text = std::fs::read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("{name}: no such file"),
            _ => format!("{name}: {error}"),
        })?;
        let scores = Mutex::new(parse(path, &text, with)?);
        Ok(Self { path: path.to_owned(), scores, file: Mutex::new(None) })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.scores().contains_key(key)
    }

    /// The numbers of the edits there are, from the first to the last.
    pub(crate) fn numbers(&self) -> Range<u64> {
        let scores = self.scores();
        let numbers = scores.keys().filter_map(|key| key.rsplit(' ').next()?.parse().ok());
        numbers
            .fold(None, |range: Option<Range<u64>>, n: u64| {
                let Range { start, end } = range.unwrap_or(n..n);
                Some(start.min(n)..end.max(n.saturating_add(1)))
            })
            .unwrap_or_default()
    }

    /// Adds a result.
    pub(crate) fn add(&self, key: &str, result: Outcome) -> Result<(), Fault> {
        let line = match &result {
            Ok((score, back)) => {
                let back = back.map(|back| [back.mse, back.floor]);
                json!({"key": key, "score": score.json(), "reconstruction": back})
            }
            Err(error) => json!({"key": key, "error": error}),
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.as_mut().ok_or_else(|| format!("{} is only read", self.path.display()))?;
        writeln!(file, "{line}").map_err(|error| format!("{}: {error}", self.path.display()))?;
        self.scores().insert(key.to_owned(), result);
        Ok(())
    }

    pub(crate) fn scores(&self) -> MutexGuard<'_, HashMap<String, Outcome>> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the results out of a file.
fn parse(path: &Path, text: &[u8], with: &Value) -> Result<HashMap<String, Outcome>, Fault> {
    let mut scores = HashMap::new();
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
    let head = lines.next().unwrap_or_default();
    let found = &head["with"];
    if found != with {
        let path = path.display();
        return Err(match found {
            Value::Null => format!("{path}: this is no file of results; name another"),
            found => {
                format!("{path}: these results were made with {found}, not with {with}; name another file")
            }
        }
        .into());
    }
    // The last line may have been cut, and is none then.
    for value in lines {
        let Some(key) = value["key"].as_str() else { continue };
        let result = match (Score::from_json(&value["score"]), value["error"].as_str()) {
            (Some(score), _) => Ok((score, Reconstruction::from_json(&value["reconstruction"]))),
            (None, Some(error)) => Err(error.to_owned()),
            (None, None) => continue,
        };
        scores.insert(key.to_owned(), result);
    }
    Ok(scores)
}

/// Makes the folder that a file is to be written to.
fn make_parent(path: &Path) -> Result<(), Fault> {
    let Some(folder) = path.parent() else { return Ok(()) };
    Ok(std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?)
}

/// Writes a file, and makes its folder.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Fault> {
    make_parent(path)?;
    Ok(std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_and_errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("b").join("results");
        Results::open(&path, &json!({})).unwrap();
        write(&folder.path().join("c").join("table"), "text").unwrap();
        // A file is no folder, and a folder no file.
        let below = path.join("results");
        for wrong in [below.as_path(), folder.path()] {
            let name = folder.path().to_str().unwrap();
            let error = Results::open(wrong, &json!({})).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
            let error = write(wrong, "text").unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn results_of_another_model_are_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results");
        Results::open(&path, &json!({"model": "abc"})).unwrap();
        Results::open(&path, &json!({"model": "abc"})).unwrap();
        let error = Results::open(&path, &json!({"model": "abd"})).err().unwrap().to_string();
        assert!(error.contains("abc") && error.contains("abd"), "{error}");
        for (text, read) in [
            ("notes\n", false),
            ("[1]\n", false),
            ("7,8\n", false),
            ("{\"key\": \"a\", \"error\": \"of old\"}\n", false),
            ("{\"with\":", true),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Results::open(&path, &json!({"model": "abc"})).is_ok(), read, "{text}");
            // What is of something else stays as it is; a head that was cut is whole again.
            let now = std::fs::read_to_string(&path).unwrap();
            assert_eq!(now, if read { "{\"with\":{\"model\":\"abc\"}}\n" } else { text });
        }
        let error = Results::read(&folder.path().join("typo"), &json!({})).err().unwrap().to_string();
        assert!(error.contains("no such file") && !folder.path().join("typo").exists(), "{error}");
    }

    #[test]
    fn results_are_found_again_and_a_line_cut_short_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results");
        let score = Score { outside: 3, kept: 0.1, kept_floor: 0.05, whole: 1.0 / 3.0, ..Score::default() };
        let done = Ok((score, Some(Reconstruction { mse: 0.1 + 0.2, floor: 1e-300 })));
        let refused = Err("out of range".to_owned());
        let with = json!({"model": "abc", "gamma": 0.98});
        let results = Results::open(&path, &with).unwrap();
        results.add("a", done.clone()).unwrap();
        results.add("b", refused.clone()).unwrap();
        results.add("c", Ok((score, None))).unwrap();
        drop(results);
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"key\": \"d\", \"sc")
            .unwrap();
        Results::open(&path, &with).unwrap().add("e", refused.clone()).unwrap();
        let results = Results::open(&path, &with).unwrap();
        let scores = results.scores();
        assert_eq!(scores.len(), 4);
        drop(scores);
        assert_eq!(results.numbers(), 0..0);
        results.add(&ceiling_key(Attribute::Sky, 7), Err(String::new())).unwrap();
        results.add(&ceiling_key(Attribute::Sky, 3), Err(String::new())).unwrap();
        assert_eq!(results.numbers(), 3..8);
        let scores = results.scores();
        assert_eq!((&scores["a"], &scores["b"], &scores["c"]), (&done, &refused, &Ok((score, None))));
    }
}
