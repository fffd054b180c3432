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
use edict_stable_diffusion::{Backend, DType};
use serde_json::{Map, Value, json};

use kernels::{Kernel, Ready};
use networks::Networks;
use peer::Peer;

pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, Parser)]
#[command(about = "Times the networks at the size of Stable Diffusion, beside PyTorch", version)]
pub(crate) struct Options {
    /// Shape of the model: sd15 or sd21
    #[arg(long, default_value = "sd15", value_parser = ["sd15", "sd21"])]
    shape: String,
    /// Back ends: candle, tch (built with `--features tch`) or both
    #[arg(long, default_value = "candle", value_delimiter = ',', value_parser = ["candle", "tch"])]
    backends: Vec<String>,
    /// Python with the packages of benches/compare/requirements.txt; without it nothing else is timed, on a model that is there
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
    /// Keeps candle's weights in f16 or bf16 while computing in f32
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
    let mut timers: Vec<Box<dyn Timer>> = Vec::new();
    for name in &options.backends {
        timers.push(match name.as_str() {
            "candle" => Box::new(Contestant::new("candle", candle(options)?)),
            #[cfg(feature = "tch")]
            "tch" => {
                let backend = edict_tch::TchBackend::cpu(DType::F32).with_threads(options.threads)?;
                Box::new(Contestant::new("tch", backend))
            }
            _ => return Err("this build has no tch back end: build it with `--features tch`".into()),
        });
    }
    let folder = options.models.join(&options.shape);
    let mut peer = options.python.as_ref().map(|python| Peer::start(python, options.threads)).transpose()?;
    let mut found = Map::new();
    if !options.kernels_only {
        make_model(&folder, options)?;
        let mut loading = Map::new();
        for timer in &mut timers {
            loading.insert(timer.name().to_owned(), timer.load(&folder, options)?);
        }
        found.insert("load".to_owned(), Value::Object(loading));
        if let Some(peer) = &mut peer {
            peer.ask(&json!({"do": "load", "folder": folder, "side": options.side}))?;
        }
        for (index, name) in PARTS.into_iter().enumerate() {
            eprintln!("{name}");
            let mut runs = timers
                .iter()
                .map(|timer| -> Run<'_> { (timer.name(), Box::new(move || timer.part(index))) })
                .collect();
            let part = compare(options.rounds, &mut runs, peer.as_mut(), &json!({"do": name}))?;
            found.insert(name.to_owned(), part);
        }
        let shares = timers.iter().map(|timer| Ok((timer.name().to_owned(), timer.shares()?)));
        found.insert("shares".to_owned(), Value::Object(shares.collect::<Result<_, Fault>>()?));
        if let Some([_, peak]) = memory::resident() {
            // Of the whole process: weights, activations and what kernels need.
            found.insert("peak_bytes".to_owned(), peak.into());
        }
        timers.iter_mut().for_each(|timer| timer.unload());
        if let Some(peer) = &mut peer {
            peer.ask(&json!({"do": "unload"}))?;
        }
    }
    if !options.networks_only {
        let mut all = Map::new();
        for kernel in
            Kernel::all(&options.shape).into_iter().filter(|kernel| kernel.name().contains(&options.only))
        {
            eprintln!("{}", kernel.name());
            let mut runs = Vec::new();
            for timer in &timers {
                let ready = timer.kernel(&kernel)?;
                runs.push((timer.name(), Box::new(move || ready.time()) as Box<dyn FnMut() -> _>));
            }
            let asked = kernel.json();
            all.insert(kernel.name(), compare(4 * options.rounds, &mut runs, peer.as_mut(), &asked)?);
        }
        found.insert("kernels".to_owned(), Value::Object(all));
    }
    if options.json {
        println!("{}", Value::Object(found));
    } else {
        print!("{}", table(&found, &options.backends));
    }
    Ok(())
}

/// candle's back end as the options ask for it.
fn candle(options: &Options) -> Result<CandleBackend, Fault> {
    let backend = CandleBackend::cpu(DType::F32).with_threads(options.threads)?;
    Ok(match options.weights.as_deref() {
        Some("f16") => backend.with_weights(DType::F16)?,
        Some(_) => backend.with_weights(DType::BF16)?,
        None => backend,
    })
}

/// What of a model is timed.
const PARTS: [&str; 4] = ["unet_call", "vae_encode", "vae_decode", "text_encode"];

/// A back end that is timed, whichever it is.
trait Timer {
    fn name(&self) -> &'static str;
    /// Loads a model; returns seconds, and bytes beside those of the weights.
    fn load(&mut self, folder: &Path, options: &Options) -> Result<Value, Fault>;
    fn unload(&mut self);
    /// Times the part of the model with an index of [`PARTS`].
    fn part(&self, index: usize) -> Result<f64, Fault>;
    fn shares(&self) -> Result<Value, Fault>;
    fn kernel(&self, kernel: &Kernel) -> Result<Ready<'_>, Fault>;
}

/// A back end and the model it has loaded.
struct Contestant<B: Backend> {
    name: &'static str,
    backend: B,
    networks: Option<Networks<B>>,
}

impl<B: Backend> Contestant<B> {
    fn new(name: &'static str, backend: B) -> Self {
        Self { name, backend, networks: None }
    }

    fn networks(&self) -> Result<&Networks<B>, Fault> {
        self.networks.as_ref().ok_or_else(|| "no model is loaded".into())
    }
}

impl<B: Backend> Timer for Contestant<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&mut self, folder: &Path, options: &Options) -> Result<Value, Fault> {
        let (networks, loading) = Networks::load(&self.backend, folder, options)?;
        self.networks = Some(networks);
        Ok(loading)
    }

    fn unload(&mut self) {
        self.networks = None;
    }

    fn part(&self, index: usize) -> Result<f64, Fault> {
        Networks::PARTS[index](self.networks()?)
    }

    fn shares(&self) -> Result<Value, Fault> {
        self.networks()?.shares()
    }

    fn kernel(&self, kernel: &Kernel) -> Result<Ready<'_>, Fault> {
        kernel.prepare(&self.backend)
    }
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

/// A back end's name and what is timed of it.
type Run<'a> = (&'static str, Box<dyn FnMut() -> Result<f64, Fault> + 'a>);

/// Times all by turns; returns medians in seconds and their ratios to PyTorch's.
fn compare(
    rounds: usize,
    runs: &mut Vec<Run<'_>>,
    mut peer: Option<&mut Peer>,
    asked: &Value,
) -> Result<Value, Fault> {
    let mut mine = vec![Vec::new(); runs.len()];
    let mut theirs = Vec::new();
    for round in 0..=rounds {
        for ((_, run), mine) in runs.iter_mut().zip(&mut mine) {
            rest();
            mine.push(run()?);
        }
        rest();
        theirs.extend(peer.as_mut().map(|peer| peer.seconds(asked)).transpose()?);
        // The first warms up.
        if round == 0 {
            mine.iter_mut().for_each(Vec::clear);
            theirs.clear();
        }
    }
    let mut found = json!({});
    for ((name, _), mine) in runs.iter().zip(&mut mine) {
        found[*name] = median(mine).into();
    }
    if !theirs.is_empty() {
        let pytorch = median(&mut theirs);
        for (name, _) in runs.iter() {
            let ratio = found[*name].as_f64().map(|seconds| seconds / pytorch);
            found[ratio_of(name)] = ratio.into();
        }
        found["pytorch"] = pytorch.into();
    }
    Ok(found)
}

/// Lets the threads of PyTorch fall asleep, which go on spinning for some milliseconds in case there is more to do.
fn rest() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Under which name a back end's ratio to PyTorch stands.
fn ratio_of(backend: &str) -> &'static str {
    if backend == "tch" { "tch_ratio" } else { "ratio" }
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The same as text, a row each.
fn table(found: &Map<String, Value>, backends: &[String]) -> String {
    let names = backends.join(" | ");
    let mut text = format!("| what | {names} | PyTorch{} |\n|---|", " | ratio".repeat(backends.len()));
    text += &"---|".repeat(2 * backends.len() + 1);
    text.push('\n');
    let mut row = |name: &str, value: &Value| {
        let seconds = backends.iter().map(|name| &value[name]).chain([&value["pytorch"]]);
        let mut cells: Vec<_> = seconds
            .map(|value| value.as_f64().map_or(String::new(), |s| format!("{:.3} ms", 1e3 * s)))
            .collect();
        let ratios = backends.iter().map(|name| &value[ratio_of(name)]);
        cells.extend(ratios.map(|value| value.as_f64().map_or(String::new(), |ratio| format!("{ratio:.3}"))));
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    };
    for (name, value) in found {
        match value {
            Value::Object(kernels) if name == "kernels" => {
                kernels.iter().for_each(|(name, value)| row(name, value));
            }
            value if PARTS.contains(&name.as_str()) => row(name, value),
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
        let next = Box::new(|| times.next().ok_or_else(|| "asked too often".into()));
        let found = compare(3, &mut vec![("candle", next)], None, &json!({}));
        assert_eq!(found.unwrap(), json!({"candle": 2.0}));
    }
}
