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
mod pick;
mod plot;
mod reconstruction;
mod results;
mod runs;
mod score;
mod summary;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use case::Case;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use edict_candle::CandleBackend;
use edict_core::Latents;
use edict_scenes::Attribute;
use edict_stable_diffusion::{AnyState, DType, ModelFolder, StableDiffusion, pixel_mse, write_png};
use method::{Method, NAMES, Plan, Setting};
use ndarray::Axis;
use pick::Picks;
use results::{Reconstruction, Results, ceiling_key, key};
use runs::Run;
use score::{Criterion, Score};
use serde_json::{Value, json};
use summary::About;

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
    /// Number of the first edit of each kind: settings picked on some edits are to be judged on others
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Guidance scales
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,5,7")]
    guidance: Vec<f64>,
    /// Guidance scales of the inversion; "same" stands for the guidance scale of the edit
    #[arg(long, value_delimiter = ',', default_value = "same,1", value_parser = source_guidance)]
    source_guidance: Vec<SourceGuidance>,
    /// Strengths
    #[arg(long, value_delimiter = ',', default_value = "0.6,0.8,1")]
    strength: Vec<f64>,
    /// Step counts
    #[arg(long, value_delimiter = ',', default_value = "10,20,50")]
    steps: Vec<usize>,
    /// Methods
    #[arg(long, value_delimiter = ',', default_value = "edict,belm,bdia,ddim,sdedit",
          value_parser = PossibleValuesParser::new(NAMES))]
    methods: Vec<String>,
    /// Gamma of BDIA
    #[arg(long, default_value_t = 0.98)]
    gamma: f64,
    /// Networks at work side by side, a thread each
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Results of other edits to pick settings on: only those worth it are judged, on the attributes that they are worth it for
    #[arg(long, value_name = "RESULTS")]
    pick: Option<PathBuf>,
    /// What counts as a success
    #[arg(long, value_enum, default_value = "halfway")]
    criterion: Criterion,
    /// What the report gives as its date
    #[arg(long, value_name = "TEXT")]
    date: Option<String>,
    /// Writes what is printed, as Markdown
    #[arg(long)]
    table: Option<PathBuf>,
    /// Draws preservation against success
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Folder to write the pictures of every edit that is measured to: source, ideal edit, and what each method made
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Only summarizes the results there are
    #[arg(long)]
    summary: bool,
}

impl Options {
    /// The numbers of the edits of each kind.
    fn numbers(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.cases)
    }
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers a command line that is wrong, in one line, or one that asks for help.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    // clap's own text goes on with usage and a hint, after an empty line.
    let text = error.render().to_string();
    let message: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    eprintln!("{} (see --help)", message.join(" "));
    ExitCode::from(2)
}

/// The guidance scale of an inversion.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SourceGuidance {
    /// That of the edit.
    Same,
    Of(f64),
}

fn source_guidance(text: &str) -> Result<SourceGuidance, String> {
    match text {
        "same" => Ok(SourceGuidance::Same),
        _ => text.parse().map(SourceGuidance::Of).map_err(|_| "wanted a number or \"same\"".to_owned()),
    }
}

/// Pairs every step count with every strength and every guidance scale.
fn plans(options: &Options, folder: &ModelFolder) -> Result<Vec<Plan>, Fault> {
    let mut plans = Vec::new();
    for &steps in &options.steps {
        for &strength in &options.strength {
            let mut settings = Vec::new();
            for source in &options.source_guidance {
                for &guidance in &options.guidance {
                    let source_guidance = match *source {
                        SourceGuidance::Same => guidance,
                        SourceGuidance::Of(scale) => scale,
                    };
                    let setting = Setting { guidance, source_guidance, strength, steps };
                    if !settings.contains(&setting) {
                        settings.push(setting);
                    }
                }
            }
            // Those that share an inversion stand together, so that it is made once.
            settings.sort_by(|a: &Setting, b| a.source_guidance.total_cmp(&b.source_guidance));
            for setting in settings {
                plans.push(Plan::new(setting, folder)?);
            }
        }
    }
    Ok(plans)
}

/// The side of the model's pictures.
fn side(folder: &ModelFolder) -> usize {
    folder.unet_config().sample_size.map_or(64, |[side, _]| side * folder.vae_config().factor())
}

fn run(options: &Options) -> Result<(), Fault> {
    let folder = match &options.model {
        Some(path) => ModelFolder::open(path)?,
        None => edict_demo_model::folder()?,
    };
    let fingerprint = folder.fingerprint()?;
    // What is wrong with a setting is told before anything is measured or written.
    let plans = plans(options, &folder)?;
    let methods: Vec<_> = (Method::all(options.gamma)?.into_iter())
        .filter(|method| options.methods.iter().any(|name| name == method.name()))
        .collect();
    let with = json!({
        "model": fingerprint, "gamma": options.gamma, "scenes": case::fingerprint(side(&folder))?, "scoring": score::VERSION,
    });
    let picked_on = match &options.pick {
        Some(path) => Some(picked_on(path, options, (&methods, &plans), &with)?),
        None => None,
    };
    let results = Results::open(&options.results, &with)?;
    if !options.summary {
        let cases: Vec<_> =
            options.numbers().flat_map(|number| Attribute::ALL.map(|a| (a, number))).collect();
        let bench = Bench {
            folder: &folder,
            methods: &methods,
            plans: &plans,
            picks: picked_on.as_deref().map(Picks::of),
            reconstruct: 50,
            pictures: options.pictures.as_deref(),
        };
        bench.measure(&cases, options.workers, &results)?;
    }
    let runs = runs::runs(&methods, &plans, options.numbers(), options.criterion, &results)?;
    if runs.is_empty() {
        return Err(
            format!("{} has no results of these methods and settings", options.results.display()).into()
        );
    }
    let about = About {
        model: fingerprint,
        gamma: options.gamma,
        criterion: options.criterion,
        date: options.date.clone(),
    };
    let text = summary::report(
        &runs,
        picked_on.as_deref(),
        &about,
        &runs::ceiling(options.numbers(), options.criterion, &results),
    );
    print!("{text}");
    if let Some(path) = &options.table {
        results::write(path, &text)?;
    }
    if let Some(path) = &options.plot {
        results::write(path, &plot::svg(&runs)?)?;
    }
    Ok(())
}

/// Reads the runs that settings are to be picked on.
///
/// # Errors
/// If there are none, or some of their edits are to be judged.
fn picked_on(
    path: &Path,
    options: &Options,
    (methods, plans): (&[Method], &[Plan]),
    with: &Value,
) -> Result<Vec<Run>, Fault> {
    let name = path.display();
    if !path.exists() {
        return Err(format!(
            "{name}: no such file; measure some edits first, with --results {name} --first N"
        )
        .into());
    }
    let results = Results::open(path, with)?;
    let (there, judged) = (results.numbers(), options.numbers());
    if there.start < judged.end && judged.start < there.end {
        return Err(format!(
            "{name} has the edits {there:?} and {judged:?} are to be judged: settings must be picked on others; name those by --first"
        )
        .into());
    }
    let runs = runs::runs(methods, plans, there, options.criterion, &results)?;
    if runs.is_empty() {
        return Err(format!("{name} has no results of these methods and settings").into());
    }
    Ok(runs)
}

/// What is measured, and with what.
struct Bench<'a> {
    folder: &'a ModelFolder,
    methods: &'a [Method],
    plans: &'a [Plan],
    /// What is worth measuring, where not everything is.
    picks: Option<Picks>,
    /// The step count at which, at strength 1, pictures are also reconstructed: the paper's Table 1 on this data.
    reconstruct: usize,
    /// Where pictures are written.
    pictures: Option<&'a Path>,
}

impl Bench<'_> {
    /// Runs what is not among the results yet. Cases come first in the order, so that a run that is cut has measured every
    /// setting on the same ones.
    fn measure(&self, cases: &[(Attribute, u64)], workers: usize, results: &Results) -> Result<(), Fault> {
        let (next, begun) = (AtomicUsize::new(0), Instant::now());
        let work = || -> Result<(), Fault> {
            // One that fails leaves the others nothing to do.
            let _end = TakesTheRest { next: &next, cases: cases.len() };
            let backend = CandleBackend::cpu(DType::F32).with_threads(1)?;
            // From within the thread that computes, operations are not handed over one by one.
            backend.install(|| {
                let model = StableDiffusion::load(&backend, self.folder)?;
                while let Some(&(attribute, number)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.measure_case(&model, attribute, number, results)?;
                    eprintln!("{} {number}: {:.0} s", attribute.word(), begun.elapsed().as_secs_f64());
                }
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err("a worker has panicked".into()),
            })
        })
    }

    /// Edits one scene by every method at every setting.
    fn measure_case(
        &self,
        model: &StableDiffusion<CandleBackend>,
        attribute: Attribute,
        number: u64,
        results: &Results,
    ) -> Result<(), Fault> {
        let mut jobs = Vec::new();
        for method in self.methods {
            let picked = |plan: &&Plan| {
                let have = |picks: &Picks| picks.have(method.name(), plan.setting, attribute);
                method.takes(plan.setting) && self.picks.as_ref().is_none_or(have)
            };
            jobs.extend(self.plans.iter().filter(picked).map(|plan| {
                let key = key(method.name(), plan.setting, attribute, number);
                (method, plan, key)
            }));
        }
        jobs.retain(|(.., key)| !results.has(key));
        let ceiling_key = ceiling_key(attribute, number);
        if jobs.is_empty() && results.has(&ceiling_key) {
            return Ok(());
        }
        let case = Case::draw(attribute, number, side(self.folder))?;
        let latent = model.encode_images(case.source.view())?.mode();
        let floor = model.decode(&latent)?;
        let floor_mse = pixel_mse(floor.view(), case.source.view())?;
        if !results.has(&ceiling_key) {
            let ideal = model.decode(&model.encode_images(case.target.view())?.mode())?;
            results.add(&ceiling_key, Ok((Score::of(&case, &ideal, &floor), None)))?;
        }
        let save = |name: &str, picture: &Latents| self.save(attribute, number, name, picture);
        save("source", &case.source)?;
        save("ideal", &case.target)?;
        save("autoencoder", &floor)?;
        for jobs in jobs.chunk_by(|a, b| a.0 == b.0 && a.1.inverts_as(b.1)) {
            let [(method, plan, _), ..] = jobs else { continue };
            let noise = method.noise(model, &case, &latent, plan);
            for (method, plan, key) in jobs {
                let latents = match &noise {
                    Ok(noise) => self.latents(model, &case, noise, method, plan),
                    Err(error) => Err(error.to_string().into()),
                };
                let outcome = match latents {
                    Ok((edit, back)) => {
                        let edit = model.decode(&edit)?;
                        save(&format!("{} {}", method.name(), plan.setting), &edit)?;
                        let score = Score::of(&case, &edit, &floor);
                        let mse = |back| -> Result<f64, Fault> {
                            Ok(pixel_mse(model.decode(&back)?.view(), case.source.view())?)
                        };
                        let back = back.map(mse).transpose()?;
                        Ok((score, back.map(|mse| Reconstruction { mse, floor: floor_mse })))
                    }
                    Err(error) => Err(error.to_string()),
                };
                results.add(key, outcome)?;
            }
        }
        Ok(())
    }

    /// Writes a picture of a case, `[1, 3, height, width]`, where they are wanted.
    fn save(&self, attribute: Attribute, number: u64, name: &str, picture: &Latents) -> Result<(), Fault> {
        let Some(folder) = self.pictures else { return Ok(()) };
        let folder = folder.join(format!("{} {number}", attribute.word()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let picture = picture.index_axis(Axis(0), 0).into_dimensionality()?;
        Ok(write_png(folder.join(format!("{name}.png")), picture)?)
    }

    /// Makes the edit of noise, and what comes back where that is to be measured.
    fn latents(
        &self,
        model: &StableDiffusion<CandleBackend>,
        case: &Case,
        noise: &AnyState,
        method: &Method,
        plan: &Plan,
    ) -> Result<(Latents, Option<Latents>), Fault> {
        let Setting { steps, strength, guidance, source_guidance } = plan.setting;
        let reconstruct = steps == self.reconstruct && strength == 1.0 && guidance == source_guidance;
        let edit = method.edit(model, case, noise, plan)?;
        Ok((edit, if reconstruct { method.back(model, case, noise, plan)? } else { None }))
    }
}

/// Takes all cases that are left when a worker ends, be it by an error or a panic.
struct TakesTheRest<'a> {
    next: &'a AtomicUsize,
    cases: usize,
}

impl Drop for TakesTheRest<'_> {
    fn drop(&mut self) {
        self.next.store(self.cases, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &str) -> Options {
        Options::try_parse_from(std::iter::once("edit-bench").chain(words.split_whitespace())).unwrap()
    }

    #[test]
    fn unknown_methods_are_refused_with_those_that_there_are() {
        let error =
            Options::try_parse_from(["edit-bench", "--methods", "edict,ddmi"]).unwrap_err().to_string();
        assert!(error.contains("ddmi") && NAMES.iter().all(|name| error.contains(name)), "{error}");
    }

    #[test]
    fn settings_that_share_an_inversion_stand_together_and_none_is_tried_twice() {
        let folder = edict_demo_model::folder().unwrap();
        let plans =
            plans(&options("--steps 2 --strength 1 --guidance 1,3,5 --source-guidance same,1"), &folder);
        let plans = plans.unwrap();
        let scales: Vec<_> = plans.iter().map(|p| (p.setting.source_guidance, p.setting.guidance)).collect();
        assert_eq!(scales, [(1.0, 1.0), (1.0, 3.0), (1.0, 5.0), (3.0, 3.0), (5.0, 5.0)]);
        let sizes: Vec<_> = plans.chunk_by(Plan::inverts_as).map(<[_]>::len).collect();
        assert_eq!(sizes, [3, 1, 1]);
        assert!(!Method::SdEdit.takes(plans[1].setting) && Method::SdEdit.takes(plans[3].setting));
        // An inversion over other steps is another one.
        let longer = Plan::new(Setting { steps: 3, ..plans[0].setting }, &folder).unwrap();
        assert!(!plans[0].inverts_as(&longer));
    }

    #[test]
    fn wrong_settings_are_refused_before_any_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options("--strength 0.8,1.2 --steps 2 --cases 1");
        options.results = folder.path().join("results");
        let error = super::run(&options).unwrap_err().to_string();
        assert!(error.contains("2 steps, strength 1.2") && !options.results.exists(), "{error}");
    }

    #[test]
    fn edict_comes_back_to_the_autoencoders_own_picture_and_a_second_run_measures_nothing() {
        let (desk, folder) = (tempfile::tempdir().unwrap(), edict_demo_model::folder().unwrap());
        let path = desk.path().join("results");
        let methods = Method::all(0.98).unwrap();
        let plans =
            plans(&options("--steps 2 --strength 1 --guidance 1 --source-guidance same"), &folder).unwrap();
        let bench = Bench {
            folder: &folder,
            methods: &methods,
            plans: &plans,
            picks: None,
            reconstruct: 2,
            pictures: Some(desk.path()),
        };
        let measure = || {
            let results = Results::open(&path, &json!({})).unwrap();
            bench.measure(&[(Attribute::Colour, 0)], 2, &results).unwrap();
            assert_eq!(runs::ceiling(0..1, Criterion::Halfway, &results)[Attribute::Colour as usize].1, 1);
            runs::runs(&methods, &plans, 0..1, Criterion::Halfway, &results).unwrap()
        };
        let found = measure();
        let lines = std::fs::read_to_string(&path).unwrap();
        // What they were made with, the ceiling, and each method.
        assert_eq!(lines.lines().count(), 2 + NAMES.len());
        let back = |run: &Run| run.outcomes.values().next().unwrap().unwrap().1;
        for run in &found {
            let Some(Reconstruction { mse, floor }) = back(run) else {
                assert_eq!(run.method, "sdedit");
                continue;
            };
            // The lattice rounds the latent to less than what f32 tells apart in a picture of 12288 values.
            let equal = (mse / floor - 1.0).abs() < 1e-6;
            assert_eq!(equal, run.method != "ddim", "{}: {mse} {floor}", run.method);
        }
        let pictures = std::fs::read_dir(desk.path().join("colour 0")).unwrap().count();
        assert_eq!(pictures, 3 + NAMES.len());
        measure();
        assert!(lines == std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn settings_are_picked_on_other_edits_than_those_judged() {
        let desk = tempfile::tempdir().unwrap();
        let mut options =
            options("--steps 2 --strength 1 --guidance 1,3 --methods edict --cases 1 --workers 1");
        options.results = desk.path().join("judged");
        let grid = desk.path().join("grid");
        options.pick = Some(grid.clone());
        let error = super::run(&options).unwrap_err().to_string();
        assert!(error.contains("grid: no such file") && !grid.exists(), "{error}");
        super::run(&Options { results: grid.clone(), pick: None, ..options.clone() }).unwrap();
        let error = super::run(&options).unwrap_err().to_string();
        assert!(error.contains("0..1") && !options.results.exists(), "{error}");
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap().lines().count();
        // What they were made with; for each attribute, the ceiling and three settings (3 of an inversion at 3, and at 1).
        assert_eq!(lines(&grid), 1 + 5 * 4);
        super::run(&Options { first: 1, ..options.clone() }).unwrap();
        assert!(lines(&options.results) < lines(&grid));
    }

    #[test]
    fn a_worker_that_ends_leaves_no_case_to_the_others() {
        let next = AtomicUsize::new(1);
        drop(TakesTheRest { next: &next, cases: 9 });
        assert_eq!(next.into_inner(), 9);
    }
}
