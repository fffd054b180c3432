//! The ways to edit that are compared.

use std::cell::Cell;
use std::fmt;

use edict_core::{
    Ddim, FnPredictor, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep, MixingWeight,
    NoisePredictor, Sampler, Timestep, Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{
    AnySampler, Backend, ModelFolder, PromptEmbedding, StableDiffusion, seeded_noise,
};
use ndarray::ArrayViewD;

use crate::Fault;
use crate::case::Case;

/// A way to edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Method {
    /// Invert with a sampler, generate with it.
    Invert(&'static str, AnySampler),
    /// Add noise, generate with DDIM (SDEdit, arXiv:2108.01073).
    SdEdit,
}

/// What a run is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) guidance: f64,
    pub(crate) strength: f64,
    pub(crate) steps: usize,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, strength {}, guidance {}", self.steps, self.strength, self.guidance)
    }
}

/// A setting, and what the model makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) setting: Setting,
    trajectory: Trajectory,
    guidance: GuidanceScale,
}

impl Plan {
    /// Lays the steps on the model's schedule.
    ///
    /// # Errors
    /// If they do not fit into it, or a number is outside its range.
    pub(crate) fn new(setting: Setting, folder: &ModelFolder) -> Result<Self, Fault> {
        let wrong = |error| format!("{setting}: {error}");
        Ok(Self {
            setting,
            trajectory: folder.trajectory(setting.steps, setting.strength).map_err(wrong)?,
            guidance: GuidanceScale::constant(setting.guidance).map_err(wrong)?,
        })
    }
}

/// The methods' names, in the order of tables.
pub(crate) const NAMES: [&str; 5] = ["edict", "belm", "bdia", "ddim", "sdedit"];

impl Method {
    pub(crate) fn all(gamma: f64) -> Result<Vec<Self>, Fault> {
        let bdia = TwoStep::new(TwoStepRule::Bdia { gamma })?;
        let edict = LatticeEdict::new(MixingWeight::Auto, UpdateOrder::Leapfrog)?;
        Ok(vec![
            Self::Invert("edict", AnySampler::LatticeEdict(edict)),
            Self::Invert("belm", AnySampler::LatticeTwoStep(LatticeTwoStep::default())),
            Self::Invert("bdia", AnySampler::LatticeTwoStep(LatticeTwoStep::new(bdia)?)),
            Self::Invert("ddim", AnySampler::Ddim(Ddim)),
            Self::SdEdit,
        ])
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Invert(name, _) => name,
            Self::SdEdit => "sdedit",
        }
    }

    /// Edits a picture's latents, and reconstructs them where that is asked for.
    pub(crate) fn run<B: Backend>(
        &self,
        model: &StableDiffusion<B>,
        case: &Case,
        latent: &Latents,
        plan: &Plan,
        reconstruct: bool,
    ) -> Result<(Latents, Option<Latents>), Fault> {
        let predictor = Guided::new(model.predictor(), plan.guidance.clone());
        let negative = model.encode_prompt("")?;
        let under = |prompt: &str| -> Result<Guidance<PromptEmbedding>, Fault> {
            Ok(Guidance { positive: model.encode_prompt(prompt)?, negative: negative.clone() })
        };
        let prompts = [&under(&case.source_caption)?, &under(&case.target_caption)?];
        self.edit(latent, case.seed, &plan.trajectory, &predictor, prompts, reconstruct)
    }

    /// Counts the calls of the network that an edit takes, by an edit with a network that says nothing.
    pub(crate) fn calls(&self, plan: &Plan) -> Result<usize, Fault> {
        let count = Cell::new(0);
        let predictor = FnPredictor::new(|z: ArrayViewD<'_, f64>, _: Timestep, (): &()| {
            count.set(count.get() + 1);
            Latents::zeros(z.shape())
        });
        self.edit(&Latents::zeros(vec![1, 1, 1, 1]), 0, &plan.trajectory, &predictor, [&(), &()], false)?;
        Ok(count.get())
    }

    /// `seed` is that of the noise where there is some; `prompts` are the source's and the target's.
    fn edit<P: NoisePredictor>(
        &self,
        latent: &Latents,
        seed: u64,
        trajectory: &Trajectory,
        predictor: &P,
        [source, target]: [&P::Condition; 2],
        reconstruct: bool,
    ) -> Result<(Latents, Option<Latents>), Fault> {
        match self {
            Self::Invert(_, sampler) => {
                let start = sampler.state_from_image(latent, trajectory)?;
                let noise = sampler.invert(&start, trajectory, predictor, source, &mut ())?;
                let generate = |condition| -> Result<Latents, Fault> {
                    let state = sampler.generate(&noise, trajectory, predictor, condition, &mut ())?;
                    Ok(sampler.image(&state, trajectory)?)
                };
                Ok((generate(target)?, reconstruct.then(|| generate(source)).transpose()?))
            }
            Self::SdEdit => {
                let noised = Ddim.noised(latent, &seeded_noise(latent.shape(), seed), trajectory)?;
                Ok((Ddim.generate(&noised, trajectory, predictor, target, &mut ())?, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_their_names_and_take_the_calls_that_their_papers_say() {
        let plan = |steps, strength| {
            let setting = Setting { guidance: 3.0, strength, steps };
            Plan::new(setting, &edict_demo_model::folder().unwrap())
        };
        let methods = Method::all(0.98).unwrap();
        assert_eq!(methods.iter().map(Method::name).collect::<Vec<_>>(), NAMES);
        // 40 steps each way: two calls a step, one less than one a step, one a step; SDEdit goes one way only.
        let plan_of_40 = plan(50, 0.8).unwrap();
        let calls: Vec<_> = methods.iter().map(|method| method.calls(&plan_of_40).unwrap()).collect();
        assert_eq!(calls, [160, 79, 79, 80, 40]);
        for wrong in [plan(0, 0.8), plan(50, 1.5), plan(1001, 1.0)] {
            let error = wrong.err().unwrap().to_string();
            assert!(error.contains("steps, strength"), "{error}");
        }
    }
}
