//! What a command has to say when it is done.

use std::path::Path;

use edict_core::Latents;
use edict_stable_diffusion::{GuidanceSettings, Moments, latent_mse, moments};
use ndarray::Array4;
use serde_json::{Map, Value, json};

use crate::input::Input;
use crate::session::Session;
use edict_stable_diffusion::Backend;

#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For people.
    pub(crate) text: String,
    /// For programs; time and warnings are added when it is printed.
    pub(crate) json: Map<String, Value>,
    /// Whether the text is the command's purpose, so that `--quiet` does not silence it.
    pub(crate) answers: bool,
}

impl Report {
    pub(crate) fn new<B: Backend>(
        command: &str,
        settings: Map<String, Value>,
        outputs: &[&Path],
        session: &Session<'_, B>,
    ) -> Self {
        let mut report = Self::without_model(command, settings, outputs);
        report.json.insert("network_calls".to_owned(), session.calls().into());
        report.json.insert("probe_calls".to_owned(), session.probe_calls().into());
        report
    }

    pub(crate) fn without_model(command: &str, settings: Map<String, Value>, outputs: &[&Path]) -> Self {
        let outputs: Vec<_> = outputs.iter().map(|path| path.to_string_lossy()).collect();
        let mut text = String::new();
        for path in &outputs {
            text += &format!("wrote {path}\n");
        }
        let mut json = Map::new();
        json.insert("command".to_owned(), command.into());
        json.insert("settings".to_owned(), settings.into());
        json.insert("outputs".to_owned(), json!(outputs));
        json.insert("network_calls".to_owned(), 0.into());
        Self { text, json, answers: false }
    }
}

/// Adds what was read to a report's settings.
pub(crate) fn insert_image(settings: &mut Map<String, Value>, input: &Input<'_>, image: &Array4<f64>) {
    let (_, _, height, width) = image.dim();
    settings.insert("size".to_owned(), vec![width, height].into());
    input.insert(settings);
}

/// Adds guidance to a report's settings.
pub(crate) fn insert_guidance(
    settings: &mut Map<String, Value>,
    prefix: &str,
    guidance: GuidanceSettings,
    negative: &str,
) {
    settings.insert(format!("{prefix}guidance"), guidance.scale.into());
    settings.insert(format!("{prefix}guidance_interval"), json!(guidance.interval));
    settings.insert(format!("{prefix}negative"), negative.into());
}

/// How good the noise that was found is: how far apart the pair is, and how much like noise.
pub(crate) fn noise_quality(x: &Latents, y: &Latents) -> Option<(f64, Moments)> {
    let gap = latent_mse(x.view(), y.view()).ok()?.sqrt();
    Some((gap, moments(x.view()).ok()?))
}

/// [`noise_quality`] for programs.
pub(crate) fn noise_json(quality: Option<(f64, Moments)>) -> Value {
    quality.map_or(Value::Null, |(gap, Moments { mean, std, kurtosis })| {
        json!({"pair_gap": finite(gap), "mean": finite(mean), "std": finite(std), "kurtosis": finite(kurtosis)})
    })
}

/// JSON has no infinities: a number that is not finite is null.
pub(crate) fn finite(value: f64) -> Value {
    if value.is_finite() { value.into() } else { Value::Null }
}
