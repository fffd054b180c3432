//! The same edit by edict on candle, by edict on PyTorch, and by two programs in Python as their users have them.
//!
//! Everyone reads the same model folder, picture, prompts and settings, and works in a process of its own. They are asked by turns, so
//! that a busy machine slows all of them; ratios are formed within a round.
#![forbid(unsafe_code)]

mod contestant;
mod machine;
mod process;
mod table;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use edict_candle::CandleBackend;
use edict_stable_diffusion::{
    DType, ImageSize, ModelFolder, Picture, check_writable, write_atomically, write_png,
};
use edict_tch::TchBackend;
use ndarray::Axis;
use serde_json::{Value, json};

use contestant::{Contestant, contestants};
use process::Process;

pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(about = "The same edit by candle, by PyTorch behind edict, and by PyTorch in Python", version)]
struct Cli {
    #[command(subcommand)]
    worker: Option<Work>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Edit on one back end, a line of JSON at a time; started by the comparison
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, Args)]
struct Worker {
    #[arg(long, value_enum)]
    backend: Library,
    #[command(flatten)]
    load: Load,
}

/// What every process is started with.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Model folder
    #[arg(long, default_value = "tests/golden/models/tiny-sd1")]
    pub(crate) model: PathBuf,
    /// Device of everyone: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Precision of the networks but the authors', which are f64
    #[arg(long, default_value = "f32", value_parser = ["f32", "f64", "f16", "bf16"])]
    pub(crate) dtype: String,
    /// Threads of everyone
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Library {
    Candle,
    Tch,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Python with the packages of benches/compare/requirements.txt; without it Python is left out
    #[arg(long)]
    python: Option<PathBuf>,
    /// Picture to edit
    #[arg(long, default_value = "tests/golden/images/photo-64.png")]
    image: PathBuf,
    /// Size it is cropped and resized to
    #[arg(long, default_value = "64x64")]
    size: String,
    /// What the picture shows
    #[arg(long, default_value = "a photo of a cat")]
    source: String,
    /// What it shall show
    #[arg(long, default_value = "a photo of a dog")]
    target: String,
    /// Steps over the full schedule
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Share of the schedule that is run
    #[arg(long, default_value_t = 0.8)]
    strength: f64,
    /// Guidance scale
    #[arg(long, default_value_t = 3.0)]
    guidance: f64,
    /// Rounds that count, after one to warm up
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only those of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// One process at a time, started anew for each edit: for models of which two do not fit into memory
    #[arg(long)]
    fresh: bool,
    /// Also say what an edit of so many executed steps would take, by the time of a step
    #[arg(long)]
    extrapolate: Option<usize>,
    /// Also write the table, with date, machine and commit, to this file
    #[arg(long)]
    write: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.worker {
        Some(Work::Worker(worker)) => work(worker),
        None => compare(&cli.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Works on one back end.
fn work(Worker { backend, load }: &Worker) -> Result<(), Fault> {
    let folder = ModelFolder::open(&load.model)?;
    let dtype = match load.dtype.as_str() {
        "f64" => DType::F64,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => DType::F32,
    };
    let on_cpu = load.device == "cpu";
    match backend {
        Library::Candle => {
            let backend = CandleBackend::new(load.device.parse()?, dtype)?.with_threads(load.threads)?;
            // Handed over to its threads once, not operation by operation.
            backend.install(|| worker::serve(&backend, &folder, on_cpu))
        }
        Library::Tch => {
            let backend = TchBackend::new(load.device.parse()?, dtype)?.with_threads(load.threads)?;
            worker::serve(&backend, &folder, on_cpu)
        }
    }
}

fn compare(options: &Options) -> Result<(), Fault> {
    // Rounds take minutes: what cannot be written is told before them.
    options.write.as_deref().map_or(Ok(()), check_writable)?;
    let picture = prepare(options)?;
    let job = json!({
        "image": picture, "source": options.source, "target": options.target, "negative": "",
        "steps": options.steps, "strength": options.strength, "guidance": options.guidance,
    });
    let all: Vec<_> = (contestants().into_iter())
        .filter(|one| options.only.is_empty() || options.only.iter().any(|name| name == one.name))
        .filter(|one| options.python.is_some() || !one.is_python())
        .collect();
    if all.is_empty() {
        let names: Vec<_> = contestants().iter().map(|one| one.name).collect();
        return Err(format!("--only {:?} names none of {names:?}", options.only).into());
    }
    let mut field: Vec<Entrant> = all.into_iter().map(Entrant::new).collect();
    let mut left_out = Vec::new();
    // Before the first results, which change what is in the repository.
    let machine = machine::describe();
    for round in 0..=options.rounds {
        let mut staying = Vec::new();
        for mut entrant in field {
            eprintln!("round {round} of {}: {}", options.rounds, entrant.one.name);
            match entrant.edit(&job, round, options) {
                Ok(()) => staying.push(entrant),
                // The others go on: not every program runs on every device.
                Err(error) => {
                    let line = format!("{} was left out: {error}", entrant.one.name);
                    eprintln!("{line}");
                    left_out.push(line);
                }
            }
        }
        field = staying;
        if field.is_empty() {
            return Err(left_out.join("; ").into());
        }
        if let Some(path) = options.write.as_ref().filter(|_| round > 0) {
            // After each round: what is cut off leaves what there is.
            let found = table::Comparison::new(&field, &left_out, round, options);
            write_atomically(path, |file| file.write_all(found.page(&machine).as_bytes()))?;
        }
    }
    let found = table::Comparison::new(&field, &left_out, options.rounds, options);
    if options.json {
        println!("{}", found.json());
    } else {
        print!("{}", found.text());
    }
    // It may be gone already, and harms nobody.
    let _ = std::fs::remove_file(&picture);
    if let Some(path) = &options.write {
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// A contestant, its process while it keeps one, and what it has answered.
pub(crate) struct Entrant {
    pub(crate) one: Contestant,
    process: Option<Process>,
    pub(crate) answers: Vec<Value>,
}

impl Entrant {
    fn new(one: Contestant) -> Self {
        Self { one, process: None, answers: Vec::new() }
    }

    fn edit(&mut self, job: &Value, round: usize, options: &Options) -> Result<(), Fault> {
        let mut ask = job.clone();
        ask["algorithm"] = self.one.algorithm.into();
        // The first warms up, and is asked what nobody times.
        ask["round_trip"] = (round == 0).into();
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start(&self.one, options)?,
        };
        self.answers.push(process.ask(&ask)?);
        if !options.fresh {
            self.process = Some(process);
        }
        Ok(())
    }
}

/// Writes the picture as everyone reads it, cropped and resized.
fn prepare(options: &Options) -> Result<PathBuf, Fault> {
    let size: ImageSize = options.size.parse()?;
    let folder = ModelFolder::open(&options.load.model)?;
    let picture = Picture::open(&options.image)?.prepare(Some(size), folder.vae_config().factor())?;
    let path = std::env::temp_dir().join(format!("edict-compare-{}.png", std::process::id()));
    write_png(&path, picture.index_axis(Axis(0), 0))?;
    Ok(path)
}
