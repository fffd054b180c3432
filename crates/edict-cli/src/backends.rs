//! The tensor libraries that commands can compute with.

use std::path::Path;

use edict_candle::{CandleBackend, CandleError, DeviceSpec};
use edict_stable_diffusion::{Backend, Checkpoint, DType, Inversion, Origin};

use crate::args::{BackendName, Command};
use crate::failure::Failure;

/// What a back end is opened with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) device: DeviceSpec,
    pub(crate) dtype: DType,
    /// Format that weights are kept in, where it is not that of the networks.
    pub(crate) weights: Option<DType>,
    /// None where the back end is to choose.
    pub(crate) threads: Option<usize>,
    /// Gives exactness up for speed.
    pub(crate) fast: bool,
}

/// A back end, as the command line opens it.
pub(crate) trait Offered: Backend {
    const NAME: BackendName;

    /// Whether results are the same whatever the number of threads.
    const ANY_THREADS: bool;

    /// Opens a device.
    fn open(setup: Setup) -> Result<Self, Failure>;

    /// Returns the number of threads that operations on the processor use.
    fn threads(&self) -> usize;
}

impl Offered for CandleBackend {
    const NAME: BackendName = BackendName::Candle;
    const ANY_THREADS: bool = true;

    fn open(setup: Setup) -> Result<Self, Failure> {
        let Setup { device, dtype, weights, threads, fast } = setup;
        if fast {
            return Err(Failure::usage(
                "--fast-kernels is for `--backend tch`: candle has one kind, which is exact",
            ));
        }
        let mut backend = Self::new(device, dtype).map_err(|error| match error {
            CandleError::DeviceNotBuilt { name, feature } => Failure::running(format!(
                "this build has no {name} support: `cargo build --release -p edict-cli --features {feature}` makes one that has; or \
                 give --device cpu"
            )),
            error => error.into(),
        })?;
        if let Some(threads) = threads {
            backend = backend.with_threads(threads)?;
        }
        if let Some(weights) = weights {
            backend = backend.with_weights(weights)?;
        }
        Ok(backend)
    }

    fn threads(&self) -> usize {
        self.threads()
    }
}

#[cfg(feature = "tch")]
impl Offered for edict_tch::TchBackend {
    const NAME: BackendName = BackendName::Tch;
    const ANY_THREADS: bool = false;

    fn open(setup: Setup) -> Result<Self, Failure> {
        let Setup { device, dtype, weights, threads, fast } = setup;
        if let Some(weights) = weights {
            return Err(Failure::usage(format!(
                "`--weights {weights}` is for `--backend candle`: PyTorch multiplies in the precision that weights are kept in"
            )));
        }
        let backend = Self::new(device.to_string().parse()?, dtype)?.with_fast_kernels(fast);
        Ok(match threads {
            Some(threads) => backend.with_threads(threads)?,
            None => backend,
        })
    }

    fn threads(&self) -> usize {
        self.threads()
    }
}

/// A file that a command goes on from.
enum Kept<'a> {
    Checkpoint(&'a Path),
    Inversion(&'a Path),
}

/// Finds the back end of a command: the one named, that of the file it goes on from, or candle.
pub(crate) fn chosen(command: &Command) -> BackendName {
    let origin = || -> Option<Origin> {
        // A file that cannot be read is told by the command, which reads it again.
        match kept(command)? {
            Kept::Checkpoint(path) => Checkpoint::read(path).ok().map(|job| begun(&job).clone()),
            Kept::Inversion(path) => Inversion::read(path).ok().map(|inversion| inversion.origin),
        }
    };
    named(command).unwrap_or_else(|| match origin() {
        Some(origin) if origin.backend == BackendName::Tch.name() => BackendName::Tch,
        _ => BackendName::Candle,
    })
}

fn named(command: &Command) -> Option<BackendName> {
    match command {
        Command::Invert(args) => args.model.backend,
        Command::Generate(args) => args.model.backend,
        Command::Edit(args) => args.model.backend,
        Command::Reconstruct(args) => args.model.backend,
        Command::Compare(args) => args.model.backend,
        Command::Sweep(args) => args.model.backend,
        Command::Info(_) => None,
    }
}

fn kept(command: &Command) -> Option<Kept<'_>> {
    match command {
        Command::Invert(args) => args.resume.as_deref().map(Kept::Checkpoint),
        Command::Edit(args) => args.resume.as_deref().map(Kept::Checkpoint),
        Command::Generate(args) => {
            args.resume.as_deref().map(Kept::Checkpoint).or(args.inversion.as_deref().map(Kept::Inversion))
        }
        _ => None,
    }
}

/// What the part of a job that is under way was begun with.
pub(crate) fn begun(job: &Checkpoint) -> &Origin {
    match &job.generation {
        Some(generation) if job.level == 0 => &generation.origin,
        _ => &job.inversion.origin,
    }
}

/// What there is to say where the tch back end is wanted and not built in.
#[cfg(not(feature = "tch"))]
pub(crate) fn not_built(command: &Command) -> Failure {
    const REMEDY: &str = "`cargo xtask libtorch`, then `cargo build --release -p edict-cli --features tch`, makes one that has";
    Failure::running(match named(command) {
        Some(_) => {
            format!("this build has no tch back end: {REMEDY}; or leave out `--backend tch` to use candle")
        }
        None => format!(
            "the file was made with the back end \"tch\", which this build does not have: {REMEDY}; or give \
             `--backend candle` to use that one"
        ),
    })
}
