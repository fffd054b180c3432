//! `edict reconstruct`: what a picture loses on its way to noise and back.

use std::fmt::Write;
use std::time::Instant;

use edict_core::{Ddim, Guidance, Latents, Sampler, Trajectory};
use edict_stable_diffusion::{
    Backend, BitIdentical, GuidanceSettings, PromptEmbedding, bit_identical, bit_identical_pair,
    latent_max_abs_error, latent_mse, pixel_mse, psnr,
};
use ndarray::{Array4, ArrayD};
use serde_json::{Map, Value, json};

use crate::args::ReconstructArgs;
use crate::failure::Failure;
use crate::progress::{Reporter, check_interrupt};
use crate::session::{self, DEFAULT_GUIDANCE, Report, RunSettings, Session};

pub(crate) fn run(args: &ReconstructArgs, reporter: &Reporter) -> Result<Report, Failure> {
    session::check_outputs(args.output.as_deref())?;
    if let Some(path) = &args.output {
        session::check_picture_name(path, reporter);
    }
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
    let floor = session.model.decode(&image_latent)?;
    let job = Job { session: &session, image: &image, image_latent, trajectory, guidance, condition };

    let edict = job.measure("edict", &settings.sampler()?, |pair, latent| {
        bit_identical_pair(pair.x.view(), pair.y.view(), latent.view())
    });
    check_interrupt()?;
    let ddim = job.measure("ddim", &Ddim, |z, latent| bit_identical(z.view(), latent.view()));
    check_interrupt()?;
    let edict = edict?;
    if let Some(path) = &args.output {
        session::write_picture(&edict.picture, path)?;
    }

    let p = settings.mixing_weight.resolve(&job.trajectory);
    let mut json = session.settings(&args.model.model, &settings, p);
    session::insert_guidance(&mut json, "", guidance, &negative);
    json.insert("prompt".to_owned(), args.prompt.as_str().into());
    session::insert_image(&mut json, &args.image, &image);
    let outputs: Vec<_> = args.output.as_deref().into_iter().collect();
    let mut report = Report::new("reconstruct", json, &outputs, session.calls());

    let vae_mse = pixel_mse(floor.view(), image.view().into_dyn())?;
    let rows = [("edict", Ok(edict)), ("ddim", ddim)];
    table(&mut report.text, &rows, vae_mse);
    let samplers: Map<_, _> = rows.iter().map(|(name, row)| ((*name).to_owned(), row_json(row))).collect();
    report.json.insert("samplers".to_owned(), samplers.into());
    report.json.insert("vae".to_owned(), json!({"pixel_mse": vae_mse, "psnr": finite(psnr(vae_mse))}));
    report.answers = true;
    Ok(report)
}

/// What every sampler is measured on.
struct Job<'a, B: Backend> {
    session: &'a Session<'a, B>,
    image: &'a Array4<f64>,
    image_latent: Latents,
    trajectory: Trajectory,
    guidance: GuidanceSettings,
    condition: Guidance<PromptEmbedding>,
}

/// How well a sampler came back.
struct Measured {
    latent_max_abs_error: f64,
    latent_mse: f64,
    bit_identical: BitIdentical,
    pixel_mse: f64,
    calls: usize,
    seconds: f64,
    picture: ArrayD<f64>,
}

impl<B: Backend> Job<'_, B> {
    fn measure<S: Sampler>(
        &self,
        name: &str,
        sampler: &S,
        identity: impl Fn(&S::State, &Latents) -> Result<BitIdentical, edict_stable_diffusion::MetricError>,
    ) -> Result<Measured, Failure>
    where
        S::State: std::fmt::Debug,
    {
        let (session, latent, trajectory) = (self.session, &self.image_latent, &self.trajectory);
        let (begun, calls) = (Instant::now(), session.calls());
        let predictor = session.predictor(self.guidance, session.model.schedule())?;
        let mut progress = session.reporter.run(name, 2 * trajectory.len());
        let start = sampler.state_from_image(latent, trajectory)?;
        let noise = sampler
            .invert(&start, trajectory, &predictor, &self.condition, &mut progress)
            .map_err(session::run_failure)?;
        let back = sampler
            .generate(&noise, trajectory, &predictor, &self.condition, &mut progress)
            .map_err(session::run_failure)?;
        drop(progress);
        let (seconds, calls) = (begun.elapsed().as_secs_f64(), session.calls() - calls);
        let z = sampler.image(&back, trajectory)?;
        let picture = session.model.decode(&z)?;
        Ok(Measured {
            latent_max_abs_error: latent_max_abs_error(z.view(), latent.view())?,
            latent_mse: latent_mse(z.view(), latent.view())?,
            bit_identical: identity(&back, latent)?,
            pixel_mse: pixel_mse(picture.view(), self.image.view().into_dyn())?,
            calls,
            seconds,
            picture,
        })
    }
}

type Row = (&'static str, Result<Measured, Failure>);

fn table(text: &mut String, rows: &[Row], vae_mse: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<12} {:>13} {:>12} {:>14} {:>12} {:>9} {:>6} {:>9}",
        "sampler", "latent error", "latent mse", "bit-identical", "pixel mse", "psnr", "calls", "seconds"
    );
    for (name, row) in rows {
        let _ = match row {
            Ok(m) => {
                let share = 100.0 * m.bit_identical.equal as f64 / m.bit_identical.total as f64;
                writeln!(
                    text,
                    "{name:<12} {:>13.2e} {:>12.2e} {share:>13.1}% {:>12.6} {:>6.2} dB {:>6} {:>7.2} s",
                    m.latent_max_abs_error,
                    m.latent_mse,
                    m.pixel_mse,
                    psnr(m.pixel_mse),
                    m.calls,
                    m.seconds
                )
            }
            Err(failure) => writeln!(text, "{name:<12} failed: {}", failure.message),
        };
    }
    let _ = writeln!(text, "{:<54} {vae_mse:>12.6} {:>6.2} dB", "encoder and decoder alone", psnr(vae_mse));
}

fn row_json(row: &Result<Measured, Failure>) -> Value {
    match row {
        Ok(m) => json!({
            "latent_max_abs_error": finite(m.latent_max_abs_error),
            "latent_mse": finite(m.latent_mse),
            "bit_identical": {"equal": m.bit_identical.equal, "total": m.bit_identical.total},
            "pixel_mse": finite(m.pixel_mse),
            "psnr": finite(psnr(m.pixel_mse)),
            "network_calls": m.calls,
            "seconds": m.seconds,
        }),
        Err(failure) => json!({"error": failure.message}),
    }
}

/// JSON has no infinities: a number that is not finite is null.
fn finite(value: f64) -> Value {
    if value.is_finite() { value.into() } else { Value::Null }
}
