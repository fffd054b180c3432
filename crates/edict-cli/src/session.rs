//! What commands share: the model at work, its prompts and settings, and the report.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use edict_candle::{CandleBackend, DeviceSpec};
use edict_core::{
    Edict, Guidance, Guided, Latents, MixingWeight, NoisePredictor, NoiseSchedule, SampleError, Timestep,
    Trajectory, UpdateOrder,
};
use edict_stable_diffusion::{
    Backend, DType, GuidanceSettings, ImageError, ModelFolder, Origin, Picture, PromptEmbedding,
    StableDiffusion, UNetPredictor, check_writable, seeded_noise, write_atomically, write_png,
};
use ndarray::{Array4, ArrayD, ArrayViewD, Axis, Ix3};
use serde_json::{Map, Value, json};

use crate::args::{BackendName, GuidanceArgs, ImageArgs, ModelArgs, RunArgs, WeightArg};
use crate::failure::{Failure, chain};
use crate::progress::{Reporter, check_interrupt, interrupted, writing};

/// What a command has to say when it is done.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For people.
    pub(crate) text: String,
    /// For programs; time and warnings are added when it is printed.
    pub(crate) json: Map<String, Value>,
    /// Whether the text is the command's purpose, so that `--quiet` does not silence it.
    pub(crate) answers: bool,
}

impl Report {
    pub(crate) fn new(command: &str, settings: Map<String, Value>, outputs: &[&Path], calls: usize) -> Self {
        let outputs: Vec<_> = outputs.iter().map(|path| path.to_string_lossy()).collect();
        let mut text = String::new();
        for path in &outputs {
            text += &format!("wrote {path}\n");
        }
        let mut json = Map::new();
        json.insert("command".to_owned(), command.into());
        json.insert("settings".to_owned(), settings.into());
        json.insert("outputs".to_owned(), json!(outputs));
        json.insert("network_calls".to_owned(), calls.into());
        Self { text, json, answers: false }
    }
}

/// The settings of a run with their defaults filled in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunSettings {
    pub(crate) steps: usize,
    pub(crate) strength: f64,
    pub(crate) mixing_weight: MixingWeight,
    pub(crate) order: UpdateOrder,
}

impl RunSettings {
    pub(crate) fn new(args: &RunArgs, default_strength: f64) -> Self {
        Self {
            steps: args.steps.unwrap_or(50),
            strength: args.strength.unwrap_or(default_strength),
            mixing_weight: match args.mixing_weight {
                Some(WeightArg::Fixed(p)) => MixingWeight::Fixed(p),
                Some(WeightArg::Auto) | None => MixingWeight::Auto,
            },
            order: if args.no_leapfrog { UpdateOrder::Fixed } else { UpdateOrder::Leapfrog },
        }
    }

    pub(crate) fn sampler(&self) -> Result<Edict, Failure> {
        Ok(Edict::new(self.mixing_weight, self.order)?)
    }

    /// Lays out the run before the model's weights are read, so that settings that do not fit are refused at once.
    pub(crate) fn trajectory(&self, folder: &ModelFolder) -> Result<Trajectory, Failure> {
        let trajectory = folder.trajectory(self.steps, self.strength);
        trajectory.map_err(|error| Failure::usage(chain(&error)))
    }
}

impl RunSettings {
    /// Warns when inverting will blow rounding errors up to where they show.
    pub(crate) fn warn_of_lost_bits(&self, trajectory: &Trajectory, reporter: &Reporter) {
        // Of the 53 bits of an f64; ten are left for the latents themselves.
        const BITS_TO_SPARE: f64 = 43.0;
        let (p, steps) = (self.mixing_weight.resolve(trajectory), trajectory.len());
        let lost = 2.0 * steps as f64 * (1.0 / p).log2();
        if lost > BITS_TO_SPARE {
            let enough = (-BITS_TO_SPARE / (2.0 * steps as f64)).exp2();
            reporter.warn(format!(
                "{steps} steps with mixing weight {p} lose {lost:.0} bits of the pair's difference, and f64 has \
                 {BITS_TO_SPARE} to spare: the image may not come back; use --mixing-weight auto, or {enough:.3} and above"
            ));
        }
    }
}

/// Fills in the defaults of guidance; `default` is that of an inversion file, or the program's.
pub(crate) fn guidance(args: &GuidanceArgs, default: GuidanceSettings) -> GuidanceSettings {
    GuidanceSettings {
        scale: args.guidance.unwrap_or(default.scale),
        interval: args.guidance_interval.or(default.interval),
    }
}

/// Guidance when nothing is said about it.
pub(crate) const DEFAULT_GUIDANCE: GuidanceSettings = GuidanceSettings { scale: 3.0, interval: None };

/// A model at work.
pub(crate) struct Session<'a, B: Backend> {
    pub(crate) model: StableDiffusion<B>,
    pub(crate) origin: Origin,
    pub(crate) reporter: &'a Reporter,
    calls: AtomicUsize,
}

/// Opens a model folder: its configs are read, its weights not yet.
pub(crate) fn open_folder(path: &Path) -> Result<ModelFolder, Failure> {
    Ok(ModelFolder::open(path)?)
}

/// Finds out that an output cannot be written before the work is done.
pub(crate) fn check_outputs<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<(), Failure> {
    for path in paths {
        check_writable(path)?;
    }
    Ok(())
}

/// Warns when the name of a picture promises another format.
pub(crate) fn check_picture_name(path: &Path, reporter: &Reporter) {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    if let Some(other @ ("jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff")) = extension.as_deref() {
        reporter
            .warn(format!("pictures are written as PNG, whatever the name: {} says {other}", path.display()));
    }
}

/// Reads the picture to work on, `[1, 3, height, width]` in [-1, 1], cut to what the autoencoder takes.
pub(crate) fn read_image(
    args: &ImageArgs,
    folder: &ModelFolder,
    reporter: &Reporter,
) -> Result<Array4<f64>, Failure> {
    if args.seed.is_some() && !args.sample_posterior {
        reporter.warn("--seed has no effect without --sample-posterior".to_owned());
    }
    let picture = Picture::open(&args.image)?;
    picture.prepare(args.size, folder.vae_config().factor()).map_err(|error| match error {
        ImageError::Size { .. } => Failure::usage(format!("--size: {error}")),
        other => other.into(),
    })
}

/// Loads a model; `defaults` are those of an inversion file.
pub(crate) fn load<'a>(
    args: &ModelArgs,
    folder: &ModelFolder,
    defaults: Option<&Origin>,
    reporter: &'a Reporter,
) -> Result<Session<'a, CandleBackend>, Failure> {
    match (args.backend, defaults) {
        (Some(BackendName::Tch), _) => {
            return Err(Failure::usage(
                "this build has no tch back end: leave out `--backend tch` to use candle",
            ));
        }
        (None, Some(Origin { backend, .. })) if backend != BackendName::Candle.name() => {
            return Err(Failure::running(format!(
                "the inversion was made with the back end {backend:?}, which this build does not have: \
                 give `--backend candle` to use that one"
            )));
        }
        _ => {}
    }
    let device = match (args.device, defaults) {
        (Some(device), _) => device,
        (None, Some(origin)) => {
            origin.device.parse::<DeviceSpec>().map_err(|error| elsewhere(origin, &error))?
        }
        (None, None) => DeviceSpec::Cpu,
    };
    let dtype = match (args.dtype, defaults) {
        (Some(dtype), _) => dtype.into(),
        (None, Some(origin)) => parse_dtype(&origin.dtype)?,
        (None, None) => DType::F32,
    };
    let mut backend = CandleBackend::new(device, dtype).map_err(|error| match defaults {
        Some(origin) if args.device.is_none() => elsewhere(origin, &error),
        _ => error.into(),
    })?;
    // A file may come from a larger machine, or from nowhere; results do not depend on the number.
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let kept = defaults.map(|origin| origin.threads.clamp(1, available));
    if let Some(threads) = args.threads.map(usize::from).or(kept) {
        backend = backend.with_threads(threads)?;
    }
    reporter.say(&format!("loading {}", folder.path().display()));
    let model = StableDiffusion::load(&backend, folder)?;
    let origin = Origin {
        model: folder.fingerprint()?,
        backend: BackendName::Candle.name().to_owned(),
        device: device.to_string(),
        dtype: dtype.name().to_owned(),
        threads: backend.threads(),
    };
    check_interrupt()?;
    Ok(Session { model, origin, reporter, calls: AtomicUsize::new(0) })
}

/// The device an inversion was made on is not to be had here.
fn elsewhere(origin: &Origin, error: &dyn std::error::Error) -> Failure {
    let Origin { device, .. } = origin;
    Failure::running(format!(
        "the inversion was made on {device:?}; name a device by --device: {}",
        chain(error)
    ))
}

fn parse_dtype(name: &str) -> Result<DType, Failure> {
    let all = [DType::F16, DType::BF16, DType::F32, DType::F64];
    all.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| {
        Failure::running(format!("the inversion was made in {name:?}, which this version does not know"))
    })
}

impl<B: Backend> Session<'_, B> {
    /// Encodes a prompt, and says so when a part of it had to be cut off.
    pub(crate) fn encode_prompt(&self, prompt: &str) -> Result<PromptEmbedding, Failure> {
        let embedding = self.model.encode_prompt(prompt)?;
        if let Some(cut) = embedding.truncated() {
            self.reporter
                .warn(format!("the prompt is too long for this model; cut off and not used: {cut:?}"));
        }
        Ok(embedding)
    }

    /// Encodes the two prompts of a guided prediction.
    pub(crate) fn encode_prompts(
        &self,
        positive: &str,
        negative: &str,
    ) -> Result<Guidance<PromptEmbedding>, Failure> {
        Ok(Guidance { positive: self.encode_prompt(positive)?, negative: self.encode_prompt(negative)? })
    }

    /// Encodes a picture to scaled latents.
    pub(crate) fn encode_image(&self, image: &Array4<f64>, args: &ImageArgs) -> Result<Latents, Failure> {
        let posterior = self.model.encode_images(image.view().into_dyn())?;
        if !args.sample_posterior {
            return Ok(posterior.mode());
        }
        let noise = seeded_noise(posterior.mean().shape(), args.seed.unwrap_or(0));
        posterior
            .sample(noise.view())
            .ok_or_else(|| Failure::running("the posterior's noise has another shape"))
    }

    /// Returns the model as a guided predictor that counts its calls; `schedule` is the model's, or that of an inversion.
    pub(crate) fn predictor(
        &self,
        guidance: GuidanceSettings,
        schedule: &NoiseSchedule,
    ) -> Result<Guided<Counted<'_, UNetPredictor<'_, B>>>, Failure> {
        let counted = Counted { predictor: self.model.predictor_with(schedule.clone()), calls: &self.calls };
        Ok(Guided::new(counted, guidance.scale()?))
    }

    /// Returns the number of network calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Settings of the model and run, as every report has them.
    pub(crate) fn settings(&self, model: &Path, run: &RunSettings, p: f64) -> Map<String, Value> {
        let Origin { backend, device, dtype, threads, .. } = &self.origin;
        let settings = json!({
            "model": model.to_string_lossy(), "backend": backend, "device": device, "dtype": dtype, "threads": threads,
            "vae_dtype": self.model.vae().dtype().name(), "sampler": "edict", "steps": run.steps,
            "strength": run.strength, "mixing_weight": p, "leapfrog": run.order == UpdateOrder::Leapfrog,
        });
        match settings {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Writes the first picture of a decoded batch.
pub(crate) fn write_picture(pictures: &ArrayD<f64>, path: &Path) -> Result<(), Failure> {
    check_interrupt()?;
    let picture = pictures.index_axis(Axis(0), 0).into_dimensionality::<Ix3>()?;
    let _writing = writing();
    Ok(write_png(path, picture)?)
}

/// Adds what was read to a report's settings.
pub(crate) fn insert_image(settings: &mut Map<String, Value>, args: &ImageArgs, image: &Array4<f64>) {
    let (_, _, height, width) = image.dim();
    settings.insert("image".to_owned(), args.image.to_string_lossy().into());
    settings.insert("size".to_owned(), vec![width, height].into());
    if args.sample_posterior {
        settings.insert("seed".to_owned(), args.seed.unwrap_or(0).into());
    }
}

/// Adds guidance to a report's settings.
pub(crate) fn insert_guidance(
    settings: &mut Map<String, Value>,
    prefix: &str,
    guidance: GuidanceSettings,
    negative: &str,
) {
    settings.insert(format!("{prefix}guidance"), guidance.scale.into());
    settings.insert(format!("{prefix}guidance_interval"), json!(guidance.interval));
    settings.insert(format!("{prefix}negative"), negative.into());
}

/// Writes bytes under a temporary name, then renames the file.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    check_interrupt()?;
    let _writing = writing();
    Ok(write_atomically(path, |writer| writer.write_all(bytes))?)
}

/// Turns a failed run into a message; a run that was stopped was stopped by the user.
pub(crate) fn run_failure<E: std::error::Error + 'static, S: std::fmt::Debug>(
    error: SampleError<E, S>,
) -> Failure {
    match error {
        SampleError::Stopped { .. } => interrupted(),
        other => Failure::running(chain(&other)),
    }
}

/// `OUT.png` for a single picture, `OUT-1.png`, `OUT-2.png`, ... for several.
pub(crate) fn numbered(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = |i: usize| match path.extension() {
        Some(extension) => format!("{stem}-{i}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{i}"),
    };
    (1..=count).map(|i| path.with_file_name(name(i))).collect()
}

/// Counts network calls: one for each forward pass, whatever its batch.
pub(crate) struct Counted<'a, P> {
    predictor: P,
    calls: &'a AtomicUsize,
}

impl<P: NoisePredictor> NoisePredictor for Counted<'_, P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.predictor.predict(latents, t, condition)
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.predictor.predict_pair(latents, t, conditions)
    }
}
