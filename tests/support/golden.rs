//! The golden files: tensors that the Python oracle wrote, and what it wrote them from.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};
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

/// The folder of golden data: `tests/golden` of the workspace, whichever package's test asks.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().map(|folder| folder.join("tests/golden")).find(|path| path.is_dir()).unwrap()
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

/// Largest difference, relative to the largest element expected.
pub fn relative_error(found: &ArrayD<f64>, expected: &ArrayD<f64>) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let largest = expected.iter().fold(0f64, |a, x| a.max(x.abs()));
    // `f64::max` forgets a NaN.
    let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
    let error = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0f64, larger);
    error / largest
}
