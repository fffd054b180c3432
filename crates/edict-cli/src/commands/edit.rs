//! `edict edit`: from a picture to pictures that other prompts describe.

use edict_core::Sampler;

use crate::args::EditArgs;
use crate::failure::Failure;
use crate::progress::Reporter;
use crate::session::{self, DEFAULT_GUIDANCE, Report, RunSettings};

pub(crate) fn run(args: &EditArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let outputs = session::numbered(&args.output, args.target.len());
    session::check_outputs(outputs.iter().map(AsRef::as_ref))?;
    session::check_picture_name(&args.output, reporter);
    let settings = RunSettings::new(&args.run, 0.8);
    let guidance = session::guidance(&args.guidance, DEFAULT_GUIDANCE);
    let negative = args.guidance.negative.clone().unwrap_or_default();
    let mut source_guidance = guidance;
    source_guidance.scale = args.source_guidance.unwrap_or(guidance.scale);
    let source_negative = args.source_negative.clone().unwrap_or_else(|| negative.clone());
    let folder = session::open_folder(&args.model.model)?;
    let trajectory = settings.trajectory(&folder)?;
    settings.warn_of_lost_bits(&trajectory, reporter);
    let image = session::read_image(&args.image, &folder, reporter)?;
    let session = session::load(&args.model, &folder, None, reporter)?;

    let source = session.encode_prompts(&args.source, &source_negative)?;
    let targets = (args.target.iter())
        .map(|target| session.encode_prompts(target, &negative))
        .collect::<Result<Vec<_>, _>>()?;
    let image_latent = session.encode_image(&image, &args.image)?;
    let sampler = settings.sampler()?;

    let mut progress = reporter.run("inverting", trajectory.len());
    let start = sampler.state_from_image(&image_latent, &trajectory)?;
    let noise = sampler
        .invert(
            &start,
            &trajectory,
            &session.predictor(source_guidance, folder.schedule())?,
            &source,
            &mut progress,
        )
        .map_err(session::run_failure)?;
    drop(progress);
    for (target, output) in targets.iter().zip(&outputs) {
        let mut progress = reporter.run("generating", trajectory.len());
        let edited = sampler
            .generate(
                &noise,
                &trajectory,
                &session.predictor(guidance, folder.schedule())?,
                target,
                &mut progress,
            )
            .map_err(session::run_failure)?;
        drop(progress);
        session::write_picture(&session.model.decode(&edited.x)?, output)?;
    }

    let p = settings.mixing_weight.resolve(&trajectory);
    let mut json = session.settings(&args.model.model, &settings, p);
    session::insert_guidance(&mut json, "", guidance, &negative);
    session::insert_guidance(&mut json, "source_", source_guidance, &source_negative);
    json.insert("source".to_owned(), args.source.as_str().into());
    json.insert("targets".to_owned(), args.target.as_slice().into());
    session::insert_image(&mut json, &args.image, &image);
    let outputs: Vec<_> = outputs.iter().map(AsRef::as_ref).collect();
    Ok(Report::new("edit", json, &outputs, session.calls()))
}
