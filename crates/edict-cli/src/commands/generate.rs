//! `edict generate`: from noise to a picture, the noise of an inversion or fresh noise.

use edict_core::{MixingWeight, Sampler, UpdateOrder};
use edict_stable_diffusion::{ImageSize, Inversion, ModelFolder, latents_to_bytes, seeded_noise};

use crate::args::{GenerateArgs, WeightArg};
use crate::failure::{Failure, chain};
use crate::progress::Reporter;
use crate::session::{self, DEFAULT_GUIDANCE, Report, RunSettings};

pub(crate) fn run(args: &GenerateArgs, reporter: &Reporter) -> Result<Report, Failure> {
    let outputs: Vec<_> = std::iter::once(args.output.as_path()).chain(args.latents.as_deref()).collect();
    if args.latents.as_ref() == Some(&args.output) {
        return Err(Failure::usage("--output and --latents name the same file"));
    }
    session::check_outputs(outputs.iter().copied())?;
    session::check_picture_name(&args.output, reporter);
    let inversion = match &args.inversion {
        None => None,
        Some(path) => Some(Inversion::read(path)?),
    };
    let folder = session::open_folder(&args.model.model)?;
    let fingerprint = folder.fingerprint()?;
    if let (Some(inversion), Some(path)) = (&inversion, &args.inversion) {
        let named = |error| Failure::running(format!("{}: {}", path.display(), chain(&error)));
        inversion.check_model(&fingerprint).map_err(named)?;
    }
    let factor = folder.vae_config().factor();

    let settings = match &inversion {
        Some(inversion) => {
            check_shape(inversion, folder.vae_config().latent_channels)?;
            kept_settings(args, inversion, factor)?
        }
        None => RunSettings::new(&args.run, 1.0),
    };
    let default_guidance = inversion.as_ref().map_or(DEFAULT_GUIDANCE, |inversion| inversion.guidance);
    let guidance = session::guidance(&args.guidance, default_guidance);
    let kept = |of: fn(&Inversion) -> &String| inversion.as_ref().map(of).cloned().unwrap_or_default();
    let negative = args.guidance.negative.clone().unwrap_or_else(|| kept(|inversion| &inversion.negative));
    let prompt = args.prompt.clone().unwrap_or_else(|| kept(|inversion| &inversion.prompt));
    let trajectory = match &inversion {
        Some(inversion) => inversion.trajectory.clone(),
        None => settings.trajectory(&folder)?,
    };
    let size = match args.size {
        Some(size) => size,
        None => model_size(&folder),
    };
    size.check(factor).map_err(|error| Failure::usage(format!("--size: {error}")))?;

    let session = session::load(&args.model, &folder, inversion.as_ref().map(|i| &i.origin), reporter)?;
    let condition = session.encode_prompts(&prompt, &negative)?;
    let sampler = settings.sampler()?;
    let schedule = inversion.as_ref().map_or(folder.schedule(), |inversion| &inversion.schedule).clone();
    let start = match inversion {
        Some(inversion) => inversion.pair,
        None => {
            let shape = session.model.latent_shape(1, size.width, size.height);
            let noise = seeded_noise(&shape, args.seed.unwrap_or(0));
            sampler.state_from_noise(&noise, &trajectory)?
        }
    };
    let mut progress = reporter.run("generating", trajectory.len());
    let pair = sampler
        .generate(&start, &trajectory, &session.predictor(guidance, &schedule)?, &condition, &mut progress)
        .map_err(session::run_failure)?;
    drop(progress);
    let picture = session.model.decode(&pair.x)?;
    // The picture first: it can turn out not to be one.
    session::write_picture(&picture, &args.output)?;
    if let Some(path) = &args.latents {
        session::write_bytes(path, &latents_to_bytes(&pair)?)?;
    }

    let p = settings.mixing_weight.resolve(&trajectory);
    let mut json = session.settings(&args.model.model, &settings, p);
    session::insert_guidance(&mut json, "", guidance, &negative);
    json.insert("prompt".to_owned(), prompt.into());
    let [height, width] = [picture.shape()[2], picture.shape()[3]];
    json.insert("size".to_owned(), vec![width, height].into());
    match &args.inversion {
        Some(path) => json.insert("inversion".to_owned(), path.to_string_lossy().into()),
        None => json.insert("seed".to_owned(), args.seed.unwrap_or(0).into()),
    };
    Ok(Report::new("generate", json, &outputs, session.calls()))
}

/// Refuses latents that the model could not have made, and a batch, of which only one picture could be written.
fn check_shape(inversion: &Inversion, channels: usize) -> Result<(), Failure> {
    match *inversion.pair.x.shape() {
        [1, found, height, width] if found == channels && height > 0 && width > 0 => Ok(()),
        ref found => Err(Failure::running(format!(
            "the inversion's latents should have shape [1, {channels}, height, width], found {found:?}"
        ))),
    }
}

/// The settings of an inversion, after checking that no flag says otherwise.
fn kept_settings(args: &GenerateArgs, inversion: &Inversion, factor: usize) -> Result<RunSettings, Failure> {
    let otherwise = |flag: &str, given: &dyn std::fmt::Display, kept: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "{flag} {given} does not fit the inversion, which was made with {kept}: leave {flag} out, or invert again"
        ))
    };
    let Inversion { trajectory, strength, mixing_weight, order, image_latent, .. } = inversion;
    let (steps, p) = (trajectory.schedule_steps(), *mixing_weight);
    match args.run.steps {
        Some(given) if given != steps => return Err(otherwise("--steps", &given, &steps)),
        _ => {}
    }
    match args.run.strength {
        Some(given) if given != *strength => return Err(otherwise("--strength", &given, strength)),
        _ => {}
    }
    match args.run.mixing_weight {
        Some(WeightArg::Fixed(given)) if given != p => return Err(otherwise("--mixing-weight", &given, &p)),
        // A power: its last bit may differ between machines, and the kept number is used anyway.
        Some(WeightArg::Auto) if (MixingWeight::Auto.resolve(trajectory) / p - 1.0).abs() > 1e-12 => {
            return Err(otherwise("--mixing-weight", &"auto", &p));
        }
        _ => {}
    }
    if args.run.no_leapfrog && *order == UpdateOrder::Leapfrog {
        return Err(Failure::usage(
            "--no-leapfrog does not fit the inversion, which was made with leapfrog: leave --no-leapfrog out, or invert again",
        ));
    }
    if let Some(given) = args.size {
        let [width, height] = [image_latent.shape()[3] * factor, image_latent.shape()[2] * factor];
        if (given.width, given.height) != (width, height) {
            return Err(otherwise("--size", &given, &format!("{width}x{height}")));
        }
    }
    let mixing_weight = MixingWeight::Fixed(p);
    Ok(RunSettings { steps, strength: *strength, mixing_weight, order: *order })
}

/// The size the model was trained at.
fn model_size(folder: &ModelFolder) -> ImageSize {
    let factor = folder.vae_config().factor();
    // 64 latents a side are diffusers' own default.
    let [height, width] = folder.unet_config().sample_size.unwrap_or([64, 64]);
    ImageSize { width: width * factor, height: height * factor }
}
