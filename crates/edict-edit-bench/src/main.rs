//! Measures edits whose right outcome is known.
//!
//! The scene program draws a picture, and the picture that an ideal edit would make of it. Every method edits the first under the
//! two captions; what it keeps, what it changes and how near it comes is measured against the second. Results go to a file, a
//! line each: a run that is cut goes on where it was.
#![forbid(unsafe_code)]

mod best;
mod bootstrap;
mod case;
mod method;
mod pareto;
mod plot;
mod reconstruction;
mod results;
mod runs;
mod score;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use case::Case;
use clap::Parser;
use edict_candle::CandleBackend;
use edict_scenes::Attribute;
use edict_stable_diffusion::{DType, ModelFolder, StableDiffusion, pixel_mse};
use method::{Method, Setting};
use results::{Reconstruction, Results, key};
use score::Score;
use serde_json::json;

pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, Parser)]
#[command(about = "Measures edits whose right outcome is known", version)]
pub(crate) struct Options {
    /// Model folder [default: the demo model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// File of results, gone on with if it is there
    #[arg(long, default_value = "target/edit-bench.jsonl")]
    results: PathBuf,
    /// Edits of each kind
    #[arg(long, default_value_t = 200)]
    cases: u64,
    /// Guidance scales
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,5,7")]
    guidance: Vec<f64>,
    /// Strengths
    #[arg(long, value_delimiter = ',', default_value = "0.6,0.8,1")]
    strength: Vec<f64>,
    /// Step counts
    #[arg(long, value_delimiter = ',', default_value = "10,20,50")]
    steps: Vec<usize>,
    /// Methods
    #[arg(long, value_delimiter = ',', default_value = "edict,belm,bdia,ddim,sdedit")]
    methods: Vec<String>,
    /// Gamma of BDIA
    #[arg(long, default_value_t = 0.98)]
    gamma: f64,
    /// Networks at work side by side, a thread each
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Writes what is printed, as Markdown
    #[arg(long)]
    table: Option<PathBuf>,
    /// Draws preservation against success
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Only summarizes the results there are
    #[arg(long)]
    summary: bool,
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
    let folder = match &options.model {
        Some(path) => ModelFolder::open(path)?,
        None => edict_demo_model::folder()?,
    };
    let fingerprint = folder.fingerprint()?;
    let results = Results::open(&options.results, &json!({"model": fingerprint, "gamma": options.gamma}))?;
    let methods: Vec<_> = (Method::all(options.gamma)?.into_iter())
        .filter(|method| options.methods.iter().any(|name| name == method.name()))
        .collect();
    let mut settings = Vec::new();
    for &steps in &options.steps {
        for &strength in &options.strength {
            settings.extend(options.guidance.iter().map(|&guidance| Setting { guidance, strength, steps }));
        }
    }
    if !options.summary {
        measure(options, &folder, &methods, &settings, &results)?;
    }
    let runs = runs::runs(&methods, &settings, options.cases, &results);
    if runs.is_empty() {
        return Err(
            format!("{} has no results of these methods and settings", options.results.display()).into()
        );
    }
    let text = summary::report(&runs, &fingerprint);
    print!("{text}");
    if let Some(path) = &options.table {
        std::fs::write(path, &text)?;
    }
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&runs)?)?;
    }
    Ok(())
}

/// Runs what is not among the results yet. Cases come first in the order, so that a run that is cut has measured every setting on
/// the same ones.
fn measure(
    options: &Options,
    folder: &ModelFolder,
    methods: &[Method],
    settings: &[Setting],
    results: &Results,
) -> Result<(), Fault> {
    let jobs: Vec<_> = (0..options.cases).flat_map(|number| Attribute::ALL.map(|a| (a, number))).collect();
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let work = || -> Result<(), Fault> {
        let model = StableDiffusion::load(&CandleBackend::cpu(DType::F32).with_threads(1)?, folder)?;
        let side = folder.unet_config().sample_size.map_or(64, |[side, _]| side * model.factor());
        while let Some(&(attribute, number)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let case = Case::draw(attribute, number, side)?;
            let latent = model.encode_images(case.source.view())?.mode();
            let floor = model.decode(&latent)?;
            let floor_mse = pixel_mse(floor.view(), case.source.view())?;
            for method in methods {
                for &setting in settings {
                    let key = key(method.name(), setting, attribute, number);
                    if results.has(&key) {
                        continue;
                    }
                    // The paper's Table 1 on this data.
                    let reconstruct = setting.steps == 50 && setting.strength == 1.0;
                    let result = match method.run(&model, &case, &latent, setting, reconstruct) {
                        Ok((edit, back)) => {
                            let score = Score::of(&case, &model.decode(&edit)?, &floor);
                            let back = match back {
                                Some(back) => {
                                    let mse = pixel_mse(model.decode(&back)?.view(), case.source.view())?;
                                    Some(Reconstruction { mse, floor: floor_mse })
                                }
                                None => None,
                            };
                            Ok((score, back))
                        }
                        Err(error) => Err(error.to_string()),
                    };
                    results.add(&key, result)?;
                }
            }
            eprintln!("{} {number}: {:.0} s", attribute.word(), begun.elapsed().as_secs_f64());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err("a worker has panicked".into()),
        })
    })
}
