//! `edict generate`: from noise to a picture, the noise of an inversion or fresh noise.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;

use edict_core::Sampler;
use edict_stable_diffusion::{
    Checkpoint, Generation, ImageSize, Inversion, InversionFileError, Origin, bit_identical,
    bit_identical_pair, latents_to_bytes, seeded_noise,
};
use serde_json::json;

use crate::args::GenerateArgs;
use crate::backends::Offered;
use crate::defaults::Defaults;
use crate::failure::{Failure, chain};
use crate::files::{self, Format, Named};
use crate::progress::Reporter;
use crate::report::{Report, insert_guidance};
use crate::run::{self, Checked};
use crate::session;
use crate::settings::{self, RunSettings, check_kept, insert_run, report_stability, stability_json};

pub(crate) fn run<B: Offered>(args: &GenerateArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let latents = args.latents.as_deref().map(|path| ("--latents", path));
    let outputs: Vec<Named<'_>> = [("--output", args.output.as_path())].into_iter().chain(latents).collect();
    files::check(
        [("--inversion", args.inversion.as_deref()), ("--resume", args.resume.as_deref())],
        &outputs,
    )?;
    files::check_name(&args.output, Format::Picture, reporter);
    if let Some((_, path)) = latents {
        files::check_name(path, Format::Tensors, reporter);
    }
    let kept = match (&args.resume, &args.inversion) {
        (Some(path), _) => Some((session::read_checkpoint(path, "generate")?, path)),
        (None, Some(path)) => Some((begin(args, read(path)?), path)),
        (None, None) => None,
    };
    let folder = session::open_folder(args.model.model.as_deref(), reporter)?;
    let factor = folder.vae_config().factor();
    let (session, mut job) = match kept {
        Some((job, path)) => {
            session::check_model(&job, &folder, args.model.model.as_deref(), Some(path))?;
            check_flags(args, &job, factor)?;
            report_stability(&job.inversion.sampler, &job.inversion.trajectory, reporter);
            if args.resume.is_some() {
                (session::resume::<B>(&args.model, &folder, &job, reporter)?, job)
            } else {
                let session =
                    session::load::<B>(&args.model, &folder, Some(&job.inversion.origin), reporter)?;
                let mut job = job;
                if let Some(generation) = &mut job.generation {
                    if job.inversion.sampler.is_exact() && !run::returns(&job.inversion, generation) {
                        warn_of_another_machine(&job.inversion.origin, &session.origin, reporter);
                    }
                    generation.origin = session.origin.clone();
                }
                (session, job)
            }
        }
        None => {
            let defaults = Defaults { strength: 1.0, ..Defaults::of(&args.model) };
            let settings = RunSettings::new(&args.run, defaults, reporter);
            settings.must_invert()?;
            let trajectory = settings.trajectory(&folder)?;
            let sampler = settings.sampler(&trajectory)?;
            report_stability(&sampler, &trajectory, reporter);
            let size = args.size.unwrap_or_else(|| folder.image_size());
            size.check(factor).map_err(|error| Failure::usage(format!("--size: {error}")))?;
            let session = session::load::<B>(&args.model, &folder, None, reporter)?;
            let shape = session.model.latent_shape(1, size.width, size.height);
            let noise = seeded_noise(&shape, args.seed.unwrap_or(0));
            let inversion = Inversion {
                noise: sampler.state_from_noise(&noise, &trajectory)?,
                sampler,
                // There is no image yet.
                image_latent: noise,
                trajectory,
                strength: settings.strength,
                schedule: folder.schedule().clone(),
                guidance: defaults.guidance,
                prompt: String::new(),
                negative: String::new(),
                origin: session.origin.clone(),
                predictions: Vec::new(),
            };
            (session, begin(args, inversion))
        }
    };
    let (state, checked) = run::generate(&session, &mut job, Some(&args.output))?;
    let pair = job.inversion.sampler.latents(&state, &job.inversion.trajectory)?;
    let picture = session.model.decode(&pair.x)?;
    run::keep(&mut job, &state, &args.output)?;
    let Inversion { sampler, trajectory, image_latent, .. } = &job.inversion;
    // The picture first: it can turn out not to be one.
    session::write_picture(&picture, &args.output)?;
    if let Some(path) = &args.latents {
        session::write_bytes(path, &latents_to_bytes(&pair)?)?;
    }
    run::finish(args.resume.as_deref(), &args.output);

    let mut json = session.settings(&folder);
    insert_run(&mut json, sampler, trajectory, job.inversion.strength);
    let Some(Generation { prompts, negative, guidance, .. }) = &job.generation else {
        return Err(Failure::running("nothing was generated"));
    };
    insert_guidance(&mut json, "", *guidance, negative);
    json.insert("prompt".to_owned(), prompts.concat().into());
    let [height, width] = [picture.shape()[2], picture.shape()[3]];
    json.insert("size".to_owned(), vec![width, height].into());
    match (&args.inversion, &args.resume) {
        (Some(path), _) => json.insert("inversion".to_owned(), path.to_string_lossy().into()),
        (None, None) => json.insert("seed".to_owned(), args.seed.unwrap_or(0).into()),
        // A checkpoint keeps the noise, not where it came from.
        (None, Some(_)) => json.insert("seed".to_owned(), args.seed.into()),
    };
    let outputs: Vec<_> = outputs.iter().map(|(_, path)| *path).collect();
    let mut report = Report::new("generate", json, &outputs, &session);
    report.json.insert("stability".to_owned(), stability_json(sampler, trajectory));
    report.json.insert("predictions".to_owned(), Checked::json(checked.as_ref()));
    if checked.is_some() {
        let identical = match sampler.edict() {
            Some(_) => bit_identical_pair(pair.x.view(), pair.y.view(), image_latent.view())?,
            None => bit_identical(pair.x.view(), image_latent.view())?,
        };
        let (equal, total) = (identical.equal, identical.total);
        report.json.insert("bit_identical".to_owned(), json!({"equal": equal, "total": total}));
        // Writing to a string cannot fail.
        let _ = writeln!(report.text, "{equal} of {total} values of the image came back bit for bit");
    }
    Ok(report)
}

fn read(path: &Path) -> Result<Inversion, Failure> {
    Inversion::read(path).map_err(|error| match &error {
        InversionFileError::Io { source, .. } if source.kind() != ErrorKind::NotFound => error.into(),
        InversionFileError::File { source, .. }
            if !matches!(**source, InversionFileError::Safetensors(_)) =>
        {
            error.into()
        }
        // It is not there, or something else.
        _ => Failure::running(format!("{}; `edict invert` makes inversions", chain(&error))),
    })
}

/// What is to be generated, as the flags say it or else as the inversion was made.
fn begin(args: &GenerateArgs, inversion: Inversion) -> Checkpoint {
    let generation = Generation {
        prompts: vec![args.prompt.clone().unwrap_or_else(|| inversion.prompt.clone())],
        negative: args.guidance.negative.clone().unwrap_or_else(|| inversion.negative.clone()),
        guidance: settings::guidance(&args.guidance, inversion.guidance),
        origin: inversion.origin.clone(),
        noise_seed: None,
        finished: 0,
        state: None,
    };
    Checkpoint { command: "generate".to_owned(), inversion, level: 0, generation: Some(generation) }
}

/// Says so where networks will not answer as they did, which a run that asks them something else cannot find out.
fn warn_of_another_machine(then: &Origin, now: &Origin, reporter: &Reporter) {
    let weights = |origin: &Origin| origin.weights.clone().unwrap_or_else(|| origin.dtype.clone());
    let pairs = [
        ("back end", then.backend.clone(), now.backend.clone()),
        ("device", then.device.clone(), now.device.clone()),
        ("dtype", then.dtype.clone(), now.dtype.clone()),
        ("weights", weights(then), weights(now)),
    ];
    if let Some((what, then, now)) = pairs.iter().find(|(_, then, now)| then != now) {
        reporter.warn(format!("the inversion was made with {what} {then}, this is {now}: what is not touched will not stay to the last bit"));
    }
}

/// Refuses flags that say otherwise than the file.
fn check_flags(args: &GenerateArgs, job: &Checkpoint, factor: usize) -> Result<(), Failure> {
    let file = if args.resume.is_some() { "the checkpoint" } else { "the inversion" };
    check_kept(&args.run, &job.inversion, None, file)?;
    if let Some(given) = args.size {
        let shape = job.inversion.image_latent.shape();
        let kept = ImageSize { width: shape[3] * factor, height: shape[2] * factor };
        if (given.width, given.height) != (kept.width, kept.height) {
            return Err(Failure::usage(format!(
                "--size {given} does not fit {file}, which was made with {kept}: leave --size out, or invert again"
            )));
        }
    }
    if let (Some(_), Some(generation)) = (&args.resume, &job.generation) {
        if let Some(path) = &args.inversion
            && Inversion::read(path)? != job.inversion
        {
            return Err(Failure::usage(format!(
                "--inversion {} is not the one the checkpoint was begun with: leave it out",
                path.display()
            )));
        }
        let noise = &job.inversion.image_latent;
        if let Some(seed) = args.seed
            && seeded_noise(noise.shape(), seed) != *noise
        {
            return Err(Failure::usage(format!(
                "--seed {seed} does not fit the checkpoint, which was begun with other noise: leave --seed out, or begin anew"
            )));
        }
        session::check_same("--prompt", args.prompt.as_deref(), &generation.prompts.concat())?;
        session::check_same("--negative", args.guidance.negative.as_deref(), &generation.negative)?;
        session::check_same_machine(&args.model, &generation.origin)?;
        session::check_same_guidance(&args.guidance, generation.guidance)?;
    }
    Ok(())
}
