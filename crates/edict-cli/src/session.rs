//! What commands share: the model at work, its prompts, and its outputs.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use edict_candle::DeviceSpec;
use edict_core::{Guidance, Guided, Latents, NoiseSchedule};
use edict_stable_diffusion::{
    Backend, Checkpoint, DType, GuidanceSettings, ImageSize, Inversion, ModelFolder, Origin, PromptEmbedding,
    StableDiffusion, UNetPredictor, instruction_set, seeded_noise, write_atomically, write_png,
};
use ndarray::{Array3, Array4, ArrayD, Axis, Ix3};
use serde_json::{Map, Value, json};

use crate::args::{BackendName, GuidanceArgs, ImageArgs, ModelArgs};
use crate::backends::{Offered, Setup, begun};
use crate::failure::{Failure, chain};
use crate::progress::{Reporter, check_interrupt, writing};
use crate::witness::Counted;

/// As many threads as `--threads` takes.
const MOST_THREADS: usize = 1024;

/// A model at work.
pub(crate) struct Session<'a, B: Backend> {
    pub(crate) model: StableDiffusion<B>,
    pub(crate) origin: Origin,
    pub(crate) reporter: &'a Reporter,
    calls: AtomicUsize,
    probe_calls: Cell<usize>,
    /// Whether the network was probed with one and with two conditions.
    probed: [Cell<bool>; 2],
}

/// Opens a model folder, or the demo model, and says so: configs are read, weights not yet.
pub(crate) fn open_folder(model: Option<&Path>, reporter: &Reporter) -> Result<ModelFolder, Failure> {
    if let Some(path) = model {
        return Ok(ModelFolder::open(path)?);
    }
    reporter.say("no --model: taking the demo model in this program, small and made for drawn scenes");
    Ok(edict_demo_model::folder()?)
}

/// Loads a model; `defaults` are those of an inversion file.
pub(crate) fn load<'a, B: Offered>(
    args: &ModelArgs,
    folder: &ModelFolder,
    defaults: Option<&Origin>,
    reporter: &'a Reporter,
) -> Result<Session<'a, B>, Failure> {
    // Without `--backend` a file's is taken where there is one.
    match (args.backend, defaults) {
        (None, Some(Origin { backend, .. })) if backend != B::NAME.name() => {
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
            origin.device.parse::<DeviceSpec>().map_err(|error| elsewhere(origin, &chain(&error)))?
        }
        (None, None) => DeviceSpec::Cpu,
    };
    let dtype = match (args.dtype, defaults) {
        (Some(dtype), _) => dtype.into(),
        (None, Some(origin)) => parse_dtype(&origin.dtype)?,
        (None, None) => DType::F32,
    };
    // A file may come from a larger machine, or from nowhere; where its number decides about bits it is taken all the same.
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let most = if B::ANY_THREADS { available } else { MOST_THREADS };
    let kept = defaults.map(|origin| origin.threads.clamp(1, most));
    let threads = args.threads.map(usize::from).or(kept);
    let may_be_narrower = dtype == DType::F32 && device == DeviceSpec::Cpu;
    let weights = match (args.weights, defaults) {
        (Some(weights), _) if !may_be_narrower => {
            return Err(Failure::usage(format!(
                "`--weights {}` is for networks in f32 on the cpu, these are in {dtype} on {device}: leave one of the two out",
                weights.dtype()
            )));
        }
        (Some(weights), _) => Some(weights.dtype()).filter(|weights| *weights != dtype),
        // Another precision, device or back end that is asked for has weights of its own.
        (None, Some(origin)) if may_be_narrower && origin.backend == B::NAME.name() => {
            origin.weights.as_deref().map(parse_dtype).transpose()?
        }
        (None, _) => None,
    };
    let setup = Setup { device, dtype, weights, threads, fast: args.fast_kernels };
    let backend = B::open(setup).map_err(|error| match defaults {
        Some(origin) if args.device.is_none() && device != DeviceSpec::Cpu => {
            elsewhere(origin, &error.message)
        }
        _ => error,
    })?;
    if args.fast_kernels {
        reporter.warn(
            "with --fast-kernels PyTorch may answer one question in two ways: exactness is not promised"
                .to_owned(),
        );
    }
    if args.model.is_some() {
        reporter.say(&format!("loading {}", folder.path().display()));
    }
    let model = StableDiffusion::load(&backend, folder)?;
    let origin = Origin {
        model: folder.fingerprint()?,
        backend: B::NAME.name().to_owned(),
        device: device.to_string(),
        dtype: dtype.name().to_owned(),
        weights: weights.map(|weights| weights.name().to_owned()),
        threads: backend.threads(),
        instruction_set: instruction_set().to_owned(),
    };
    check_interrupt()?;
    Ok(Session {
        model,
        origin,
        reporter,
        calls: AtomicUsize::new(0),
        probe_calls: Cell::new(0),
        probed: Default::default(),
    })
}

/// The device an inversion was made on is not to be had here.
fn elsewhere(origin: &Origin, reason: &str) -> Failure {
    let Origin { device, .. } = origin;
    Failure::running(format!("the inversion was made on {device:?}; name a device by --device: {reason}"))
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

    /// Returns the number of network calls so far, those that only probe left out.
    pub(crate) fn calls(&self) -> usize {
        self.all_calls() - self.probe_calls()
    }

    pub(crate) fn all_calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the number of network calls that were made to find out whether the network is deterministic.
    pub(crate) fn probe_calls(&self) -> usize {
        self.probe_calls.get()
    }

    pub(crate) fn count_probe(&self, calls: usize) {
        self.probe_calls.set(self.probe_calls() + calls);
    }

    /// Returns whether the network was probed before with this batch, and takes it as probed from now on.
    pub(crate) fn was_probed(&self, guided: bool) -> bool {
        self.probed[usize::from(guided)].replace(true)
    }

    /// Settings of the model, as every report has them.
    pub(crate) fn settings(&self, folder: &ModelFolder) -> Map<String, Value> {
        let Origin { backend, device, dtype, weights, threads, .. } = &self.origin;
        let settings = json!({
            "model": folder.path().to_string_lossy(), "backend": backend, "device": device, "dtype": dtype, "threads": threads,
            "weights": weights.as_ref().unwrap_or(dtype),
            "vae_dtype": self.model.vae().dtype().name(),
        });
        match settings {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Returns the first picture of a decoded batch, `[3, height, width]`.
pub(crate) fn first(pictures: &ArrayD<f64>) -> Result<Array3<f64>, Failure> {
    Ok(pictures.index_axis(Axis(0), 0).to_owned().into_dimensionality::<Ix3>()?)
}

/// Writes the first picture of a decoded batch, even when interrupted: the work is done.
pub(crate) fn write_picture(pictures: &ArrayD<f64>, path: &Path) -> Result<(), Failure> {
    let picture = pictures.index_axis(Axis(0), 0).into_dimensionality::<Ix3>()?;
    let _writing = writing();
    Ok(write_png(path, picture)?)
}

/// Writes bytes under a temporary name, then renames the file; even when interrupted: the work is done.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let _writing = writing();
    Ok(write_atomically(path, |writer| writer.write_all(bytes))?)
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

/// Reads the checkpoint of an interrupted command.
pub(crate) fn read_checkpoint(path: &Path, command: &str) -> Result<Checkpoint, Failure> {
    let job = Checkpoint::read(path)?;
    if job.command == "generate" && job.level > 0 {
        let name = path.display();
        return Err(Failure::running(format!(
            "{name}: what is generated from should be noise, found level {}",
            job.level
        )));
    }
    if job.command == command {
        return Ok(job);
    }
    Err(Failure::usage(format!(
        "{} was left by `edict {}`: go on with that command",
        path.display(),
        job.command
    )))
}

/// Checks that a job was begun with this model, `model` by its name, and that its latents are of the model's kind.
pub(crate) fn check_model(
    job: &Checkpoint,
    folder: &ModelFolder,
    model: Option<&Path>,
    path: Option<&Path>,
) -> Result<(), Failure> {
    let named = |text: String| match path {
        Some(path) => Failure::running(format!("{}: {text}", path.display())),
        None => Failure::running(text),
    };
    let untold = match model {
        Some(_) => "",
        None => "; no --model was given, so the demo model was taken: name the model's folder by --model",
    };
    job.inversion
        .check_model(&folder.fingerprint()?)
        .map_err(|error| named(format!("{}{untold}", chain(&error))))?;
    let channels = folder.vae_config().latent_channels;
    match *job.inversion.image_latent.shape() {
        // Of a batch only one picture could be written.
        [1, found, height, width] if found == channels && height > 0 && width > 0 => Ok(()),
        ref found => Err(named(format!(
            "the latents should have shape [1, {channels}, height, width], found {found:?}"
        ))),
    }
}

/// Refuses a text that is given again and differs from the one kept.
pub(crate) fn check_same(flag: &str, given: Option<&str>, kept: &str) -> Result<(), Failure> {
    match given {
        Some(given) if given != kept => Err(Failure::usage(format!(
            "{flag} {given:?} does not fit the checkpoint, which was begun with {kept:?}: leave {flag} out, or begin anew"
        ))),
        _ => Ok(()),
    }
}

/// Refuses another precision, device or back end than those kept: half of a run each in two of them is neither.
pub(crate) fn check_same_machine(args: &ModelArgs, kept: &Origin) -> Result<(), Failure> {
    check_same("--dtype", args.dtype.map(|dtype| DType::from(dtype).name()), &kept.dtype)?;
    if let Some(weights) = args.weights {
        let kept = kept.weights.as_ref().unwrap_or(&kept.dtype);
        check_same("--weights", Some(weights.dtype().name()), kept)?;
    }
    check_same("--device", args.device.map(|device| device.to_string()).as_deref(), &kept.device)?;
    check_same("--backend", args.backend.map(BackendName::name), &kept.backend)
}

/// Refuses another size of the picture than that of the latents kept.
pub(crate) fn check_same_size(args: &ImageArgs, kept: &Inversion, factor: usize) -> Result<(), Failure> {
    let shape = kept.image_latent.shape();
    let kept = ImageSize { width: shape[3] * factor, height: shape[2] * factor };
    check_same("--size", args.size.map(|size| size.to_string()).as_deref(), &kept.to_string())
}

/// Loads a model to go on with a checkpoint, as it was then.
pub(crate) fn resume<'a, B: Offered>(
    args: &ModelArgs,
    folder: &ModelFolder,
    job: &Checkpoint,
    reporter: &'a Reporter,
) -> Result<Session<'a, B>, Failure> {
    let begun = begun(job);
    let session = load(args, folder, Some(begun), reporter)?;
    let now = &session.origin.instruction_set;
    if begun.instruction_set != *now {
        reporter.warn(format!(
            "the checkpoint was left on a processor with {}, this one has {now}: the result may differ in its last bits",
            begun.instruction_set
        ));
    }
    Ok(session)
}

/// Refuses guidance that is given again and differs from the one kept.
pub(crate) fn check_same_guidance(args: &GuidanceArgs, kept: GuidanceSettings) -> Result<(), Failure> {
    let text = |interval: [usize; 2]| format!("{}:{}", interval[0], interval[1]);
    check_same("--guidance", args.guidance.map(|g| g.to_string()).as_deref(), &kept.scale.to_string())?;
    let interval = kept.interval.map_or("none".to_owned(), text);
    check_same("--guidance-interval", args.guidance_interval.map(text).as_deref(), &interval)
}
