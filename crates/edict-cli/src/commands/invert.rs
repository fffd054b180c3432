//! `edict invert`: from a picture to the noise that makes it.

use edict_core::Sampler;
use edict_stable_diffusion::Inversion;

use crate::args::InvertArgs;
use crate::failure::Failure;
use crate::progress::Reporter;
use crate::session::{self, DEFAULT_GUIDANCE, Report, RunSettings};

pub(crate) fn run(args: &InvertArgs, reporter: &Reporter) -> Result<Report, Failure> {
    session::check_outputs([args.output.as_path()])?;
    let settings = RunSettings::new(&args.run, 0.8);
    let guidance = session::guidance(&args.guidance, DEFAULT_GUIDANCE);
    let negative = args.guidance.negative.clone().unwrap_or_default();
    let folder = session::open_folder(&args.model.model)?;
    let trajectory = settings.trajectory(&folder)?;
    settings.warn_of_lost_bits(&trajectory, reporter);
    let image = session::read_image(&args.image, &folder, reporter)?;
    let session = session::load(&args.model, &folder, None, reporter)?;

    let condition = session.encode_prompts(&args.prompt, &negative)?;
    let image_latent = session.encode_image(&image, &args.image)?;
    let sampler = settings.sampler()?;
    let mut progress = reporter.run("inverting", trajectory.len());
    let pair = sampler
        .invert(
            &sampler.state_from_image(&image_latent, &trajectory)?,
            &trajectory,
            &session.predictor(guidance, folder.schedule())?,
            &condition,
            &mut progress,
        )
        .map_err(session::run_failure)?;
    drop(progress);

    let mixing_weight = settings.mixing_weight.resolve(&trajectory);
    let inversion = Inversion {
        pair,
        image_latent,
        trajectory,
        strength: settings.strength,
        schedule: session.model.schedule().clone(),
        mixing_weight,
        order: settings.order,
        guidance,
        prompt: args.prompt.clone(),
        negative: negative.clone(),
        origin: session.origin.clone(),
    };
    session::write_bytes(&args.output, &inversion.to_bytes()?)?;

    let mut json = session.settings(&args.model.model, &settings, mixing_weight);
    session::insert_guidance(&mut json, "", guidance, &negative);
    json.insert("prompt".to_owned(), args.prompt.as_str().into());
    session::insert_image(&mut json, &args.image, &image);
    Ok(Report::new("invert", json, &[&args.output], session.calls()))
}
