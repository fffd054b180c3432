//! `model_index.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::LoadError;

/// What `model_index.json` says: the pipeline's class, and the class of each of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelIndex {
    /// The pipeline's class, where the file names one.
    pub pipeline: Option<String>,
    /// Class names by part; parts that are null are left out.
    pub parts: BTreeMap<String, String>,
}

/// Classes of the parts that are read.
const CLASSES: &[(&str, &str)] =
    &[("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel")];

/// Parts that do not change what the networks compute, or whose own file decides.
const OTHERS: &[&str] = &["scheduler", "tokenizer", "safety_checker", "feature_extractor", "image_encoder"];

impl ModelIndex {
    /// Reads the file; `path` is named in errors.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] if a part has a class this crate does not implement, [`LoadError::UnknownKey`] if there is a
    /// part of another kind (a second text encoder, a control net).
    pub fn from_json(path: &Path, index: &Value) -> Result<Self, LoadError> {
        let Value::Object(entries) = index else {
            return Err(LoadError::NotAnObject { path: path.to_owned() });
        };
        let pipeline = entries.get("_class_name").and_then(Value::as_str).map(str::to_owned);
        let mut parts = BTreeMap::new();
        for (part, value) in entries {
            // Parts are pairs of library and class; numbers and flags are settings of the Python pipeline.
            let Some([_, class]) = value.as_array().map(Vec::as_slice) else { continue };
            let Some(class) = class.as_str() else { continue };
            match CLASSES.iter().find(|(known, _)| known == part) {
                Some((_, wanted)) if *wanted != class => {
                    return Err(LoadError::Unsupported {
                        path: path.to_owned(),
                        key: part.clone(),
                        value: class.to_owned(),
                        supported: (*wanted).to_owned(),
                    });
                }
                None if !OTHERS.contains(&part.as_str()) => {
                    return Err(LoadError::UnknownKey {
                        path: path.to_owned(),
                        key: part.clone(),
                        value: value.to_string(),
                    });
                }
                _ => {}
            }
            parts.insert(part.clone(), class.to_owned());
        }
        Ok(Self { pipeline, parts })
    }
}
