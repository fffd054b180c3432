//! `edict info`: what a model holds.

use std::collections::BTreeMap;
use std::fmt::Write;

use edict_candle::CandleBackend;
use edict_demo_model::{SAMPLES, Sample};
use edict_stable_diffusion::{
    DType, KeyRole, ModelFolder, PredictionType, SCHEDULER_KEYS, StableDiffusion, TEXT_ENCODER_KEYS,
    UNET_KEYS, VAE_KEYS, WeightFile,
};
use serde_json::{Map, Value, json};

use crate::args::InfoArgs;
use crate::failure::Failure;
use crate::progress::Reporter;
use crate::report::Report;
use crate::session;

pub(crate) fn run(args: &InfoArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let folder = session::open_folder(args.model.as_deref(), reporter)?;
    let tokenizer = folder.tokenizer()?;
    let (unet, vae, text) = (folder.unet_config(), folder.vae_config(), folder.text_encoder_config());
    let scheduler = folder.scheduler_config();
    let prediction = match scheduler.prediction_type {
        PredictionType::Epsilon => "epsilon",
        PredictionType::V => "v_prediction",
        PredictionType::Sample => "sample",
        _ => "unknown",
    };
    let parts = [
        ("unet", folder.unet_weights()),
        ("vae", folder.vae_weights()),
        ("text_encoder", folder.text_encoder_weights()),
    ];
    let fingerprint = folder.fingerprint()?;

    let mut settings = Map::new();
    settings.insert("model".to_owned(), folder.path().to_string_lossy().into());
    let mut report = Report::without_model("info", settings, &[]);
    report.answers = true;
    let text_out = &mut report.text;
    // Writing to a string cannot fail.
    let _ = writeln!(text_out, "model          {}", folder.path().display());
    let _ =
        writeln!(text_out, "pipeline       {}", folder.index().pipeline.as_deref().unwrap_or("not named"));
    let _ = writeln!(text_out, "fingerprint    {fingerprint}");
    let mut parts_json = Map::new();
    for (name, weights) in parts {
        let size = Size::of(weights);
        let _ = writeln!(text_out, "{name:<14} {size}");
        parts_json.insert(name.to_owned(), size.json());
    }
    let channels: Vec<_> = unet.levels.iter().map(|level| level.channels).collect();
    let heads: Vec<_> = unet.levels.iter().map(|level| level.heads).collect();
    let _ = writeln!(text_out, "unet levels    {channels:?} channels, {heads:?} heads");
    let _ = writeln!(
        text_out,
        "latents        {} channels, {} pixels a side each, scaled by {}",
        vae.latent_channels,
        vae.factor(),
        vae.scaling_factor
    );
    if let Some([height, width]) = unet.sample_size {
        let _ = writeln!(text_out, "trained at     {}x{}", width * vae.factor(), height * vae.factor());
    }
    let _ = writeln!(
        text_out,
        "text           {} layers of {} channels, {} tokens, padded with id {}",
        text.num_hidden_layers,
        text.hidden_size,
        tokenizer.length(),
        tokenizer.pad_id()
    );
    let _ = writeln!(
        text_out,
        "schedule       {} timesteps, predicts {prediction}, spacing {:?}, offset {}",
        scheduler.num_train_timesteps, scheduler.timestep_spacing, scheduler.steps_offset
    );

    // Loading tells which tensors are read, and that a run would find all it needs.
    StableDiffusion::load(&CandleBackend::cpu(DType::F32), &folder)?;
    let unused: Vec<_> = (parts.iter())
        .flat_map(|(part, weights)| weights.unread().into_iter().map(move |name| format!("{part}: {name}")))
        .collect();
    let keys = keys_without_effect(&folder)?;
    for (what, ignored) in [("tensors", &unused), ("settings", &keys)] {
        let _ = match ignored.as_slice() {
            [] => writeln!(text_out, "ignored        no {what}"),
            [first, ..] => writeln!(text_out, "ignored        {} {what}, such as {first}", ignored.len()),
        };
    }
    report.json.insert("fingerprint".to_owned(), fingerprint.into());
    report.json.insert("parts".to_owned(), parts_json.into());
    report.json.insert(
        "architecture".to_owned(),
        json!({
            "pipeline": folder.index().pipeline, "unet_channels": channels, "unet_heads": heads,
            "latent_channels": vae.latent_channels, "vae_factor": vae.factor(), "scaling_factor": vae.scaling_factor,
            "sample_size": unet.sample_size, "text_layers": text.num_hidden_layers,
            "text_channels": text.hidden_size, "tokens": tokenizer.length(), "pad_id": tokenizer.pad_id(),
        }),
    );
    report.json.insert(
        "scheduler".to_owned(),
        json!({
            "training_timesteps": scheduler.num_train_timesteps, "prediction_type": prediction,
            "timestep_spacing": format!("{:?}", scheduler.timestep_spacing).to_lowercase(),
            "steps_offset": scheduler.steps_offset, "set_alpha_to_one": scheduler.set_alpha_to_one,
        }),
    );
    report.json.insert("ignored".to_owned(), json!({ "tensors": unused, "settings": keys }));
    if args.model.is_none() {
        for Sample { name, caption, .. } in &SAMPLES {
            let _ = writeln!(text_out, "sample         {name}: {caption}");
        }
        let samples: Map<_, _> =
            SAMPLES.iter().map(|sample| (sample.name.to_owned(), sample.caption.into())).collect();
        report.json.insert("samples".to_owned(), samples.into());
    }
    Ok(report)
}

/// Settings in the configs that cannot change a result, each with the reason.
fn keys_without_effect(folder: &ModelFolder) -> Result<Vec<String>, Failure> {
    let mut ignored = Vec::new();
    for (file, table) in [
        ("unet/config.json", UNET_KEYS),
        ("vae/config.json", VAE_KEYS),
        ("text_encoder/config.json", TEXT_ENCODER_KEYS),
        ("scheduler/scheduler_config.json", SCHEDULER_KEYS),
    ] {
        let config: Map<String, Value> = match folder.file(file)? {
            // Opening the folder has parsed it; what it has not is Python's spelling of infinities.
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => continue,
        };
        for key in table {
            if let KeyRole::WithoutEffect(reason) = key.role
                && config.contains_key(key.name)
            {
                ignored.push(format!("{file}: {} ({reason})", key.name));
            }
        }
    }
    Ok(ignored)
}

/// What a weight file holds.
struct Size {
    file: String,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    dtypes: BTreeMap<String, usize>,
}

impl Size {
    fn of(weights: &WeightFile) -> Self {
        let file = weights.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut size = Self { file, tensors: 0, parameters: 0, bytes: 0, dtypes: BTreeMap::new() };
        for (_, tensor) in weights.tensors() {
            size.tensors += 1;
            size.parameters = size.parameters.saturating_add(
                tensor.shape().iter().fold(1, |count: u64, extent| count.saturating_mul(*extent as u64)),
            );
            size.bytes += tensor.bytes();
            *size.dtypes.entry(tensor.dtype().to_lowercase()).or_default() += 1;
        }
        size
    }

    fn json(&self) -> Value {
        json!({
            "file": self.file, "tensors": self.tensors, "parameters": self.parameters, "bytes": self.bytes,
            "dtypes": self.dtypes,
        })
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, tensors, parameters, bytes, dtypes } = self;
        let dtypes: Vec<_> = dtypes.keys().map(String::as_str).collect();
        let (millions, mib) = (*parameters as f64 / 1e6, *bytes as f64 / 1_048_576.0);
        write!(
            f,
            "{file}: {millions:.1} M parameters in {tensors} tensors, {mib:.1} MiB, {}",
            dtypes.join(" and ")
        )
    }
}
