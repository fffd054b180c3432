//! `edict edit`: from a picture to pictures that other prompts describe.

use edict_core::Sampler;
use edict_stable_diffusion::{Checkpoint, Generation, Inversion};

use crate::args::EditArgs;
use crate::failure::Failure;
use crate::progress::Reporter;
use crate::report::{Report, insert_guidance, insert_image_args, noise_json, noise_quality};
use crate::run;
use crate::session;
use crate::settings::{
    self, DEFAULT_GUIDANCE, RunSettings, check_kept, insert_run, report_stability, stability_json,
};

pub(crate) fn run(args: &EditArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let kept = match &args.resume {
        Some(path) => Some(session::read_checkpoint(path, "edit")?),
        None => None,
    };
    let generation = kept.as_ref().and_then(|job| job.generation.as_ref());
    let targets = generation.map_or(&args.target, |generation| &generation.prompts);
    let outputs = session::numbered(&args.output, targets.len());
    session::check_outputs(outputs.iter().map(AsRef::as_ref))?;
    session::check_picture_name(&args.output, reporter);
    let folder = session::open_folder(&args.model.model)?;
    let factor = folder.vae_config().factor();
    let (session, mut job) = match kept {
        Some(job) => {
            check_resumed(args, &job)?;
            session::check_model(&job, &folder, args.resume.as_deref())?;
            (session::load(&args.model, &folder, Some(&job.inversion.origin), reporter)?, job)
        }
        None => {
            let settings = RunSettings::new(&args.run, 0.8, reporter);
            let guidance = settings::guidance(&args.guidance, DEFAULT_GUIDANCE);
            let negative = args.guidance.negative.clone().unwrap_or_default();
            let mut source_guidance = guidance;
            source_guidance.scale = args.source_guidance.unwrap_or(guidance.scale);
            let trajectory = settings.trajectory(&folder)?;
            let sampler = settings.sampler(&trajectory)?;
            report_stability(&sampler, &trajectory, reporter);
            let image = session::read_image(&args.image, &folder, reporter)?;
            let session = session::load(&args.model, &folder, None, reporter)?;
            let latent = session.encode_image(&image, &args.image)?;
            let noise = sampler.state_from_image(&latent, &trajectory)?;
            let level = trajectory.run().len();
            let inversion = Inversion {
                image_latent: sampler.image(&noise, &trajectory)?,
                noise,
                sampler,
                trajectory,
                strength: settings.strength,
                schedule: session.model.schedule().clone(),
                guidance: source_guidance,
                prompt: args.source.clone().unwrap_or_default(),
                negative: args.source_negative.clone().unwrap_or_else(|| negative.clone()),
                origin: session.origin.clone(),
                predictions: Vec::new(),
            };
            let prompts = args.target.clone();
            let generation = Some(Generation { prompts, negative, guidance, finished: 0, state: None });
            (session, Checkpoint { command: "edit".to_owned(), inversion, level, generation })
        }
    };
    // Of all prompts before the work begins, so that what is wrong with one is told at once.
    for prompt in job.generation.iter().flat_map(|generation| &generation.prompts) {
        session.encode_prompt(prompt)?;
    }
    if job.level > 0 {
        run::invert(&session, &mut job, &args.output)?;
    }
    while let Some(output) = outputs.get(job.generation.as_ref().map_or(0, |generation| generation.finished))
    {
        let (state, _) = run::generate(&session, &mut job, &args.output)?;
        let Inversion { sampler, trajectory, .. } = &job.inversion;
        let latents = sampler.image(&state, trajectory)?;
        session::write_picture(&session.model.decode(&latents)?, output)?;
        if let Some(generation) = &mut job.generation {
            generation.finished += 1;
        }
    }
    run::finish(args.resume.as_deref(), &args.output);

    let Inversion { sampler, trajectory, image_latent, .. } = &job.inversion;
    let mut json = session.settings(&args.model.model);
    insert_run(&mut json, sampler, trajectory, job.inversion.strength);
    if let Some(Generation { prompts, negative, guidance, .. }) = &job.generation {
        insert_guidance(&mut json, "", *guidance, negative);
        json.insert("targets".to_owned(), prompts.as_slice().into());
    }
    insert_guidance(&mut json, "source_", job.inversion.guidance, &job.inversion.negative);
    json.insert("source".to_owned(), job.inversion.prompt.as_str().into());
    let shape = image_latent.shape();
    json.insert("size".to_owned(), vec![shape[3] * factor, shape[2] * factor].into());
    insert_image_args(&mut json, &args.image);
    let outputs: Vec<_> = outputs.iter().map(AsRef::as_ref).collect();
    let mut report = Report::new("edit", json, &outputs, &session);
    report.json.insert("stability".to_owned(), stability_json(sampler, trajectory));
    let pair = job.inversion.latents()?;
    report.json.insert("noise".to_owned(), noise_json(noise_quality(&pair.x, &pair.y)));
    Ok(report)
}

fn check_resumed(args: &EditArgs, job: &Checkpoint) -> Result<(), Failure> {
    let Checkpoint { inversion, generation: Some(generation), .. } = job else {
        return Err(Failure::usage("the checkpoint says nothing of pictures to generate: begin anew"));
    };
    check_kept(&args.run, inversion, "the checkpoint")?;
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
    session::check_same_guidance(&args.guidance, generation.guidance)
}
