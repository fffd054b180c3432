//! Runs that can be interrupted and gone on with.

use std::path::{Path, PathBuf};

use edict_core::{
    Guidance, Guided, Latents, SampleError, Sampler, Stability, StepError, Trajectory, check_deterministic,
};
use edict_stable_diffusion::{
    AnySampler, AnyState, Backend, Checkpoint, Generation, GuidanceSettings, Inversion, Origin,
    PromptEmbedding, UNetPredictor,
};
use serde_json::{Value, json};

use crate::failure::{Failure, chain};
use crate::progress::{interrupted, is_interrupted};
use crate::session::{self, Session};
use crate::settings::two_step_remedy;
use crate::witness::{Counted, Witness};

type Model<'a, B> = Guided<Counted<'a, UNetPredictor<'a, B>>>;

/// Where an interrupted run to `output` leaves its checkpoint.
pub(crate) fn checkpoint_path(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".part.safetensors");
    output.with_file_name(name)
}

/// Writes the checkpoint of a run that was interrupted, unless it has no output to name one after.
pub(crate) fn interrupt(job: &Checkpoint, output: Option<&Path>) -> Failure {
    let Some(output) = output else { return interrupted() };
    let path = checkpoint_path(output);
    let written = job.to_bytes().map_err(Failure::from).and_then(|bytes| session::write_bytes(&path, &bytes));
    match written {
        Ok(()) => Failure::running(format!("interrupted; go on with --resume {}", path.display())),
        Err(Failure { message, .. }) => {
            Failure::running(format!("interrupted, and no checkpoint could be written: {message}"))
        }
    }
}

/// Removes the checkpoint of a run that has come to its end, if it is the one the program itself has named.
pub(crate) fn finish(resume: Option<&Path>, output: &Path) {
    if let Some(path) = resume
        && let (Ok(path), Ok(own)) = (path.canonicalize(), checkpoint_path(output).canonicalize())
        && path == own
    {
        // A file that cannot be removed harms nobody.
        let _ = std::fs::remove_file(path);
    }
}

/// Inverts from where the job's inversion stands to the noisy end.
pub(crate) fn invert<B: Backend>(
    session: &Session<'_, B>,
    job: &mut Checkpoint,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let Inversion { sampler, trajectory, prompt, negative, guidance, schedule, .. } = &job.inversion;
    let condition = session.encode_prompts(prompt, negative)?;
    let (rest, _) = trajectory.split_at(job.level)?;
    let model = session.predictor(*guidance, schedule)?;
    let run = (sampler, trajectory);
    probe(session, &model, &condition, *guidance, run, &job.inversion.image_latent)?;
    let witness = Witness::recording(model, job.inversion.predictions.clone());
    let mut progress = session.reporter.run("inverting", rest.len());
    let result = sampler.invert(&job.inversion.noise, &rest, &witness, &condition, &mut progress);
    drop(progress);
    let stopped = match result {
        Ok(state) => {
            (job.inversion.noise, job.level) = (state, 0);
            is_interrupted()
        }
        Err(SampleError::Stopped { state, level }) => {
            (job.inversion.noise, job.level) = (*state, level);
            true
        }
        Err(error) => return Err(explain(&error, sampler, trajectory, true)),
    };
    job.inversion.predictions = witness.into_made();
    if stopped { Err(interrupt(job, output)) } else { Ok(()) }
}

/// What generation found out about the predictions of the inversion.
pub(crate) struct Checked {
    /// Predictions compared.
    compared: usize,
    /// The first that differs.
    difference: Option<usize>,
}

impl Checked {
    pub(crate) fn json(checked: Option<&Self>) -> Value {
        checked.map_or(
            Value::Null,
            |Self { compared, difference }| json!({"compared": compared, "first_difference": difference}),
        )
    }

    pub(crate) fn differs(&self) -> bool {
        self.difference.is_some()
    }
}

/// Generates the picture that the job is at, from where its state stands.
///
/// Under the very settings of an exact inversion its predictions are compared with those of inversion, and the first that
/// differs is told.
pub(crate) fn generate<B: Backend>(
    session: &Session<'_, B>,
    job: &mut Checkpoint,
    output: Option<&Path>,
) -> Result<(AnyState, Option<Checked>), Failure> {
    let Checkpoint { inversion, generation, .. } = &mut *job;
    let Inversion { sampler, trajectory, schedule, .. } = &*inversion;
    let Some(generation) = generation else { return Err(Failure::running("nothing is to be generated")) };
    let prompt = generation.prompts.get(generation.finished).cloned().unwrap_or_default();
    let condition = session.encode_prompts(&prompt, &generation.negative)?;
    let model = session.predictor(generation.guidance, schedule)?;
    let noise = inversion.latents()?.x;
    probe(session, &model, &condition, generation.guidance, (sampler, trajectory), &noise)?;
    let (start, level) = match &generation.state {
        Some((state, level)) => (state, *level),
        None => (&inversion.noise, 0),
    };
    let (_, rest) = trajectory.split_at(level)?;
    let returns = returns(inversion, generation);
    let inverted: &[u64] = if returns { &inversion.predictions } else { &[] };
    let skipped = calls_before(sampler, trajectory, level);
    let witness = Witness::checking(model, inverted, skipped);
    let mut progress = session.reporter.run("generating", rest.len());
    let mut told = false;
    let mut watch = |step: &edict_core::Step, state: &AnyState| {
        if let (_, Some(number)) = witness.checked()
            && !told
        {
            told = true;
            session.reporter.warn(difference(skipped + number, step, &inversion.origin, &session.origin));
        }
        edict_core::Observer::after_step(&mut progress, step, state)
    };
    let result = sampler.generate(start, &rest, &witness, &condition, &mut watch);
    drop(progress);
    let stopped = match result {
        Ok(state) if !is_interrupted() => {
            let (compared, difference) = witness.checked();
            generation.state = None;
            let difference = difference.map(|number| skipped + number);
            return Ok((state, returns.then_some(Checked { compared, difference })));
        }
        Ok(state) => (state, trajectory.run().len()),
        Err(SampleError::Stopped { state, level }) => (*state, level),
        Err(error) => {
            // A step that fails on another machine's answer is not told by the run's observer.
            if let ((_, Some(number)), false, Some(step)) =
                (witness.checked(), told, trajectory.run().first())
            {
                session.reporter.warn(difference(skipped + number, step, &inversion.origin, &session.origin));
            }
            return Err(explain(&error, sampler, trajectory, false));
        }
    };
    drop(witness);
    generation.state = Some(stopped);
    Err(interrupt(job, output))
}

/// Whether a generation asks what its inversion asked, so that every answer can be compared with the one then.
pub(crate) fn returns(inversion: &Inversion, generation: &Generation) -> bool {
    inversion.sampler.is_exact()
        && !inversion.predictions.is_empty()
        && generation.prompts.get(generation.finished) == Some(&inversion.prompt)
        && generation.negative == inversion.negative
        && generation.guidance == inversion.guidance
}

/// Keeps what was generated for later if the run was interrupted while the picture was being decoded.
pub(crate) fn keep(job: &mut Checkpoint, state: &AnyState, output: &Path) -> Result<(), Failure> {
    if !is_interrupted() {
        return Ok(());
    }
    let level = job.inversion.trajectory.run().len();
    if let Some(generation) = &mut job.generation {
        generation.state = Some((state.clone(), level));
    }
    Err(interrupt(job, Some(output)))
}

/// How many predictions generation makes before a level.
fn calls_before(sampler: &AnySampler, run: &Trajectory, level: usize) -> usize {
    let wide = run.run().iter().take(level).filter(|step| step.coefficients().1 != 0.0).count();
    // A two-step run from two neighbours goes to the second without asking.
    if sampler.two_step().is_some() { wide.saturating_sub(1) } else { 2 * wide }
}

fn difference(number: usize, step: &edict_core::Step, then: &Origin, now: &Origin) -> String {
    let machine = |origin: &Origin| {
        let set = if origin.instruction_set.is_empty() { "unknown" } else { &origin.instruction_set };
        format!("{} on {} ({set}), {} threads", origin.backend, origin.device, origin.threads)
    };
    let precision = |origin: &Origin| match &origin.weights {
        Some(weights) => format!("{} with weights in {weights}", origin.dtype),
        None => origin.dtype.clone(),
    };
    format!(
        "network call {} of this generation (step {}, timestep {}) answers otherwise than in the inversion: the image will not come \
         back exactly. Inverted with {} in {}; now {} in {}",
        number + 1,
        step.index(),
        step.timestep(),
        machine(then),
        precision(then),
        machine(now),
        precision(now),
    )
}

/// Asks the network twice, once a process for each batch it will see, before an exact run relies on it.
pub(crate) fn probe<B: Backend>(
    session: &Session<'_, B>,
    model: &Model<'_, B>,
    condition: &Guidance<PromptEmbedding>,
    guidance: GuidanceSettings,
    (sampler, run): (&AnySampler, &Trajectory),
    latents: &Latents,
) -> Result<(), Failure> {
    if !sampler.is_exact() {
        return Ok(());
    }
    let scale = guidance.scale()?;
    for guided in [true, false] {
        // At scale 1 and 0 one prompt is asked about, else two at once.
        let asks = |t| !matches!(scale.at(t), 0.0 | 1.0) == guided;
        let Some(step) = run.run().iter().find(|step| asks(step.timestep())) else { continue };
        if session.was_probed(guided) {
            continue;
        }
        if is_interrupted() {
            // The run stops at its first step, and leaves what there is.
            return Ok(());
        }
        let before = session.all_calls();
        let result = check_deterministic(model, latents.view(), step.timestep(), condition);
        session.count_probe(session.all_calls() - before);
        result.map_err(|error| Failure::running(format!("{}; --float does without", chain(&error))))?;
    }
    Ok(())
}

/// Names the remedy for a run that has failed.
pub(crate) fn explain<E: std::error::Error + 'static, S: std::fmt::Debug>(
    error: &SampleError<E, S>,
    sampler: &AnySampler,
    trajectory: &Trajectory,
    inverting: bool,
) -> Failure {
    let SampleError::Step(StepError::Range { step, timestep, value }) = error else {
        return Failure::running(chain(error));
    };
    let remedy = match sampler.edict() {
        Some(edict) => {
            let weight = Stability::weight_that_holds(&edict, trajectory, *step, *value);
            // Inversion blows differences up, the less the larger the weight; what generation blows up is the network's.
            if inverting && weight > edict.mixing_weight().resolve(trajectory) {
                format!("use --mixing-weight {weight}")
            } else {
                "use less --guidance, more --steps, or --float".to_owned()
            }
        }
        None => format!("use {}", two_step_remedy(sampler)),
    };
    Failure::running(format!(
        "step {step} (timestep {timestep}) leads to {value:.1e}, outside the range of exact latents: {remedy}"
    ))
}
