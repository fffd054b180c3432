//! The picture to work on, and what it shows.

use std::path::Path;

use edict_demo_model::{SAMPLES, Sample};
use edict_stable_diffusion::{ImageError, ImageSize, ModelFolder, Picture};
use ndarray::Array4;
use serde_json::{Map, Value};

use crate::args::{ImageArgs, ModelArgs, SamplerName};
use crate::failure::Failure;
use crate::progress::Reporter;

/// A picture that is named, and the prompt that describes it.
pub(crate) struct Input<'a> {
    args: &'a ImageArgs,
    origin: Origin<'a>,
    demo: bool,
    pub(crate) prompt: &'a str,
}

#[derive(Clone, Copy)]
enum Origin<'a> {
    File(&'a Path),
    Sample(&'static Sample),
}

impl<'a> Input<'a> {
    /// Finds out which picture is meant; `flag` is the prompt's.
    ///
    /// The demo model comes with samples, and with what they show. Of any other picture only the user knows.
    pub(crate) fn choose(
        args: &'a ImageArgs,
        model: &ModelArgs,
        prompt: Option<&'a str>,
        flag: &str,
    ) -> Result<Self, Failure> {
        let demo = model.model.is_none();
        let (origin, prompt) = match &args.image {
            None if demo => {
                let sample = args.sample.as_deref().map_or(Some(&SAMPLES[0]), edict_demo_model::sample);
                let sample = sample.ok_or_else(|| Failure::usage("--sample names none of the samples"))?;
                (Origin::Sample(sample), prompt.unwrap_or(sample.caption))
            }
            None => {
                return Err(Failure::usage(
                    "--image is missing: name the picture to read; only the demo model has samples (see --help)",
                ));
            }
            Some(path) => {
                let prompt = prompt.ok_or_else(|| {
                    Failure::usage(format!("{flag} is missing: say what the picture shows (see --help)"))
                })?;
                (Origin::File(path), prompt)
            }
        };
        Ok(Self { args, origin, demo, prompt })
    }

    /// Reads the picture, `[1, 3, height, width]` in [-1, 1], cut to what the autoencoder takes.
    pub(crate) fn read(
        &self,
        folder: &ModelFolder,
        sampler: SamplerName,
        reporter: &Reporter,
    ) -> Result<Array4<f64>, Failure> {
        let args = self.args;
        if args.seed.is_some() && !args.sample_posterior && sampler != SamplerName::Sdedit {
            reporter.warn("--seed has no effect without --sample-posterior".to_owned());
        }
        let (picture, name) = match self.origin {
            Origin::File(path) => (Picture::open(path)?, path.to_string_lossy()),
            Origin::Sample(Sample { name, caption, png }) => {
                let unasked = if args.sample.is_none() { "no --image: " } else { "" };
                reporter.say(&format!("{unasked}taking the sample scene {name:?}, {caption:?}"));
                (Picture::decode(png, name)?, (*name).into())
            }
        };
        let size = args.size.or_else(|| self.size_of_the_demo(folder, picture.size(), &name, reporter));
        let (found, trained) = (picture.size(), folder.image_size());
        if size.is_none() && (found.width > 2 * trained.width || found.height > 2 * trained.height) {
            reporter.warn(format!(
                "{name}: {found} is much larger than the {trained} that the model was trained at, and takes as much longer: \
                 --size {trained} makes it that"
            ));
        }
        picture.prepare(size, folder.vae_config().factor()).map_err(|error| match error {
            ImageError::Size { .. } => Failure::usage(format!("--size: {error}")),
            other => other.into(),
        })
    }

    /// The demo model knows pictures of one size only; of a larger one it would make many small scenes.
    fn size_of_the_demo(
        &self,
        folder: &ModelFolder,
        found: ImageSize,
        name: &str,
        reporter: &Reporter,
    ) -> Option<ImageSize> {
        let size = folder.image_size();
        if !self.demo || found == size {
            return None;
        }
        reporter.say(&format!(
            "{name}: cropped and resized from {found} to {size}, for which the demo model is made (--size WxH: another)"
        ));
        Some(size)
    }

    /// Adds to a report's settings where the picture comes from.
    pub(crate) fn insert(&self, settings: &mut Map<String, Value>) {
        match self.origin {
            Origin::File(path) => settings.insert("image".to_owned(), path.to_string_lossy().into()),
            Origin::Sample(sample) => settings.insert("sample".to_owned(), sample.name.into()),
        };
        if self.args.sample_posterior {
            settings.insert("seed".to_owned(), self.args.seed.unwrap_or(0).into());
        }
    }
}
