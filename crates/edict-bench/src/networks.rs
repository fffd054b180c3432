//! The networks of a whole model.

use std::path::Path;
use std::time::Instant;

use edict_stable_diffusion::{Backend, ModelFolder, StableDiffusion};
use ndarray::{ArrayD, Axis, concatenate};
use serde_json::{Value, json};

use crate::timed::Timed;
use crate::{Fault, Options, PARTS, memory};

/// A model and what it is asked.
pub(crate) struct Networks<B: Backend> {
    model: StableDiffusion<Timed<B>>,
    backend: Timed<B>,
    latents: ArrayD<f64>,
    image: ArrayD<f64>,
    states: ArrayD<f64>,
}

/// Measurement of a part.
type Part<B> = fn(&Networks<B>) -> Result<f64, Fault>;

impl<B: Backend> Networks<B> {
    /// In the order of [`crate::PARTS`].
    pub(crate) const PARTS: [Part<B>; 4] = [
        |networks| {
            seconds(|| {
                let unet = networks.model.unet();
                let context = unet.context(networks.states.view())?;
                let both = concatenate(Axis(0), &[networks.latents.view(), networks.latents.view()])?;
                Ok(unet.predict(both.view(), 500, &context)?)
            })
        },
        |networks| seconds(|| Ok(networks.model.encode_images(networks.image.view())?)),
        |networks| seconds(|| Ok(networks.model.decode(&networks.latents)?)),
        |networks| seconds(|| Ok(networks.model.encode_prompt("a photo of a cat on a sofa")?)),
    ];

    /// Loads a model; also returns seconds, and bytes beside those of the weights.
    pub(crate) fn load(backend: &B, folder: &Path, options: &Options) -> Result<(Self, Value), Fault> {
        let backend = Timed::new(backend.clone());
        let before = memory::resident();
        let begun = Instant::now();
        let folder = ModelFolder::open(folder)?;
        let model = StableDiffusion::load(&backend, &folder)?;
        let seconds = begun.elapsed().as_secs_f64();
        let files = [folder.unet_weights(), folder.vae_weights(), folder.text_encoder_weights()];
        let bytes: u64 = files.iter().flat_map(|file| file.tensors()).map(|(_, tensor)| tensor.bytes()).sum();
        let mut loading = json!({"seconds": seconds, "weight_bytes": bytes});
        if let (Some([before, _]), Some([after, peak])) = (before, memory::resident()) {
            loading["resident_bytes"] = (after - before).into();
            loading["peak_bytes"] = (peak - before).into();
            loading["peak_ratio"] = ((peak - before) as f64 / bytes as f64).into();
        }
        let side = options.side / 8;
        // Numbers of a size that networks see; which ones is of no interest.
        let wave = |shape: &[usize]| {
            let mut i = 0u32;
            ArrayD::from_shape_simple_fn(shape, || {
                i += 1;
                1.5 * f64::from(i).sin()
            })
        };
        let width = folder.unet_config().context_channels;
        let networks = Self {
            model,
            backend,
            latents: wave(&[1, 4, side, side]),
            image: wave(&[1, 3, options.side, options.side]).mapv(|x: f64| x.clamp(-1.0, 1.0)),
            states: wave(&[2, 77, width]),
        };
        Ok((networks, loading))
    }

    /// Runs each part once more and tells which kind of operation takes which share of its time.
    pub(crate) fn shares(&self) -> Result<Value, Fault> {
        let mut all = serde_json::Map::new();
        for (name, run) in PARTS.into_iter().zip(Self::PARTS) {
            self.backend.reset();
            let whole = run(self)?;
            all.insert(name.to_owned(), self.backend.shares(whole));
        }
        Ok(Value::Object(all))
    }
}

fn seconds<R>(work: impl FnOnce() -> Result<R, Fault>) -> Result<f64, Fault> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}
