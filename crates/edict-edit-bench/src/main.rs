//! Measures edits whose right outcome is known.
//!
//! The scene program draws a picture, and the picture that an ideal edit would make of it. Every method edits the first under the
//! two captions; what it keeps, what it changes and how near it comes is measured against the second. Results go to a file, a
//! line each: a run that is cut goes on where it was.
#![forbid(unsafe_code)]

mod best;
mod case;
mod interval;
mod measure;
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

use clap::Parser;
use clap::builder::PossibleValuesParser;
use clap::value_parser;
use edict_scenes::Attribute;
use edict_stable_diffusion::ModelFolder;
use measure::Bench;
use method::{Method, NAMES, Plan, Setting};
use pick::Picks;
use results::Results;
use runs::Run;
use score::Criterion;
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
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..=case::NUMBERS / 2))]
    cases: u64,
    /// Number of the first edit of each kind: settings picked on some edits are to be judged on others
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(..case::NUMBERS / 2))]
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
    /// Draws preservation against success, of the settings that are for edits of all attributes
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
        self.first..self.first + self.cases
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
    let mut all: Vec<Setting> = Vec::new();
    for &steps in &options.steps {
        for &strength in &options.strength {
            let mut settings = Vec::new();
            for source in &options.source_guidance {
                for &guidance in &options.guidance {
                    let source_guidance = match *source {
                        SourceGuidance::Same => guidance,
                        SourceGuidance::Of(scale) => scale,
                    };
                    settings.push(Setting { guidance, source_guidance, strength, steps });
                }
            }
            // Those that share an inversion stand together, so that it is made once.
            settings.sort_by(|a: &Setting, b| a.source_guidance.total_cmp(&b.source_guidance));
            for setting in settings {
                if !all.contains(&setting) {
                    all.push(setting);
                }
            }
        }
    }
    all.into_iter().map(|setting| Plan::new(setting, folder)).collect()
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
    let side = case::side(&folder)?;
    let with = json!({
        "model": fingerprint, "gamma": options.gamma, "scenes": case::fingerprint(side)?, "scoring": score::VERSION,
    });
    let picked_on = match &options.pick {
        Some(path) => Some(picked_on(path, options, (&methods, &plans), &with)?),
        None => None,
    };
    let picks = picked_on.as_deref().map(Picks::of);
    let open = if options.summary { Results::read } else { Results::open };
    let results = open(&options.results, &with)?;
    if !options.summary {
        let cases: Vec<_> =
            options.numbers().flat_map(|number| Attribute::ALL.map(|a| (a, number))).collect();
        let bench = Bench {
            folder: &folder,
            methods: &methods,
            plans: &plans,
            picks: picks.as_ref(),
            reconstruct: 50,
            pictures: options.pictures.as_deref(),
        };
        bench.measure(&cases, options.workers, &results)?;
    }
    let mut runs = runs::runs(&methods, &plans, options.numbers(), options.criterion, &results)?;
    if let Some(picks) = &picks {
        // A file may have results of what was picked before the others had all of theirs.
        runs = picks.of_picked(&runs);
    }
    if runs.is_empty() {
        return Err(
            format!("{} has no results of these methods and settings", options.results.display()).into()
        );
    }
    let about = About {
        model: fingerprint,
        gamma: options.gamma,
        pixels: side * side,
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
        // Only what was tried on edits of all attributes can be drawn into one picture.
        let compared = runs::comparable(&runs, &runs::places(&runs));
        results::write(path, &plot::svg(&compared)?)?;
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
    let results = Results::read(path, with)?;
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
        let twice = super::plans(&options("--steps 2,2 --strength 1,0.5,1.0 --guidance 1"), &folder).unwrap();
        assert_eq!(twice.len(), 2);
        // An inversion over other steps is another one.
        let longer = Plan::new(Setting { steps: 3, ..plans[0].setting }, &folder).unwrap();
        assert!(!plans[0].inverts_as(&longer));
    }

    #[test]
    fn numbers_of_edits_stay_within_the_seeds_of_an_attribute() {
        for (words, fits) in [
            ("--cases 0", false),
            ("--cases 50000", true),
            ("--cases 50001", false),
            ("--first 50000", false),
        ] {
            let found = Options::try_parse_from(["edit-bench"].into_iter().chain(words.split_whitespace()));
            assert_eq!(found.is_ok(), fits, "{words}");
        }
        assert!(options("--first 49999 --cases 50000").numbers().end <= case::NUMBERS);
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
}
