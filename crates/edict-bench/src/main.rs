//! Times the networks at the size of Stable Diffusion, beside PyTorch.
//!
//! The model has random weights and the shape of a real one. Both programs are asked by turns, so that a busy machine slows
//! both; what is reported are medians.
#![forbid(unsafe_code)]

mod kernels;
mod memory;
mod networks;
mod peer;
mod timed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use edict_candle::CandleBackend;
use edict_stable_diffusion::DType;
use serde_json::{Map, Value, json};

use kernels::Kernel;
use networks::Networks;
use peer::Peer;

pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, Parser)]
#[command(about = "Times the networks at the size of Stable Diffusion, beside PyTorch", version)]
pub(crate) struct Options {
    /// Shape of the model: sd15 or sd21
    #[arg(long, default_value = "sd15", value_parser = ["sd15", "sd21"])]
    shape: String,
    /// Python with the packages of benches/compare/requirements.txt; without it only candle is timed, on a model that is there
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where models with random weights are kept
    #[arg(long, default_value = "target/bench-models")]
    models: PathBuf,
    /// Threads of either program
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Times that each is asked, after one to warm up
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Keeps weights in f16 or bf16 while computing in f32
    #[arg(long, value_parser = ["f16", "bf16"])]
    weights: Option<String>,
    /// Side of the picture
    #[arg(long, default_value_t = 512)]
    side: usize,
    /// Leaves the networks out
    #[arg(long)]
    kernels_only: bool,
    /// Only the kernels whose name holds this
    #[arg(long, default_value = "")]
    only: String,
    /// Leaves the kernels out
    #[arg(long, conflicts_with = "kernels_only")]
    networks_only: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Fault> {
    let folder = options.models.join(&options.shape);
    let mut peer = options.python.as_ref().map(|python| Peer::start(python, options.threads)).transpose()?;
    let mut found = Map::new();
    if !options.kernels_only {
        make_model(&folder, options)?;
        let (networks, loading) = Networks::load(&folder, options)?;
        found.insert("load".to_owned(), loading);
        if let Some(peer) = &mut peer {
            peer.ask(&json!({"do": "load", "folder": folder, "side": options.side}))?;
        }
        for (name, run) in Networks::PARTS {
            eprintln!("{name}");
            let part = compare(options.rounds, || run(&networks), peer.as_mut(), &json!({"do": name}))?;
            found.insert(name.to_owned(), part);
        }
        found.insert("shares".to_owned(), networks.shares()?);
        if let Some([_, peak]) = memory::resident() {
            // Of the whole process: weights, activations and what kernels need.
            found.insert("peak_bytes".to_owned(), peak.into());
        }
        if let Some(peer) = &mut peer {
            peer.ask(&json!({"do": "unload"}))?;
        }
    }
    if !options.networks_only {
        let backend = backend(options)?;
        let mut all = Map::new();
        for kernel in
            Kernel::all(&options.shape).into_iter().filter(|kernel| kernel.name().contains(&options.only))
        {
            eprintln!("{}", kernel.name());
            let mut ready = kernel.prepare(&backend)?;
            let asked = kernel.json();
            all.insert(kernel.name(), compare(4 * options.rounds, || ready.time(), peer.as_mut(), &asked)?);
        }
        found.insert("kernels".to_owned(), Value::Object(all));
    }
    if options.json {
        println!("{}", Value::Object(found));
    } else {
        print!("{}", table(&found));
    }
    Ok(())
}

/// The back end as the options ask for it.
pub(crate) fn backend(options: &Options) -> Result<CandleBackend, Fault> {
    let backend = CandleBackend::cpu(DType::F32).with_threads(options.threads)?;
    Ok(match options.weights.as_deref() {
        Some("f16") => backend.with_weights(DType::F16)?,
        Some(_) => backend.with_weights(DType::BF16)?,
        None => backend,
    })
}

/// Makes the model where it is not there yet; the random weights come from PyTorch's own initialisation.
fn make_model(folder: &Path, options: &Options) -> Result<(), Fault> {
    if folder.join("complete").exists() {
        return Ok(());
    }
    let Some(python) = &options.python else {
        return Err(format!("{} is not there, and without --python none is made", folder.display()).into());
    };
    eprintln!("making {}", folder.display());
    let script = peer::scripts().join("models.py");
    let status = std::process::Command::new(python)
        .arg(script)
        .arg(&options.shape)
        .arg(folder)
        .stdout(std::io::stderr())
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("models.py ended with {status}").into()) }
}

/// Times both by turns; returns medians in seconds and their ratio.
fn compare(
    rounds: usize,
    mut ours: impl FnMut() -> Result<f64, Fault>,
    mut peer: Option<&mut Peer>,
    asked: &Value,
) -> Result<Value, Fault> {
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        if peer.is_some() {
            // PyTorch's threads go on spinning for some milliseconds in case there is more to do.
            std::thread::sleep(Duration::from_millis(20));
        }
        let seconds = ours()?;
        let other = peer.as_mut().map(|peer| peer.seconds(asked)).transpose()?;
        // The first warms up.
        if round > 0 {
            mine.push(seconds);
            theirs.extend(other);
        }
    }
    let candle = median(&mut mine);
    let mut found = json!({"candle": candle});
    if !theirs.is_empty() {
        let pytorch = median(&mut theirs);
        found["pytorch"] = pytorch.into();
        found["ratio"] = (candle / pytorch).into();
    }
    Ok(found)
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The same as text, a row each.
fn table(found: &Map<String, Value>) -> String {
    let mut text = String::from("| what | candle | PyTorch | ratio |\n|---|---|---|---|\n");
    let number = |value: &Value, factor: f64| {
        value.as_f64().map_or(String::new(), |value| format!("{:.3}", factor * value))
    };
    let mut row = |name: &str, value: &Value| {
        text += &format!(
            "| {name} | {} ms | {} ms | {} |\n",
            number(&value["candle"], 1e3),
            number(&value["pytorch"], 1e3),
            number(&value["ratio"], 1.0)
        );
    };
    for (name, value) in found {
        match value {
            Value::Object(kernels) if name == "kernels" => {
                kernels.iter().for_each(|(name, value)| row(name, value));
            }
            value if value.get("candle").is_some() => row(name, value),
            _ => {}
        }
    }
    for name in ["load", "shares", "peak_bytes"] {
        if let Some(value) = found.get(name) {
            text += &format!("\n{name}: {value}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_medians_and_leaves_the_first_out() {
        let mut times = [100.0, 3.0, 1.0, 2.0].into_iter();
        let found = compare(3, || times.next().ok_or_else(|| "asked too often".into()), None, &json!({}));
        assert_eq!(found.unwrap(), json!({"candle": 2.0}));
    }
}
