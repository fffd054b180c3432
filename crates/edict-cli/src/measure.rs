//! What samplers lose on a picture's way to noise and back, in numbers.

use std::fmt::Write;
use std::time::Instant;

use edict_core::{CoupledPair, Guidance, Latents, Sampler, StateError, Trajectory, UpdateOrder};
use edict_core::{
    Ddim, Edict, LatticeEdict, LatticeTwoStep, MixingWeight, SinglePrecision, TwoStep, TwoStepRule,
};
use edict_stable_diffusion::{
    AnySampler, Backend, BitIdentical, GuidanceSettings, PromptEmbedding, bit_identical, bit_identical_pair,
    latent_max_abs_error, latent_mse, pixel_mse, psnr,
};
use ndarray::{Array4, ArrayD};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::progress::interrupted;
use crate::report::finite;
use crate::run;
use crate::session::Session;

/// What every sampler is measured on.
pub(crate) struct Subject<'a, B: Backend> {
    pub(crate) session: &'a Session<'a, B>,
    /// The picture, prepared.
    pub(crate) image: &'a Array4<f64>,
    /// Its latents, as the encoder made them.
    pub(crate) latent: Latents,
    pub(crate) trajectory: Trajectory,
    pub(crate) guidance: GuidanceSettings,
    pub(crate) condition: Guidance<PromptEmbedding>,
}

/// How well a sampler came back.
pub(crate) struct Measured {
    pub(crate) latent_max_abs_error: f64,
    latent_mse: f64,
    pub(crate) bit_identical: BitIdentical,
    pub(crate) pixel_mse: f64,
    calls: usize,
    seconds: f64,
    /// The picture decoded from what came back.
    pub(crate) picture: ArrayD<f64>,
}

/// A sampler's name and what it did.
pub(crate) type Row = (&'static str, Result<Measured, Failure>);

/// A sampler to measure.
#[derive(Clone, Copy)]
pub(crate) enum Candidate {
    Any(AnySampler),
    /// EDICT with latents in f32.
    SinglePrecision(SinglePrecision),
}

/// Every sampler there is, by the name it has in reports.
pub(crate) fn candidates(
    weight: MixingWeight,
    order: UpdateOrder,
    gamma: f64,
) -> Result<Vec<(&'static str, Candidate)>, Failure> {
    let edict = Edict::new(weight, order)?;
    let (belm, bdia) = (TwoStep::new(TwoStepRule::Belm)?, TwoStep::new(TwoStepRule::Bdia { gamma })?);
    let any = Candidate::Any;
    Ok(vec![
        ("edict", any(AnySampler::LatticeEdict(LatticeEdict::new(weight, order)?))),
        ("belm", any(AnySampler::LatticeTwoStep(LatticeTwoStep::new(belm)?))),
        ("bdia", any(AnySampler::LatticeTwoStep(LatticeTwoStep::new(bdia)?))),
        ("edict_float", any(AnySampler::Edict(edict))),
        ("belm_float", any(AnySampler::TwoStep(belm))),
        ("bdia_float", any(AnySampler::TwoStep(bdia))),
        ("edict_f32", Candidate::SinglePrecision(SinglePrecision(edict))),
        ("ddim", any(AnySampler::Ddim(Ddim))),
    ])
}

impl<B: Backend> Subject<'_, B> {
    /// Takes the picture to noise and back.
    pub(crate) fn measure(&self, name: &str, candidate: Candidate) -> Result<Measured, Failure> {
        match candidate {
            Candidate::Any(sampler) => {
                self.round_trip(name, &sampler, Some(sampler), sampler.edict().is_some(), |state| {
                    sampler.latents(state, &self.trajectory)
                })
            }
            Candidate::SinglePrecision(sampler) => {
                self.round_trip(name, &sampler, None, true, |pair: &CoupledPair| Ok(pair.clone()))
            }
        }
    }

    fn round_trip<S: Sampler>(
        &self,
        name: &str,
        sampler: &S,
        any: Option<AnySampler>,
        pair: bool,
        latents: impl Fn(&S::State) -> Result<CoupledPair, StateError>,
    ) -> Result<Measured, Failure>
    where
        S::State: std::fmt::Debug,
    {
        let Self { session, trajectory, condition, .. } = self;
        let start = sampler.state_from_image(&self.latent, trajectory)?;
        // What the sampler starts from is what has to come back: in exact mode the latents on the lattice.
        let reference = sampler.image(&start, trajectory)?;
        let model = session.predictor(self.guidance, session.model.schedule())?;
        if let Some(sampler) = any {
            run::probe(session, &model, condition, self.guidance, (&sampler, trajectory), &reference)?;
        }
        let (begun, calls) = (Instant::now(), session.calls());
        let mut progress = session.reporter.run(name, 2 * trajectory.len());
        let failure = |inverting| {
            move |error| match (error, any) {
                (edict_core::SampleError::Stopped { .. }, _) => interrupted(),
                (error, Some(sampler)) => run::explain(&error, &sampler, trajectory, inverting),
                (error, None) => error.into(),
            }
        };
        let noise =
            sampler.invert(&start, trajectory, &model, condition, &mut progress).map_err(failure(true))?;
        let back =
            sampler.generate(&noise, trajectory, &model, condition, &mut progress).map_err(failure(false))?;
        drop(progress);
        let (seconds, calls) = (begun.elapsed().as_secs_f64(), session.calls() - calls);
        let CoupledPair { x, y } = latents(&back)?;
        let picture = session.model.decode(&x)?;
        Ok(Measured {
            latent_max_abs_error: latent_max_abs_error(x.view(), reference.view())?,
            latent_mse: latent_mse(x.view(), reference.view())?,
            bit_identical: match pair {
                true => bit_identical_pair(x.view(), y.view(), reference.view())?,
                false => bit_identical(x.view(), reference.view())?,
            },
            pixel_mse: pixel_mse(picture.view(), self.image.view().into_dyn())?,
            calls,
            seconds,
            picture,
        })
    }
}

/// Draws the table for people.
pub(crate) fn table(text: &mut String, rows: &[Row], vae_mse: f64) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<12} {:>13} {:>12} {:>14} {:>12} {:>9} {:>6} {:>9}",
        "sampler", "latent error", "latent mse", "bit-identical", "pixel mse", "psnr", "calls", "seconds"
    );
    for (name, row) in rows {
        let _ = match row {
            Ok(m) => writeln!(
                text,
                "{name:<12} {:>13.2e} {:>12.2e} {:>14} {:>12.6} {:>6.2} dB {:>6} {:>7.2} s",
                m.latent_max_abs_error,
                m.latent_mse,
                share(m.bit_identical),
                m.pixel_mse,
                psnr(m.pixel_mse),
                m.calls,
                m.seconds
            ),
            Err(failure) => writeln!(text, "{name:<12} failed: {}", failure.message),
        };
    }
    let _ = writeln!(text, "{:<54} {vae_mse:>12.6} {:>6.2} dB", "encoder and decoder alone", psnr(vae_mse));
}

/// A share in per cent that says 100 only where all are equal.
pub(crate) fn share(BitIdentical { equal, total }: BitIdentical) -> String {
    if equal == total {
        return "100%".to_owned();
    }
    let share = (1000.0 * equal as f64 / total as f64).floor() / 10.0;
    format!("{share:.1}%")
}

/// A row for programs.
pub(crate) fn row_json(row: &Result<Measured, Failure>) -> Value {
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
