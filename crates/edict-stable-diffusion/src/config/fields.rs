//! Typed access to a config, with the defaults and refusals of its table.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value};

use super::keys::{ConfigKey, KeyRole};
use crate::error::LoadError;

/// A config whose keys have been checked against a table.
pub(super) struct Fields<'a> {
    path: &'a Path,
    table: &'static [ConfigKey],
    written: &'a Map<String, Value>,
    class_defaults: &'static [(&'static str, &'static str)],
}

impl<'a> Fields<'a> {
    /// Checks that every key is in `table` and that no value is one the table refuses.
    pub(super) fn new(
        path: &'a Path,
        table: &'static [ConfigKey],
        config: &'a Value,
    ) -> Result<Self, LoadError> {
        let Value::Object(written) = config else {
            return Err(LoadError::NotAnObject { path: path.to_owned() });
        };
        let fields = Self { path, table, written, class_defaults: &[] };
        for (name, value) in written {
            let Some(key) = table.iter().find(|key| key.name == name) else {
                // Keys with an underscore are notes of the program that wrote the file; null and false ask for nothing.
                if name.starts_with('_') || matches!(value, Value::Null | Value::Bool(false)) {
                    continue;
                }
                return Err(LoadError::UnknownKey {
                    path: path.to_owned(),
                    key: name.clone(),
                    value: value.to_string(),
                });
            };
            if let KeyRole::Only(supported) = key.role
                && !supported.iter().any(|text| same(value, &parse(text)))
            {
                return Err(fields.unsupported(name, &supported.join(", ")));
            }
        }
        Ok(fields)
    }

    /// Lets `defaults` (key, JSON text) go before the table's.
    pub(super) fn with_class_defaults(self, defaults: &'static [(&'static str, &'static str)]) -> Self {
        Self { class_defaults: defaults, ..self }
    }

    /// Returns the value written, or the default of the class.
    pub(super) fn value(&self, name: &str) -> Cow<'a, Value> {
        if let Some(value) = self.written.get(name) {
            return Cow::Borrowed(value);
        }
        let of_class = self.class_defaults.iter().find(|(key, _)| *key == name).map(|(_, text)| *text);
        let text = of_class.or_else(|| self.table.iter().find(|key| key.name == name).map(|key| key.default));
        Cow::Owned(text.map_or(Value::Null, parse))
    }

    /// Builds the error for a value of the right type that is not implemented.
    pub(super) fn unsupported(&self, name: &str, supported: &str) -> LoadError {
        LoadError::Unsupported {
            path: self.path.to_owned(),
            key: name.to_owned(),
            value: self.value(name).to_string(),
            supported: supported.to_owned(),
        }
    }

    /// Builds the error for a value that is not `wanted`.
    pub(super) fn invalid(&self, name: &str, wanted: impl Into<String>) -> LoadError {
        LoadError::InvalidValue {
            path: self.path.to_owned(),
            key: name.to_owned(),
            value: self.value(name).to_string(),
            wanted: wanted.into(),
        }
    }

    pub(super) fn bool(&self, name: &str) -> Result<bool, LoadError> {
        self.value(name).as_bool().ok_or_else(|| self.invalid(name, "true or false"))
    }

    pub(super) fn f64(&self, name: &str) -> Result<f64, LoadError> {
        self.value(name).as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.invalid(name, "a number"))
    }

    /// Reads a number above zero.
    pub(super) fn positive_f64(&self, name: &str) -> Result<f64, LoadError> {
        let x = self.f64(name)?;
        if x > 0.0 { Ok(x) } else { Err(self.invalid(name, "a number above 0")) }
    }

    /// Reads an integer in `1..=limit`.
    ///
    /// The limits are far above any model there is; they keep arithmetic on extents from overflowing.
    pub(super) fn count(&self, name: &str, limit: usize) -> Result<usize, LoadError> {
        as_count(&self.value(name), limit)
            .ok_or_else(|| self.invalid(name, format!("an integer from 1 to {limit}")))
    }

    /// Reads an integer in `0..=limit`.
    pub(super) fn natural(&self, name: &str, limit: usize) -> Result<usize, LoadError> {
        let value = self.value(name);
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= limit);
        n.ok_or_else(|| self.invalid(name, format!("an integer from 0 to {limit}")))
    }

    /// Reads `levels` integers in `1..=limit`, or one that stands for all levels.
    pub(super) fn counts(&self, name: &str, levels: usize, limit: usize) -> Result<Vec<usize>, LoadError> {
        let value = self.value(name);
        let list = match &*value {
            Value::Array(items) if items.len() == levels => {
                items.iter().map(|item| as_count(item, limit)).collect()
            }
            Value::Array(_) => None,
            one => as_count(one, limit).map(|n| vec![n; levels]),
        };
        list.ok_or_else(|| {
            self.invalid(name, format!("an integer from 1 to {limit}, or a list of {levels}, one for each of `block_out_channels`"))
        })
    }

    /// Reads a list of 1 to 16 integers in `1..=limit`.
    pub(super) fn count_list(&self, name: &str, limit: usize) -> Result<Vec<usize>, LoadError> {
        let value = self.value(name);
        let list: Option<Vec<usize>> = value
            .as_array()
            .filter(|items| (1..=16).contains(&items.len()))
            .and_then(|items| items.iter().map(|item| as_count(item, limit)).collect());
        list.ok_or_else(|| self.invalid(name, format!("a list of 1 to 16 integers from 1 to {limit}")))
    }

    /// Reads a word and returns what `choices` pairs it with.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, LoadError> {
        let value = self.value(name);
        self.choose(name, &value, choices)
    }

    /// Reads `levels` words, each with its choice.
    pub(super) fn choices<T: Copy>(
        &self,
        name: &str,
        levels: usize,
        choices: &[(&str, T)],
    ) -> Result<Vec<T>, LoadError> {
        let value = self.value(name);
        let Some(items) = value.as_array().filter(|items| items.len() == levels) else {
            return Err(
                self.invalid(name, format!("a list of {levels} names, one for each of `block_out_channels`"))
            );
        };
        items.iter().map(|item| self.choose(name, item, choices)).collect()
    }

    fn choose<T: Copy>(&self, name: &str, value: &Value, choices: &[(&str, T)]) -> Result<T, LoadError> {
        let Some(word) = value.as_str() else {
            return Err(self.invalid(name, "text"));
        };
        choices.iter().find(|(known, _)| *known == word).map(|(_, chosen)| *chosen).ok_or_else(|| {
            LoadError::Unsupported {
                path: self.path.to_owned(),
                key: name.to_owned(),
                value: value.to_string(),
                supported: choices.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
            }
        })
    }
}

fn as_count(value: &Value, limit: usize) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=limit).contains(n))
}

/// Parses a text of the tables; a test checks that all of them are JSON.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Compares values; 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
