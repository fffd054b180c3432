//! The measuring: every case edited by every method at every setting, on threads side by side.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use edict_candle::CandleBackend;
use edict_core::Latents;
use edict_scenes::Attribute;
use edict_stable_diffusion::{AnyState, DType, ModelFolder, StableDiffusion, pixel_mse, write_png};
use ndarray::Axis;

use crate::Fault;
use crate::case::{Case, side};
use crate::method::{Method, Plan, Setting};
use crate::pick::Picks;
use crate::results::{Reconstruction, Results, ceiling_key, key};
use crate::score::Score;

/// What is measured, and with what.
pub(crate) struct Bench<'a> {
    pub(crate) folder: &'a ModelFolder,
    pub(crate) methods: &'a [Method],
    pub(crate) plans: &'a [Plan],
    /// What is worth measuring, where not everything is.
    pub(crate) picks: Option<&'a Picks>,
    /// The step count at which, at strength 1, pictures are also reconstructed: the paper's Table 1 on this data.
    pub(crate) reconstruct: usize,
    /// Where pictures are written.
    pub(crate) pictures: Option<&'a Path>,
}

impl Bench<'_> {
    /// Runs what is not among the results yet. Cases come first in the order, so that a run that is cut has measured every
    /// setting on the same ones.
    pub(crate) fn measure(
        &self,
        cases: &[(Attribute, u64)],
        workers: usize,
        results: &Results,
    ) -> Result<(), Fault> {
        let (next, begun) = (AtomicUsize::new(0), Instant::now());
        let work = || -> Result<(), Fault> {
            // One that fails leaves the others nothing to do.
            let _end = TakesTheRest { next: &next, cases: cases.len() };
            let backend = CandleBackend::cpu(DType::F32).with_threads(1)?;
            // From within the thread that computes, operations are not handed over one by one.
            backend.install(|| {
                let model = StableDiffusion::load(&backend, self.folder)?;
                while let Some(&(attribute, number)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.measure_case(&model, attribute, number, results)?;
                    eprintln!("{} {number}: {:.0} s", attribute.word(), begun.elapsed().as_secs_f64());
                }
                Ok(())
            })
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err("a worker has panicked".into()),
            })
        })
    }

    /// Edits one scene by every method at every setting.
    fn measure_case(
        &self,
        model: &StableDiffusion<CandleBackend>,
        attribute: Attribute,
        number: u64,
        results: &Results,
    ) -> Result<(), Fault> {
        let mut jobs = Vec::new();
        for method in self.methods {
            let picked = |plan: &&Plan| {
                let have = |picks: &Picks| picks.have(method.name(), plan.setting, attribute);
                method.takes(plan.setting) && self.picks.is_none_or(have)
            };
            jobs.extend(self.plans.iter().filter(picked).map(|plan| {
                let key = key(method.name(), plan.setting, attribute, number);
                (method, plan, key)
            }));
        }
        jobs.retain(|(.., key)| !results.has(key));
        let ceiling_key = ceiling_key(attribute, number);
        if jobs.is_empty() && results.has(&ceiling_key) {
            return Ok(());
        }
        let case = Case::draw(attribute, number, side(self.folder)?)?;
        let latent = model.encode_images(case.source.view())?.mode();
        let floor = model.decode(&latent)?;
        let floor_mse = pixel_mse(floor.view(), case.source.view())?;
        if !results.has(&ceiling_key) {
            let ideal = model.decode(&model.encode_images(case.target.view())?.mode())?;
            results.add(&ceiling_key, Ok((Score::of(&case, &ideal, &floor), None)))?;
        }
        let save = |name: &str, picture: &Latents| self.save(attribute, number, name, picture);
        save("source", &case.source)?;
        save("ideal", &case.target)?;
        save("autoencoder", &floor)?;
        for jobs in jobs.chunk_by(|a, b| a.0 == b.0 && a.1.inverts_as(b.1)) {
            let [(method, plan, _), ..] = jobs else { continue };
            let noise = method.noise(model, &case, &latent, plan);
            for (method, plan, key) in jobs {
                let latents = match &noise {
                    Ok(noise) => self.latents(model, &case, noise, method, plan),
                    Err(error) => Err(error.to_string().into()),
                };
                let outcome = match latents {
                    Ok((edit, back)) => {
                        let edit = model.decode(&edit)?;
                        // What is no picture can be neither scored nor written, and need not end the others.
                        if !edit.iter().all(|value| value.is_finite()) {
                            results.add(key, Err("the edit is not finite".to_owned()))?;
                            continue;
                        }
                        save(&format!("{} {}", method.name(), plan.setting), &edit)?;
                        let score = Score::of(&case, &edit, &floor);
                        let mse = |back| -> Result<f64, Fault> {
                            Ok(pixel_mse(model.decode(&back)?.view(), case.source.view())?)
                        };
                        let back = back.map(mse).transpose()?;
                        Ok((score, back.map(|mse| Reconstruction { mse, floor: floor_mse })))
                    }
                    Err(error) => Err(error.to_string()),
                };
                results.add(key, outcome)?;
            }
        }
        Ok(())
    }

    /// Writes a picture of a case, `[1, 3, height, width]`, where they are wanted.
    fn save(&self, attribute: Attribute, number: u64, name: &str, picture: &Latents) -> Result<(), Fault> {
        let Some(folder) = self.pictures else { return Ok(()) };
        let folder = folder.join(format!("{} {number}", attribute.word()));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let picture = picture.index_axis(Axis(0), 0).into_dimensionality()?;
        Ok(write_png(folder.join(format!("{name}.png")), picture)?)
    }

    /// Makes the edit of noise, and what comes back where that is to be measured.
    fn latents(
        &self,
        model: &StableDiffusion<CandleBackend>,
        case: &Case,
        noise: &AnyState,
        method: &Method,
        plan: &Plan,
    ) -> Result<(Latents, Option<Latents>), Fault> {
        let Setting { steps, strength, guidance, source_guidance } = plan.setting;
        let reconstruct = steps == self.reconstruct && strength == 1.0 && guidance == source_guidance;
        let edit = method.edit(model, case, noise, plan)?;
        Ok((edit, if reconstruct { method.back(model, case, noise, plan)? } else { None }))
    }
}

/// Takes all cases that are left when a worker ends, be it by an error or a panic.
struct TakesTheRest<'a> {
    next: &'a AtomicUsize,
    cases: usize,
}

impl Drop for TakesTheRest<'_> {
    fn drop(&mut self) {
        self.next.store(self.cases, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::method::NAMES;
    use crate::runs::{self, Run};
    use crate::score::Criterion;

    #[test]
    fn edict_comes_back_to_the_autoencoders_own_picture_and_a_second_run_measures_nothing() {
        let (desk, folder) = (tempfile::tempdir().unwrap(), edict_demo_model::folder().unwrap());
        let path = desk.path().join("results");
        let methods = Method::all(0.98).unwrap();
        let setting = Setting { guidance: 1.0, source_guidance: 1.0, strength: 1.0, steps: 2 };
        let plans = [Plan::new(setting, &folder).unwrap()];
        let bench = Bench {
            folder: &folder,
            methods: &methods,
            plans: &plans,
            picks: None,
            reconstruct: 2,
            pictures: Some(desk.path()),
        };
        let measure = || {
            let results = Results::open(&path, &json!({})).unwrap();
            bench.measure(&[(Attribute::Colour, 0)], 2, &results).unwrap();
            assert_eq!(
                runs::ceiling(0..1, Criterion::Halfway, &results)[Attribute::Colour as usize].edits,
                1
            );
            runs::runs(&methods, &plans, 0..1, Criterion::Halfway, &results).unwrap()
        };
        let found = measure();
        let lines = std::fs::read_to_string(&path).unwrap();
        // What they were made with, the ceiling, and each method.
        assert_eq!(lines.lines().count(), 2 + NAMES.len());
        let back = |run: &Run| run.outcomes.values().next().unwrap().unwrap().1;
        for run in &found {
            let Some(Reconstruction { mse, floor }) = back(run) else {
                assert_eq!(run.method, "sdedit");
                continue;
            };
            // The lattice rounds the latent to less than what f32 tells apart in a picture of 12288 values.
            let equal = (mse / floor - 1.0).abs() < 1e-6;
            assert_eq!(equal, run.method != "ddim", "{}: {mse} {floor}", run.method);
        }
        let pictures = std::fs::read_dir(desk.path().join("colour 0")).unwrap().count();
        assert_eq!(pictures, 3 + NAMES.len());
        measure();
        assert!(lines == std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn a_worker_that_ends_leaves_no_case_to_the_others() {
        let next = AtomicUsize::new(1);
        drop(TakesTheRest { next: &next, cases: 9 });
        assert_eq!(next.into_inner(), 9);
    }
}
