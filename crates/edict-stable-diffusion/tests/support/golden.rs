//! The golden files: tensors that the Python oracle wrote, and what it wrote them from.

use std::fs;
use std::path::PathBuf;

use ndarray::{Array2, ArrayD, IxDyn};
use safetensors::SafeTensors;

/// One run of the oracle.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub file: &'static str,
    pub model: &'static str,
    pub image: &'static str,
}

pub const RUNS: [Run; 4] = [
    Run { file: "sd1-50-0.8", model: "tiny-sd1", image: "shape-64" },
    Run { file: "sd1-25-1.0-odd", model: "tiny-sd1", image: "photo-64" },
    Run { file: "sd2-20-0.75-vpred", model: "tiny-sd2", image: "photo-96x64" },
    Run { file: "legacy-40-0.6", model: "tiny-legacy", image: "photo-88x72" },
];

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

pub fn model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// A run's golden tensors.
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(run: Run) -> Self {
        Self(fs::read(root().join(format!("data/{}.safetensors", run.file))).unwrap())
    }

    pub fn tensor(&self, name: &str) -> ArrayD<f64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        ArrayD::from_shape_vec(IxDyn(view.shape()), values).unwrap()
    }

    /// Prompts by tensor: source, target and negative.
    pub fn prompts(&self) -> [(&'static str, String); 3] {
        let (_, metadata) = SafeTensors::read_metadata(&self.0).unwrap();
        let texts = metadata.metadata().as_ref().unwrap();
        [("text_source", "source"), ("text_target", "target"), ("text_negative", "negative")]
            .map(|(tensor, key)| (tensor, texts[key].clone()))
    }
}

/// Reads a picture as the oracle does: RGB, 8 bits, `x / 127.5 - 1`; `[1, 3, height, width]`.
pub fn image(run: Run) -> ArrayD<f64> {
    let picture = image::open(root().join(format!("images/{}.png", run.image))).unwrap().to_rgb8();
    let (width, height) = picture.dimensions();
    ArrayD::from_shape_fn(IxDyn(&[1, 3, height as usize, width as usize]), |i| {
        f64::from(picture.get_pixel(i[3] as u32, i[2] as u32)[i[1]]) / 127.5 - 1.0
    })
}

/// Splits words into the tiny models' tokens: all of them are bytes or merges of their vocabularies.
///
/// A byte-pair encoding by repeated merging of the best pair, as in CLIP; enough for the prompts of the golden files.
pub fn tokens(model_name: &str, prompt: &str) -> Array2<u32> {
    let folder = model(model_name).join("tokenizer");
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(folder.join("vocab.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(folder.join("merges.txt")).unwrap();
    let merges: Vec<&str> = merges.lines().filter(|line| !line.starts_with("#version")).collect();
    let id = |token: &str| vocabulary[token].as_u64().unwrap() as u32;
    let mut ids = vec![id("<|startoftext|>")];
    // Prompts here are words and `!`, which the tokenizer of the legacy model pads with and reads as that very token.
    for word in prompt.replace('!', " ! ").split_whitespace() {
        if word == "!" {
            ids.push(id("!"));
            continue;
        }
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        parts.last_mut().unwrap().push_str("</w>");
        loop {
            let rank = |pair: &[String]| merges.iter().position(|m| *m == format!("{} {}", pair[0], pair[1]));
            let best = parts.windows(2).enumerate().filter_map(|(i, pair)| Some((rank(pair)?, i))).min();
            let Some((_, i)) = best else { break };
            let right = parts.remove(i + 1);
            parts[i].push_str(&right);
        }
        ids.extend(parts.iter().map(|part| id(part)));
    }
    ids.push(id("<|endoftext|>"));
    let pad = if model_name == "tiny-legacy" { id("!") } else { id("<|endoftext|>") };
    ids.resize(77, pad);
    Array2::from_shape_vec((1, 77), ids).unwrap()
}

/// Largest difference, relative to the largest element expected.
pub fn relative_error(found: &ArrayD<f64>, expected: &ArrayD<f64>) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.iter().fold(0f64, |a, x| a.max(x.abs()));
    let error = found
        .iter()
        .zip(expected)
        .fold(0f64, |a, (x, y)| if (x - y).is_nan() { f64::NAN } else { a.max((x - y).abs()) });
    error / largest
}
