//! JSON as Python writes it.

use std::path::Path;

use serde_json::Value;

use crate::error::LoadError;

/// Parses a JSON file's bytes.
///
/// Python's `json` writes numbers that JSON does not have: the configs of diffusers' DPM-Solver hold
/// `"lambda_min_clipped": -Infinity`. Such words are read as null.
pub(crate) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value, LoadError> {
    serde_json::from_slice(bytes)
        .or_else(|source| serde_json::from_slice(&without_python_floats(bytes)).map_err(|_| source))
        .map_err(|source| LoadError::Json { path: path.to_owned(), source })
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside strings by `null`.
fn without_python_floats(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut in_string = false;
    while let Some((&byte, tail)) = rest.split_first() {
        if in_string {
            if byte == b'\\' {
                out.push(byte);
                out.extend(tail.first());
                rest = tail.get(1..).unwrap_or_default();
                continue;
            }
            in_string = byte != b'"';
        } else {
            let word = [&b"-Infinity"[..], b"Infinity", b"NaN"].into_iter().find(|w| rest.starts_with(w));
            if let Some(word) = word {
                out.extend_from_slice(b"null");
                rest = &rest[word.len()..];
                continue;
            }
            in_string = byte == b'"';
        }
        out.push(byte);
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pythons_infinities_as_null_and_leaves_strings_alone() {
        let text = br#"{"a": -Infinity, "b": [NaN, Infinity, 1], "c": "NaN \" -Infinity"}"#;
        let value = parse_json(Path::new("config.json"), text).unwrap();
        assert_eq!(value, serde_json::json!({"a": null, "b": [null, null, 1], "c": "NaN \" -Infinity"}));
    }

    #[test]
    fn names_the_file_and_the_position_of_bad_json() {
        let error = parse_json(Path::new("unet/config.json"), b"{\n \"a\": 1,,\n}").unwrap_err().to_string();
        assert!(error.starts_with("unet/config.json: ") && error.contains("line 2 column 9"), "{error}");
    }
}
