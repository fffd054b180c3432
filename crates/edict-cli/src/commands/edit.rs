//! `edict edit`: from a picture to pictures that other prompts describe.

use std::path::{Path, PathBuf};

use edict_core::{Ddim, Latents, Sampler, Trajectory};
use edict_stable_diffusion::{AnyState, Backend, Checkpoint, Generation, Inversion, Picture, seeded_noise};
use ndarray::{Array3, ArrayD, Axis};

use crate::args::{EditArgs, SamplerName};
use crate::backends::Offered;
use crate::defaults::Defaults;
use crate::failure::Failure;
use crate::files::{self, Format, Named};
use crate::input::Input;
use crate::progress::Reporter;
use crate::report::{Report, insert_guidance, noise_json, noise_quality};
use crate::run;
use crate::session::{self, Session};
use crate::settings::{self, RunSettings, check_kept, insert_run, report_stability, stability_json};
use crate::sheet::{Tile, sheet};

pub(crate) fn run<B: Offered>(args: &EditArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let input = match args.resume {
        Some(_) => None,
        None => Some(Input::choose(&args.image, &args.model, args.source.as_deref(), "--source")?),
    };
    let kept = match &args.resume {
        Some(path) => Some(session::read_checkpoint(path, "edit")?),
        None => None,
    };
    let generation = kept.as_ref().and_then(|job| job.generation.as_ref());
    let targets = generation.map_or(&args.target, |generation| &generation.prompts);
    let outputs = session::numbered(&args.output, targets.len());
    let sheet = args.sheet.as_deref().map(|path| ("--sheet", path));
    let written: Vec<Named<'_>> =
        outputs.iter().map(|path| ("--output", path.as_path())).chain(sheet).collect();
    files::check([("--image", args.image.image.as_deref()), ("--resume", args.resume.as_deref())], &written)?;
    for (_, path) in [("--output", args.output.as_path())].into_iter().chain(sheet) {
        files::check_name(path, Format::Picture, reporter);
    }
    let folder = session::open_folder(args.model.model.as_deref(), reporter)?;
    let factor = folder.vae_config().factor();
    let mut source = None;
    let (session, mut job) = match (kept, &input) {
        (Some(job), _) => {
            session::check_model(&job, &folder, args.model.model.as_deref(), args.resume.as_deref())?;
            check_resumed(args, &job, factor)?;
            (session::resume::<B>(&args.model, &folder, &job, reporter)?, job)
        }
        (None, None) => return Err(Failure::usage("there is nothing to edit")),
        (None, Some(input)) => {
            let defaults = Defaults::of(&args.model).for_sampler(args.run.sampler);
            let settings = RunSettings::new(&args.run, defaults, reporter);
            let guidance = settings::guidance(&args.guidance, defaults.guidance);
            let negative = args.guidance.negative.clone().unwrap_or_default();
            let mut source_guidance = guidance;
            source_guidance.scale = args.source_guidance.unwrap_or(defaults.source_guidance(guidance.scale));
            let trajectory = settings.trajectory(&folder)?;
            let sampler = settings.sampler(&trajectory)?;
            match settings.sampler {
                SamplerName::Sdedit => {
                    reporter.say("sdedit: noise is added to the picture, nothing is inverted");
                    settings::warn_of_no_steps(&trajectory, reporter);
                }
                _ => report_stability(&sampler, &trajectory, reporter),
            }
            let image = input.read(&folder, settings.sampler, reporter)?;
            let session = session::load::<B>(&args.model, &folder, None, reporter)?;
            let latent = session.encode_image(&image, &args.image)?;
            source = Some(session::first(&image.into_dyn())?);
            let start = sampler.state_from_image(&latent, &trajectory)?;
            let image_latent = sampler.image(&start, &trajectory)?;
            let (noise, level) = match settings.sampler {
                SamplerName::Sdedit => (noised(&latent, args.image.seed.unwrap_or(0), &trajectory)?, 0),
                _ => (start, trajectory.run().len()),
            };
            let inversion = Inversion {
                image_latent,
                noise,
                sampler,
                trajectory,
                strength: settings.strength,
                schedule: session.model.schedule().clone(),
                guidance: source_guidance,
                prompt: input.prompt.to_owned(),
                negative: args.source_negative.clone().unwrap_or_else(|| negative.clone()),
                origin: session.origin.clone(),
                predictions: Vec::new(),
            };
            let prompts = args.target.clone();
            let noise_seed = (settings.sampler == SamplerName::Sdedit).then(|| args.image.seed.unwrap_or(0));
            let origin = session.origin.clone();
            let (finished, state) = (0, None);
            let generation =
                Some(Generation { prompts, negative, guidance, origin, noise_seed, finished, state });
            (session, Checkpoint { command: "edit".to_owned(), inversion, level, generation })
        }
    };
    // Of all prompts before the work begins, so that what is wrong with one is told at once.
    for prompt in job.generation.iter().flat_map(|generation| &generation.prompts) {
        session.encode_prompt(prompt)?;
    }
    if job.level > 0 {
        run::invert(&session, &mut job, Some(&args.output))?;
    }
    let mut edits = Vec::new();
    while let Some(output) = outputs.get(job.generation.as_ref().map_or(0, |generation| generation.finished))
    {
        let (state, _) = run::generate(&session, &mut job, Some(&args.output))?;
        let Inversion { sampler, trajectory, .. } = &job.inversion;
        let picture = session.model.decode(&sampler.image(&state, trajectory)?)?;
        run::keep(&mut job, &state, &args.output)?;
        session::write_picture(&picture, output)?;
        edits.push(session::first(&picture)?);
        if let Some(generation) = &mut job.generation {
            generation.finished += 1;
        }
    }
    if let Some(path) = &args.sheet {
        session::write_picture(&contact_sheet(&session, &job, source, edits, &outputs)?, path)?;
    }
    run::finish(args.resume.as_deref(), &args.output);

    let Inversion { sampler, trajectory, image_latent, .. } = &job.inversion;
    let mut json = session.settings(&folder);
    insert_run(&mut json, sampler, trajectory, job.inversion.strength);
    if let Some(Generation { prompts, negative, guidance, .. }) = &job.generation {
        insert_guidance(&mut json, "", *guidance, negative);
        json.insert("targets".to_owned(), prompts.as_slice().into());
    }
    insert_guidance(&mut json, "source_", job.inversion.guidance, &job.inversion.negative);
    json.insert("source".to_owned(), job.inversion.prompt.as_str().into());
    let shape = image_latent.shape();
    json.insert("size".to_owned(), vec![shape[3] * factor, shape[2] * factor].into());
    if let Some(input) = &input {
        input.insert(&mut json);
    }
    if let Some(seed) = job.generation.as_ref().and_then(|generation| generation.noise_seed) {
        json.insert("sampler".to_owned(), SamplerName::Sdedit.name().into());
        json.insert("seed".to_owned(), seed.into());
    }
    let written: Vec<&Path> = written.iter().map(|(_, path)| *path).collect();
    let mut report = Report::new("edit", json, &written, &session);
    report.json.insert("stability".to_owned(), stability_json(sampler, trajectory));
    let pair = job.inversion.latents()?;
    report.json.insert("noise".to_owned(), noise_json(noise_quality(&pair.x, &pair.y)));
    Ok(report)
}

/// The image with noise up to the noisy end of the run, for SDEdit.
fn noised(image: &Latents, seed: u64, run: &Trajectory) -> Result<AnyState, Failure> {
    let noise = seeded_noise(image.shape(), seed);
    Ok(AnyState::Single(Ddim.noised(image, &noise, run)?))
}

/// Source, reconstruction and edits, and below each how it differs from the source.
fn contact_sheet<B: Backend>(
    session: &Session<'_, B>,
    job: &Checkpoint,
    source: Option<Array3<f64>>,
    edits: Vec<Array3<f64>>,
    outputs: &[PathBuf],
) -> Result<ArrayD<f64>, Failure> {
    let decoded = session::first(&session.model.decode(&job.inversion.image_latent)?)?;
    let Some(Generation { prompts, .. }) = job.generation.clone() else {
        return Err(Failure::running("nothing was generated"));
    };
    let (back, label) = reconstruction(session, job, &decoded)?;
    // A run that was gone on with does not read the picture again.
    let source = source.unwrap_or(decoded);
    let mut pictures = vec![(back, label)];
    // Pictures that were finished before an interruption are read again.
    let before = prompts.len() - edits.len();
    for (output, prompt) in outputs.iter().zip(&prompts).take(before) {
        let picture = Picture::open(output)?.prepare(None, 1)?;
        pictures.push((session::first(&picture.into_dyn())?, prompt.clone()));
    }
    pictures.extend(edits.into_iter().zip(prompts.into_iter().skip(before)));
    let mut rows = [
        vec![Tile::new(source.clone(), format!("source: {}", job.inversion.prompt))],
        vec![Tile::new(
            Array3::from_elem(source.dim(), 1.0),
            "difference: black none, red, yellow, white all",
        )],
    ];
    for (picture, label) in pictures {
        let difference = Tile::difference(&picture, &source, "difference from the source");
        rows[1].push(difference.ok_or_else(|| {
            let size = |of: &Array3<f64>| format!("{}x{}", of.dim().2, of.dim().1);
            Failure::running(format!(
                "the finished picture of \"{label}\" is {} now and not {}, so no sheet can be made: edit anew, without --resume",
                size(&picture),
                size(&source)
            ))
        })?);
        rows[0].push(Tile::new(picture, label));
    }
    Ok(sheet(&rows).insert_axis(Axis(0)).into_dyn())
}

/// What comes back under the source prompt.
fn reconstruction<B: Backend>(
    session: &Session<'_, B>,
    job: &Checkpoint,
    decoded: &Array3<f64>,
) -> Result<(Array3<f64>, String), Failure> {
    let Inversion { sampler, trajectory, prompt, negative, guidance, .. } = &job.inversion;
    if sampler.is_exact() {
        // The same latents to the last bit, so the same picture: no need to ask the network again.
        return Ok((decoded.clone(), "reconstruction: every bit of the latent".to_owned()));
    }
    let mut back = job.clone();
    back.generation = Some(Generation {
        prompts: vec![prompt.clone()],
        negative: negative.clone(),
        guidance: *guidance,
        origin: session.origin.clone(),
        noise_seed: None,
        finished: 0,
        state: None,
    });
    let (state, _) = run::generate(session, &mut back, None)?;
    let latents = sampler.image(&state, trajectory)?;
    Ok((session::first(&session.model.decode(&latents)?)?, "reconstruction".to_owned()))
}

fn check_resumed(args: &EditArgs, job: &Checkpoint, factor: usize) -> Result<(), Failure> {
    let Checkpoint { inversion, generation: Some(generation), .. } = job else {
        return Err(Failure::usage("the checkpoint says nothing of pictures to generate: begin anew"));
    };
    check_kept(&args.run, inversion, generation.noise_seed, "the checkpoint")?;
    session::check_same("--source", args.source.as_deref(), &inversion.prompt)?;
    if !args.target.is_empty() {
        session::check_same("--target", Some(&args.target.join("\n")), &generation.prompts.join("\n"))?;
    }
    session::check_same("--negative", args.guidance.negative.as_deref(), &generation.negative)?;
    session::check_same("--source-negative", args.source_negative.as_deref(), &inversion.negative)?;
    session::check_same(
        "--source-guidance",
        args.source_guidance.map(|g| g.to_string()).as_deref(),
        &inversion.guidance.scale.to_string(),
    )?;
    session::check_same_machine(&args.model, &generation.origin)?;
    session::check_same_size(&args.image, inversion, factor)?;
    session::check_same_guidance(&args.guidance, generation.guidance)
}
