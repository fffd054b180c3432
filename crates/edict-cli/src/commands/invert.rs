//! `edict invert`: from a picture to the noise that makes it.

use std::fmt::Write;

use edict_core::Sampler;
use edict_stable_diffusion::{
    Backend, BitIdentical, Checkpoint, Generation, Inversion, Moments, bit_identical, bit_identical_pair,
};
use serde_json::json;

use crate::args::InvertArgs;
use crate::backends::Offered;
use crate::defaults::Defaults;
use crate::failure::Failure;
use crate::files::{self, Format};
use crate::input::Input;
use crate::progress::Reporter;
use crate::report::{Report, insert_guidance, noise_json, noise_quality};
use crate::run;
use crate::session::{self, Session};
use crate::settings::{self, RunSettings, check_kept, insert_run, report_stability, stability_json};

pub(crate) fn run<B: Offered>(args: &InvertArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let input = match args.resume {
        Some(_) => None,
        None => Some(Input::choose(&args.image, &args.model, args.prompt.as_deref(), "--prompt")?),
    };
    files::check(
        [("--image", args.image.image.as_deref()), ("--resume", args.resume.as_deref())],
        &[("--output", &args.output)],
    )?;
    files::check_name(&args.output, Format::Tensors, reporter);
    let kept = match &args.resume {
        Some(path) => Some(session::read_checkpoint(path, "invert")?),
        None => None,
    };
    let folder = session::open_folder(args.model.model.as_deref(), reporter)?;
    let factor = folder.vae_config().factor();
    let (session, mut job) = match (kept, &input) {
        (Some(job), _) => {
            session::check_model(&job, &folder, args.model.model.as_deref(), args.resume.as_deref())?;
            check_resumed(args, &job, factor)?;
            (session::resume::<B>(&args.model, &folder, &job, reporter)?, job)
        }
        (None, None) => return Err(Failure::usage("there is nothing to invert")),
        (None, Some(input)) => {
            let defaults = Defaults::of(&args.model);
            let settings = RunSettings::new(&args.run, defaults, reporter);
            settings.must_invert()?;
            let trajectory = settings.trajectory(&folder)?;
            let sampler = settings.sampler(&trajectory)?;
            if args.verify && !sampler.is_exact() {
                return Err(Failure::usage(
                    "--verify needs an exact sampler: leave out --float and --sampler ddim",
                ));
            }
            report_stability(&sampler, &trajectory, reporter);
            let image = input.read(&folder, settings.sampler, reporter)?;
            let session = session::load::<B>(&args.model, &folder, None, reporter)?;
            let latent = session.encode_image(&image, &args.image)?;
            let noise = sampler.state_from_image(&latent, &trajectory)?;
            let inversion = Inversion {
                image_latent: sampler.image(&noise, &trajectory)?,
                noise,
                sampler,
                strength: settings.strength,
                schedule: session.model.schedule().clone(),
                guidance: settings::guidance(&args.guidance, defaults.inversion_guidance()),
                prompt: input.prompt.to_owned(),
                negative: args.guidance.negative.clone().unwrap_or_default(),
                origin: session.origin.clone(),
                predictions: Vec::new(),
                trajectory,
            };
            let level = inversion.trajectory.run().len();
            (session, Checkpoint { command: "invert".to_owned(), inversion, level, generation: None })
        }
    };
    run::invert(&session, &mut job, Some(&args.output))?;
    let verified = if args.verify { Some(verify(&session, &mut job, args)?) } else { None };
    let inversion = &job.inversion;
    session::write_bytes(&args.output, &inversion.to_bytes()?)?;
    run::finish(args.resume.as_deref(), &args.output);

    let pair = inversion.latents()?;
    let quality = noise_quality(&pair.x, &pair.y);
    let Inversion { sampler, trajectory, .. } = inversion;
    let mut json = session.settings(&folder);
    insert_run(&mut json, sampler, trajectory, inversion.strength);
    insert_guidance(&mut json, "", inversion.guidance, &inversion.negative);
    json.insert("prompt".to_owned(), inversion.prompt.as_str().into());
    let [.., height, width] = *inversion.image_latent.shape() else {
        return Err(Failure::running("the latents have no height and width"));
    };
    json.insert("size".to_owned(), vec![width * factor, height * factor].into());
    if let Some(input) = &input {
        input.insert(&mut json);
    }
    let mut report = Report::new("invert", json, &[&args.output], &session);
    report.json.insert("stability".to_owned(), stability_json(sampler, trajectory));
    report.json.insert("noise".to_owned(), noise_json(quality));
    if let Some((gap, Moments { mean, std, kurtosis })) = quality {
        // Writing to a string cannot fail.
        let _ = writeln!(
            report.text,
            "noise: mean {mean:.3}, standard deviation {std:.3}, kurtosis {kurtosis:.2}; the pair is {gap:.1e} apart"
        );
    }
    if let Some(BitIdentical { equal, total }) = verified {
        report.json.insert("verified".to_owned(), json!({"equal": equal, "total": total}));
        let _ = writeln!(report.text, "verified: {equal} of {total} values came back bit for bit");
    }
    Ok(report)
}

fn check_resumed(args: &InvertArgs, job: &Checkpoint, factor: usize) -> Result<(), Failure> {
    check_kept(&args.run, &job.inversion, None, "the checkpoint")?;
    session::check_same("--prompt", args.prompt.as_deref(), &job.inversion.prompt)?;
    session::check_same("--negative", args.guidance.negative.as_deref(), &job.inversion.negative)?;
    session::check_same_machine(&args.model, &job.inversion.origin)?;
    session::check_same_size(&args.image, &job.inversion, factor)?;
    session::check_same_guidance(&args.guidance, job.inversion.guidance)?;
    if args.verify && !job.inversion.sampler.is_exact() {
        return Err(Failure::usage("--verify needs an exact sampler, and the checkpoint's is none"));
    }
    Ok(())
}

/// Generates the picture again; an error unless every bit comes back.
fn verify<B: Backend>(
    session: &Session<'_, B>,
    job: &mut Checkpoint,
    args: &InvertArgs,
) -> Result<BitIdentical, Failure> {
    let Inversion { prompt, negative, guidance, .. } = &job.inversion;
    let mut trial = Checkpoint {
        generation: Some(Generation {
            prompts: vec![prompt.clone()],
            negative: negative.clone(),
            guidance: *guidance,
            origin: session.origin.clone(),
            noise_seed: None,
            finished: 0,
            state: None,
        }),
        ..job.clone()
    };
    // An interrupted check is begun anew: the checkpoint is that of the finished inversion.
    let (state, checked) = match run::generate(session, &mut trial, None) {
        Ok(generated) => generated,
        Err(failure) => {
            if crate::progress::is_interrupted() {
                return Err(run::interrupt(job, Some(&args.output)));
            }
            return Err(failure);
        }
    };
    let Inversion { sampler, trajectory, image_latent, .. } = &job.inversion;
    let back = sampler.latents(&state, trajectory)?;
    let identical = match sampler.edict() {
        Some(_) => bit_identical_pair(back.x.view(), back.y.view(), image_latent.view())?,
        None => bit_identical(back.x.view(), image_latent.view())?,
    };
    let BitIdentical { equal, total } = identical;
    if equal != total || checked.is_some_and(|checked| checked.differs()) {
        return Err(Failure::running(format!(
            "verification failed, nothing was written: {equal} of {total} values came back bit for bit; the network does not \
             answer one question in one way (--float does without)"
        )));
    }
    Ok(identical)
}
