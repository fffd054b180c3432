//! `edict reconstruct` and `edict compare`: what a picture loses on its way to noise and back.

use std::path::Path;

use edict_stable_diffusion::{pixel_mse, psnr};
use serde_json::{Map, json};

use crate::args::{CompareArgs, GuidanceArgs, ImageArgs, ModelArgs, ReconstructArgs, RunArgs};
use crate::backends::Offered;
use crate::defaults::Defaults;
use crate::failure::Failure;
use crate::files::{self, Format};
use crate::input::Input;
use crate::measure::{Row, Subject, candidates, row_json, table};
use crate::plot;
use crate::progress::{Reporter, check_interrupt};
use crate::report::{Report, finite, insert_guidance, insert_image};
use crate::session;
use crate::settings::{self, RunSettings, insert_run, report_stability, stability_json};

pub(crate) fn run<B: Offered>(args: &ReconstructArgs, reporter: &Reporter) -> Result<Report, Failure> {
    if let Some(path) = &args.output {
        files::check([("--image", args.image.image.as_deref())], &[("--output", path)])?;
        files::check_name(path, Format::Picture, reporter);
    }
    let ReconstructArgs { image, prompt, model, run, guidance, output, .. } = args;
    let job = Job { command: "reconstruct", image, prompt: prompt.as_deref(), model, run, guidance };
    // Latents in f32 are nobody's choice: they stand in the comparison alone.
    job.run::<B>(
        reporter,
        |name| name != "edict_f32",
        |rows, _| match (output, &rows[0].1) {
            (Some(path), Ok(edict)) => {
                session::write_picture(&edict.picture, path).map(|()| vec![path.as_path()])
            }
            _ => Ok(Vec::new()),
        },
    )
}

pub(crate) fn compare<B: Offered>(args: &CompareArgs, reporter: &Reporter) -> Result<Report, Failure> {
    if let Some(path) = &args.plot {
        files::check([("--image", args.image.image.as_deref())], &[("--plot", path)])?;
        files::check_name(path, Format::Plot, reporter);
    }
    let CompareArgs { image, prompt, model, run, guidance, plot, .. } = args;
    let job = Job { command: "compare", image, prompt: prompt.as_deref(), model, run, guidance };
    job.run::<B>(
        reporter,
        |_| true,
        |rows, vae_mse| match plot {
            Some(path) => session::write_bytes(path, plot::svg(rows, vae_mse)?.as_bytes())
                .map(|()| vec![path.as_path()]),
            None => Ok(Vec::new()),
        },
    )
}

struct Job<'a> {
    command: &'static str,
    image: &'a ImageArgs,
    prompt: Option<&'a str>,
    model: &'a ModelArgs,
    run: &'a RunArgs,
    guidance: &'a GuidanceArgs,
}

impl Job<'_> {
    /// Measures the samplers chosen, lets `write` write what is made of that, and reports.
    fn run<'p, B: Offered>(
        &self,
        reporter: &Reporter,
        chosen: impl Fn(&str) -> bool,
        write: impl FnOnce(&[Row], f64) -> Result<Vec<&'p Path>, Failure>,
    ) -> Result<Report, Failure> {
        let input = Input::choose(self.image, self.model, self.prompt, "--prompt")?;
        let settings = self.settings(reporter);
        let guidance = settings::guidance(self.guidance, Defaults::of(self.model).guidance);
        let negative = self.guidance.negative.clone().unwrap_or_default();
        let folder = session::open_folder(self.model.model.as_deref(), reporter)?;
        let trajectory = settings.trajectory(&folder)?;
        let edict = settings.sampler(&trajectory)?;
        report_stability(&edict, &trajectory, reporter);
        let image = input.read(&folder, settings.sampler, reporter)?;
        let session = session::load::<B>(self.model, &folder, None, reporter)?;
        let latent = session.encode_image(&image, self.image)?;
        let floor = session.model.decode(&latent)?;
        let subject = Subject {
            condition: session.encode_prompts(input.prompt, &negative)?,
            session: &session,
            image: &image,
            latent,
            trajectory,
            guidance,
        };
        let mut rows: Vec<Row> = Vec::new();
        for (name, candidate) in candidates(settings.mixing_weight, settings.order, settings.gamma)? {
            if chosen(name) {
                rows.push((name, subject.measure(name, candidate)));
                check_interrupt()?;
                // The others may fail and the table still says something; without EDICT, the first, it does not.
                if let Err(failure) = &rows[0].1 {
                    return Err(Failure { status: failure.status, message: failure.message.clone() });
                }
            }
        }
        let vae_mse = pixel_mse(floor.view(), image.view().into_dyn())?;
        let outputs = write(&rows, vae_mse)?;

        let mut json = session.settings(&folder);
        insert_run(&mut json, &edict, &subject.trajectory, settings.strength);
        json.insert("gamma".to_owned(), settings.gamma.into());
        insert_guidance(&mut json, "", guidance, &negative);
        json.insert("prompt".to_owned(), input.prompt.into());
        insert_image(&mut json, &input, &image);
        let mut report = Report::new(self.command, json, &outputs, &session);
        table(&mut report.text, &rows, vae_mse);
        let samplers: Map<_, _> =
            rows.iter().map(|(name, row)| ((*name).to_owned(), row_json(row))).collect();
        report.json.insert("samplers".to_owned(), samplers.into());
        report.json.insert("vae".to_owned(), json!({"pixel_mse": vae_mse, "psnr": finite(psnr(vae_mse))}));
        report.json.insert("stability".to_owned(), stability_json(&edict, &subject.trajectory));
        report.answers = true;
        Ok(report)
    }

    /// Every sampler is measured: what chooses one has no effect, and what belongs to one is used for it.
    fn settings(&self, reporter: &Reporter) -> RunSettings {
        if self.run.sampler.is_some() || self.run.float {
            let flag = if self.run.float { "--float" } else { "--sampler" };
            reporter.warn(format!("{flag} has no effect: every sampler is measured"));
        }
        let plain = RunArgs { sampler: None, float: false, gamma: None, ..self.run.clone() };
        let settings = RunSettings::new(&plain, Defaults::of(self.model), reporter);
        RunSettings { gamma: self.run.gamma.unwrap_or(settings.gamma), ..settings }
    }
}
