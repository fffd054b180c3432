//! `edict sweep`: one edit at several settings.

use edict_core::Sampler;
use edict_stable_diffusion::{Checkpoint, Generation, GuidanceSettings, Inversion};
use ndarray::Axis;
use serde_json::{Value, json};

use crate::args::{RunArgs, SamplerName, SweepArgs, WeightArg};
use crate::backends::Offered;
use crate::defaults::Defaults;
use crate::failure::Failure;
use crate::files::{self, Format};
use crate::input::Input;
use crate::progress::Reporter;
use crate::report::{Report, insert_guidance, insert_image};
use crate::run;
use crate::session;
use crate::settings::{self, RunSettings, insert_run, report_stability};
use crate::sheet::{Tile, sheet};

pub(crate) fn run<B: Offered>(args: &SweepArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let input = Input::choose(&args.image, &args.model, args.source.as_deref(), "--source")?;
    files::check([("--image", args.image.image.as_deref())], &[("--output", &args.output)])?;
    files::check_name(&args.output, Format::Picture, reporter);
    let or = |given: &[f64], default: &[f64]| if given.is_empty() { default } else { given }.to_vec();
    let defaults = Defaults::of(&args.model);
    let guidance = settings::guidance(&args.guidance, defaults.guidance);
    let (strengths, guidances) =
        (or(&args.strengths, &Defaults::STRENGTHS), or(&args.guidances, &defaults.guidances));
    let weights = weights(args, reporter);
    if args.run.strength.is_some() {
        reporter.warn("--strength has no effect: --strengths says which are drawn".to_owned());
    }
    if args.guidance.guidance.is_some() && args.source_guidance.or(defaults.source_guidance).is_some() {
        reporter.warn("--guidance has no effect: --guidances says which are drawn".to_owned());
    }
    let folder = session::open_folder(args.model.model.as_deref(), reporter)?;
    // Everything that can be refused is refused before the first run.
    let mut runs = Vec::new();
    for weight in &weights {
        for strength in &strengths {
            let (mixing_weight, strength) = (*weight, Some(*strength));
            let settings = RunSettings::new(
                &RunArgs { mixing_weight, strength, ..args.run.clone() },
                defaults,
                reporter,
            );
            settings.must_invert()?;
            let trajectory = settings.trajectory(&folder)?;
            runs.push((settings, settings.sampler(&trajectory)?, trajectory));
        }
    }
    // Strength and weight apart, all runs are made alike: the report names the first's settings.
    let Some((first, sampler, trajectory)) = runs.first().cloned() else {
        return Err(Failure::usage("nothing is to be drawn"));
    };
    let (name, strength) = (first.sampler, first.strength);
    let image = input.read(&folder, name, reporter)?;
    let session = session::load::<B>(&args.model, &folder, None, reporter)?;
    let latent = session.encode_image(&image, &args.image)?;
    let source = session::first(&session.model.decode(&latent)?)?;
    let negative = args.guidance.negative.clone().unwrap_or_default();
    let source_guidance = GuidanceSettings {
        scale: args.source_guidance.unwrap_or(defaults.source_guidance(guidance.scale)),
        ..guidance
    };

    let (mut rows, mut cells) = (Vec::new(), Vec::new());
    for (settings, sampler, trajectory) in runs {
        report_stability(&sampler, &trajectory, reporter);
        let start = sampler.state_from_image(&latent, &trajectory)?;
        let mut job = Checkpoint {
            command: "sweep".to_owned(),
            level: trajectory.run().len(),
            inversion: Inversion {
                image_latent: sampler.image(&start, &trajectory)?,
                noise: start,
                sampler,
                trajectory,
                strength: settings.strength,
                schedule: folder.schedule().clone(),
                guidance: source_guidance,
                prompt: input.prompt.to_owned(),
                negative: negative.clone(),
                origin: session.origin.clone(),
                predictions: Vec::new(),
            },
            generation: None,
        };
        run::invert(&session, &mut job, None)?;
        let weight = sampler.edict().map(|edict| edict.mixing_weight().resolve(&job.inversion.trajectory));
        let words = weight.filter(|_| weights.len() > 1).map_or(String::new(), |p| format!(", p {p:.3}"));
        let label = format!("strength {}{words}: {}", settings.strength, input.prompt);
        let mut row = vec![Tile::new(source.clone(), label)];
        for &scale in &guidances {
            job.generation = Some(Generation {
                prompts: vec![args.target.clone()],
                negative: negative.clone(),
                guidance: GuidanceSettings { scale, ..guidance },
                origin: session.origin.clone(),
                noise_seed: None,
                finished: 0,
                state: None,
            });
            let (state, _) = run::generate(&session, &mut job, None)?;
            let Inversion { sampler, trajectory, .. } = &job.inversion;
            let picture = session.model.decode(&sampler.image(&state, trajectory)?)?;
            row.push(Tile::new(session::first(&picture)?, format!("guidance {scale}: {}", args.target)));
            cells.push(json!({"strength": settings.strength, "guidance": scale, "mixing_weight": weight}));
        }
        rows.push(row);
    }
    session::write_picture(&sheet(&rows).insert_axis(Axis(0)).into_dyn(), &args.output)?;

    let mut json = session.settings(&folder);
    insert_run(&mut json, &sampler, &trajectory, strength);
    for key in ["strength", "mixing_weight"] {
        json.remove(key);
    }
    insert_guidance(&mut json, "source_", source_guidance, &negative);
    json.insert("source".to_owned(), input.prompt.into());
    json.insert("target".to_owned(), args.target.as_str().into());
    insert_image(&mut json, &input, &image);
    let mut report = Report::new("sweep", json, &[&args.output], &session);
    report.json.insert("cells".to_owned(), Value::Array(cells));
    Ok(report)
}

/// The mixing weights of the rows; `None` where none was given.
fn weights(args: &SweepArgs, reporter: &Reporter) -> Vec<Option<WeightArg>> {
    let sampler = args.run.sampler.unwrap_or(SamplerName::Edict);
    if args.mixing_weights.is_empty() {
        return vec![args.run.mixing_weight];
    }
    if sampler != SamplerName::Edict {
        reporter.warn(format!("--mixing-weights has no effect with --sampler {}", sampler.name()));
        return vec![args.run.mixing_weight];
    }
    if args.run.mixing_weight.is_some() {
        reporter.warn("--mixing-weight has no effect: --mixing-weights says which are drawn".to_owned());
    }
    args.mixing_weights.iter().copied().map(Some).collect()
}
