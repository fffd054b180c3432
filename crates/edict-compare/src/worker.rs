//! One back end in a process of its own: it does an edit for each line it reads, and answers with a line.

use std::cell::Cell;
use std::io::{self, BufRead, Write};
use std::time::Instant;

use edict_core::{
    CoupledPair, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep, MixingWeight,
    NoisePredictor, Sampler, Timestep, Trajectory, TwoStep, TwoStepRule, UpdateOrder, check_deterministic,
};
use edict_stable_diffusion::{
    AnySampler, AnyState, Backend, BitIdentical, ModelFolder, Picture, PromptEmbedding, StableDiffusion,
    bit_identical, latent_max_abs_error,
};
use ndarray::{ArrayViewD, Axis, concatenate};
use serde_json::{Value, json};

use crate::Fault;

/// EDICT's mixing weight in the programs compared with, whatever the number of steps.
const WEIGHT: f64 = 0.93;

/// Counts and times network calls, with the casts and copies to and from the device.
struct Timed<P> {
    predictor: P,
    calls: Cell<usize>,
    seconds: Cell<f64>,
}

impl<P> Timed<P> {
    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.calls.set(self.calls.get() + 1);
        self.seconds.set(self.seconds.get() + begun.elapsed().as_secs_f64());
        done
    }
}

impl<P: NoisePredictor> NoisePredictor for Timed<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        self.time(|| self.predictor.predict(latents, t, condition))
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        self.time(|| self.predictor.predict_pair(latents, t, conditions))
    }
}

/// Answers what is asked on standard input until it ends.
///
/// Memory is told where it is the processor's: what libraries take of a GPU they keep to themselves.
pub(crate) fn serve<B: Backend>(backend: &B, folder: &ModelFolder, on_cpu: bool) -> Result<(), Fault> {
    let peak = || if on_cpu { peak() } else { Value::Null };
    let begun = Instant::now();
    let model = StableDiffusion::load(backend, folder)?;
    answer(&json!({"load_seconds": begun.elapsed().as_secs_f64()}))?;
    let mut warm = false;
    for line in io::stdin().lock().lines() {
        let mut done = edit(&model, backend, &serde_json::from_str(&line?)?, !warm)?;
        warm = true;
        done["peak_bytes"] = peak();
        answer(&done)?;
    }
    Ok(())
}

fn answer(value: &Value) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

fn edit<B: Backend>(
    model: &StableDiffusion<B>,
    backend: &B,
    ask: &Value,
    warm_up: bool,
) -> Result<Value, Fault> {
    let text = |key: &str| ask[key].as_str().ok_or_else(|| format!("{key} is missing in {ask}"));
    let number = |key: &str| ask[key].as_f64().ok_or_else(|| format!("{key} is missing in {ask}"));
    let steps = ask["steps"].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("steps is missing")?;
    let sampler = match text("algorithm")? {
        "belm" => AnySampler::LatticeTwoStep(LatticeTwoStep::new(TwoStep::new(TwoStepRule::Belm)?)?),
        _ => AnySampler::LatticeEdict(LatticeEdict::new(MixingWeight::Fixed(WEIGHT), UpdateOrder::Leapfrog)?),
    };
    let trajectory = model.trajectory(steps, number("strength")?)?;
    let picture = Picture::open(text("image")?)?.prepare(None, model.factor())?;
    let timed = Timed { predictor: model.predictor(), calls: Cell::new(0), seconds: Cell::new(0.0) };
    let predictor = Guided::new(&timed, GuidanceScale::constant(number("guidance")?)?);
    if warm_up {
        // A process's first call lays weights out, finds kernels and takes memory: once, however long the edit is.
        let [_, _, height, width] = picture.dim().into();
        let latents = Latents::zeros(&model.latent_shape(1, width, height)[..]);
        let prompt = model.encode_prompt(text("source")?)?;
        let condition = Guidance { positive: prompt.clone(), negative: prompt };
        let at = trajectory.run().first().ok_or("there is no step")?.timestep();
        predictor.predict(latents.view(), at, &condition)?;
        timed.calls.set(0);
        timed.seconds.set(0.0);
    }

    let begun = Instant::now();
    let lap = |from: &mut Instant| {
        let seconds = from.elapsed().as_secs_f64();
        *from = Instant::now();
        seconds
    };
    let mut from = begun;
    let [source, target] = [text("source")?, text("target")?].map(|prompt| model.encode_prompt(prompt));
    let negative = model.encode_prompt(text("negative")?)?;
    let [source, target] =
        [source?, target?].map(|positive| Guidance { positive, negative: negative.clone() });
    let text_seconds = lap(&mut from);
    let latent = model.encode_images(picture.view().into_dyn())?.mode();
    let encode_seconds = lap(&mut from);
    let start = sampler.state_from_image(&latent, &trajectory)?;
    let noise = sampler.invert(&start, &trajectory, &predictor, &source, &mut ())?;
    let edited = sampler.generate(&noise, &trajectory, &predictor, &target, &mut ())?;
    let loop_seconds = lap(&mut from);
    model.decode(&sampler.image(&edited, &trajectory)?)?;
    let decode_seconds = lap(&mut from);
    let seconds = begun.elapsed().as_secs_f64();

    let mut done = json!({
        "seconds": seconds, "loop_seconds": loop_seconds, "network_seconds": timed.seconds.get(),
        "network_calls": timed.calls.get(), "text_seconds": text_seconds, "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
    });
    if ask["round_trip"] == true {
        let back = sampler.generate(&noise, &trajectory, &predictor, &source, &mut ())?;
        // Of a coupled pair both; the neighbour of a two-step sampler's latents is not there before the first step.
        let pair = sampler.mixing_weight().is_some();
        let compared = |state: &AnyState| -> Result<Latents, Fault> {
            let CoupledPair { x, y } = sampler.latents(state, &trajectory)?;
            Ok(if pair { concatenate(Axis(0), &[x.view(), y.view()])? } else { x })
        };
        done["round_trip"] =
            round_trip((&compared(&start)?, &compared(&back)?), &predictor, &source, &trajectory)?;
        done["transfer_seconds"] = transfer(backend, &latent)?.into();
    }
    Ok(done)
}

/// The seconds that a guided call's latents take to the device, and its answer back, casts included.
fn transfer<B: Backend>(backend: &B, latents: &Latents) -> Result<f64, Fault> {
    const TIMES: u32 = 20;
    let both = concatenate(Axis(0), &[latents.view(), latents.view()])?;
    let begun = Instant::now();
    for _ in 0..TIMES {
        backend.download(&backend.upload(both.view())?)?;
    }
    Ok((begun.elapsed() / TIMES).as_secs_f64())
}

/// What has come back (for a pair one after the other), and whether the network answers one question in one way.
fn round_trip<P>(
    (image, back): (&Latents, &Latents),
    predictor: &Guided<P>,
    condition: &Guidance<PromptEmbedding>,
    trajectory: &Trajectory,
) -> Result<Value, Fault>
where
    P: NoisePredictor<Condition = PromptEmbedding>,
{
    let BitIdentical { equal, total } = bit_identical(back.view(), image.view())?;
    let at = trajectory.run().first().ok_or("there is no step")?.timestep();
    let one = image.slice_axis(Axis(0), (..1).into());
    let deterministic = check_deterministic(predictor, one, at, condition).is_ok();
    let error = latent_max_abs_error(back.view(), image.view())?;
    Ok(json!({"max_abs_error": error, "equal": equal, "total": total, "deterministic": deterministic}))
}

/// The most memory that this process has had, in bytes; null where the system does not tell.
fn peak() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(Value::Null, |kib| (kib << 10).into())
}
