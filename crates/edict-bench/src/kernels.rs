//! Single operations, at the sizes they have in the networks for a picture of 512x512 under guidance.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::ArrayD;
use serde_json::{Value, json};

use crate::Fault;

/// How long an operation is called again and again: `twin.py` does the same.
const TURN: Duration = Duration::from_millis(40);

/// An operation and the shape of what it is given.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    kind: &'static str,
    shape: Vec<usize>,
    /// Of convolutions and linear maps.
    outputs: usize,
    /// Side of a convolution's window.
    kernel: usize,
    stride: usize,
    /// Of attention.
    keys: usize,
    heads: usize,
}

impl Kernel {
    fn new(kind: &'static str, shape: &[usize]) -> Self {
        Self { kind, shape: shape.to_vec(), outputs: 0, kernel: 0, stride: 1, keys: 0, heads: 0 }
    }

    fn conv(shape: [usize; 4], outputs: usize, kernel: usize, stride: usize) -> Self {
        Self { outputs, kernel, stride, ..Self::new("conv", &shape) }
    }

    fn linear(shape: [usize; 3], outputs: usize) -> Self {
        Self { outputs, ..Self::new("linear", &shape) }
    }

    fn attention(shape: [usize; 3], keys: usize, heads: usize) -> Self {
        Self { keys, heads, ..Self::new("attention", &shape) }
    }

    /// What a model of a shape is made of.
    pub(crate) fn all(model: &str) -> Vec<Self> {
        let heads = if model == "sd21" { [5, 10, 20] } else { [8, 8, 8] };
        let mut all = vec![
            Self::conv([2, 320, 64, 64], 320, 3, 1),
            Self::conv([2, 640, 64, 64], 320, 3, 1),
            Self::conv([2, 640, 32, 32], 640, 3, 1),
            Self::conv([2, 1280, 16, 16], 1280, 3, 1),
            Self::conv([2, 2560, 8, 8], 1280, 3, 1),
            Self::conv([2, 320, 64, 64], 320, 3, 2),
            Self::conv([2, 320, 64, 64], 320, 1, 1),
            Self::conv([2, 1920, 32, 32], 640, 1, 1),
            Self::conv([2, 4, 64, 64], 320, 3, 1),
            Self::conv([1, 512, 64, 64], 512, 3, 1),
            Self::conv([1, 256, 256, 256], 256, 3, 1),
            Self::conv([1, 128, 512, 512], 128, 3, 1),
        ];
        for (channels, side, heads) in [(320, 64, heads[0]), (640, 32, heads[1]), (1280, 16, heads[2])] {
            let tokens = side * side;
            all.extend([
                Self::linear([2, tokens, channels], channels),
                Self::linear([2, tokens, channels], 8 * channels),
                Self::linear([2, tokens, 4 * channels], channels),
                Self::attention([2, tokens, channels], tokens, heads),
                Self::attention([2, tokens, channels], 77, heads),
                Self::new("layer_norm", &[2, tokens, channels]),
                Self { outputs: 8 * channels, ..Self::new("linear_geglu", &[2, tokens, channels]) },
                Self::new("geglu", &[2, tokens, 8 * channels]),
                Self::new("group_norm_silu", &[2, channels, side, side]),
            ]);
        }
        all.extend([
            Self::attention([1, 4096, 512], 4096, 1),
            Self::new("group_norm_silu", &[1, 128, 512, 512]),
            Self::new("silu", &[2, 1280, 1280]),
            Self::new("gelu", &[2, 1280, 1280]),
        ]);
        all
    }

    pub(crate) fn name(&self) -> String {
        let shape: Vec<_> = self.shape.iter().map(ToString::to_string).collect();
        let mut name = format!("{} {}", self.kind, shape.join("x"));
        match self.kind {
            "conv" => {
                name += &format!(" to {}, {1}x{1}", self.outputs, self.kernel);
                if self.stride > 1 {
                    name += &format!(", stride {}", self.stride);
                }
            }
            "linear" | "linear_geglu" => name += &format!(" to {}", self.outputs),
            "attention" => name += &format!(", {} keys, {} heads", self.keys, self.heads),
            _ => {}
        }
        name
    }

    /// The same for PyTorch.
    pub(crate) fn json(&self) -> Value {
        json!({
            "do": "kernel", "kind": self.kind, "shape": self.shape, "outputs": self.outputs, "kernel": self.kernel,
            "stride": self.stride, "keys": self.keys, "heads": self.heads,
        })
    }

    /// Puts data on the device.
    pub(crate) fn prepare<'a, B: Backend>(&self, backend: &'a B) -> Result<Ready<'a>, Fault> {
        let up = |shape: &[usize]| backend.upload(wave(shape).view());
        let x = match *self.shape {
            // In memory as the back end's own operations leave images: the channels of a pixel side by side.
            [batch, channels, height, width] => {
                backend.tokens_to_image(&up(&[batch, height * width, channels])?, height, width)?
            }
            _ => up(&self.shape)?,
        };
        let channels = if self.shape.len() == 4 { self.shape[1] } else { self.shape[self.shape.len() - 1] };
        let work: Work<'a> = match self.kind {
            "conv" => {
                let weight = raw(&[self.outputs, channels, self.kernel, self.kernel]);
                let padding = self.kernel / 2;
                let geometry =
                    Conv2dGeometry { stride: self.stride, padding_before: padding, padding_after: padding };
                let conv = backend.load_conv2d(weight, Some(raw(&[self.outputs])), geometry)?;
                Box::new(move || Ok(backend.conv2d(&x, &conv).map(drop)?))
            }
            "linear" => {
                let linear =
                    backend.load_linear(raw(&[self.outputs, channels]), Some(raw(&[self.outputs])))?;
                Box::new(move || Ok(backend.linear(&x, &linear).map(drop)?))
            }
            "linear_geglu" => {
                let linear =
                    backend.load_linear(raw(&[self.outputs, channels]), Some(raw(&[self.outputs])))?;
                Box::new(move || Ok(backend.linear_geglu(&x, &linear).map(drop)?))
            }
            "attention" => {
                let key = up(&[self.shape[0], self.keys, channels])?;
                let heads = self.heads;
                Box::new(move || {
                    Ok(backend.attention(&x, &key, &key, heads, AttentionOptions::default()).map(drop)?)
                })
            }
            "layer_norm" => {
                let norm = backend.load_norm(raw(&[channels]), raw(&[channels]))?;
                Box::new(move || Ok(backend.layer_norm(&x, &norm, 1e-5).map(drop)?))
            }
            "group_norm_silu" => {
                let norm = backend.load_norm(raw(&[channels]), raw(&[channels]))?;
                Box::new(move || Ok(backend.group_norm_silu(&x, &norm, 32, 1e-5).map(drop)?))
            }
            "geglu" => Box::new(move || Ok(backend.geglu(&x).map(drop)?)),
            "silu" => Box::new(move || Ok(backend.silu(&x).map(drop)?)),
            "gelu" => Box::new(move || Ok(backend.gelu(&x).map(drop)?)),
            other => return Err(format!("no kernel {other}").into()),
        };
        Ok(Ready(work))
    }
}

type Work<'a> = Box<dyn Fn() -> Result<(), Fault> + 'a>;

/// An operation with its data.
pub(crate) struct Ready<'a>(Work<'a>);

impl Ready<'_> {
    /// Calls the operation for [`TURN`] or once, and returns the seconds of the quickest call.
    ///
    /// In a network an operation follows on others. A single call after a rest or after the other program's turn would time how
    /// quickly a core wakes and fills its caches.
    pub(crate) fn time(&self) -> Result<f64, Fault> {
        let begun = Instant::now();
        let mut best = f64::INFINITY;
        loop {
            let call = Instant::now();
            (self.0)()?;
            best = best.min(call.elapsed().as_secs_f64());
            if begun.elapsed() >= TURN {
                return Ok(best);
            }
        }
    }
}

fn wave(shape: &[usize]) -> ArrayD<f64> {
    let mut state = 1u32;
    ArrayD::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 23) - 1.0
    })
}

fn raw(shape: &[usize]) -> RawTensor<'static> {
    let data: Vec<u8> = wave(shape).iter().flat_map(|&x| (x as f32 * 0.05).to_le_bytes()).collect();
    RawTensor { dtype: DType::F32, shape: shape.to_vec(), data: Cow::Owned(data) }
}
