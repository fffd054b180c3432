//! The ways to edit that are compared.

use std::cell::Cell;
use std::fmt;

use edict_core::{
    Ddim, FnPredictor, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep, MixingWeight,
    NoisePredictor, Sampler, Timestep, Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{
    AnySampler, AnyState, Backend, ModelFolder, PromptEmbedding, StableDiffusion, seeded_noise,
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
    /// Guidance scale of the generation.
    pub(crate) guidance: f64,
    /// Guidance scale of the inversion.
    pub(crate) source_guidance: f64,
    pub(crate) strength: f64,
    pub(crate) steps: usize,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guidance, source_guidance, strength, steps } = self;
        write!(f, "{steps} steps, strength {strength}, guidance {guidance}")?;
        if source_guidance != guidance { write!(f, " from {source_guidance}") } else { Ok(()) }
    }
}

/// A setting, and what the model makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) setting: Setting,
    trajectory: Trajectory,
    guidance: GuidanceScale,
    source_guidance: GuidanceScale,
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
            source_guidance: GuidanceScale::constant(setting.source_guidance).map_err(wrong)?,
        })
    }

    /// Whether the inversions of the two are one.
    pub(crate) fn inverts_as(&self, other: &Self) -> bool {
        let of = |plan: &Self| Setting { guidance: 0.0, ..plan.setting };
        of(self) == of(other)
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

    /// Whether the method has use for a setting: without an inversion there is no guidance scale of one, so that only one
    /// setting of those that differ in it is tried.
    pub(crate) fn takes(&self, setting: Setting) -> bool {
        *self != Self::SdEdit || setting.source_guidance == setting.guidance
    }

    /// Takes a picture's latents to noise.
    pub(crate) fn noise<B: Backend>(
        &self,
        model: &StableDiffusion<B>,
        case: &Case,
        latent: &Latents,
        plan: &Plan,
    ) -> Result<AnyState, Fault> {
        let predictor = Guided::new(model.predictor(), plan.source_guidance.clone());
        let noise = seeded_noise(latent.shape(), case.seed);
        self.to_noise(latent, &noise, &plan.trajectory, &predictor, &prompt(model, &case.source_caption)?)
    }

    /// Makes a picture's latents of noise: the edit.
    pub(crate) fn edit<B: Backend>(
        &self,
        model: &StableDiffusion<B>,
        case: &Case,
        noise: &AnyState,
        plan: &Plan,
    ) -> Result<Latents, Fault> {
        let predictor = Guided::new(model.predictor(), plan.guidance.clone());
        self.to_image(noise, &plan.trajectory, &predictor, &prompt(model, &case.target_caption)?)
    }

    /// Makes the latents again that the noise was made of, or what comes near to them; nothing where it was not made of them.
    pub(crate) fn back<B: Backend>(
        &self,
        model: &StableDiffusion<B>,
        case: &Case,
        noise: &AnyState,
        plan: &Plan,
    ) -> Result<Option<Latents>, Fault> {
        let predictor = Guided::new(model.predictor(), plan.source_guidance.clone());
        let made =
            || self.to_image(noise, &plan.trajectory, &predictor, &prompt(model, &case.source_caption)?);
        (*self != Self::SdEdit).then(made).transpose()
    }

    /// Counts the calls of the network that an edit takes, by an edit with a network that says nothing.
    pub(crate) fn calls(&self, plan: &Plan) -> Result<usize, Fault> {
        let count = Cell::new(0);
        let predictor = FnPredictor::new(|z: ArrayViewD<'_, f64>, _: Timestep, (): &()| {
            count.set(count.get() + 1);
            Latents::zeros(z.shape())
        });
        let zeros = Latents::zeros(vec![1, 1, 1, 1]);
        let noise = self.to_noise(&zeros, &zeros, &plan.trajectory, &predictor, &())?;
        self.to_image(&noise, &plan.trajectory, &predictor, &())?;
        Ok(count.get())
    }

    fn sampler(&self) -> AnySampler {
        match self {
            Self::Invert(_, sampler) => *sampler,
            Self::SdEdit => AnySampler::Ddim(Ddim),
        }
    }

    /// Inverts, or adds `noise`, as the method has it.
    fn to_noise<P: NoisePredictor>(
        self,
        latent: &Latents,
        noise: &Latents,
        trajectory: &Trajectory,
        predictor: &P,
        source: &P::Condition,
    ) -> Result<AnyState, Fault> {
        let sampler = self.sampler();
        match self {
            Self::Invert(..) => {
                let start = sampler.state_from_image(latent, trajectory)?;
                Ok(sampler.invert(&start, trajectory, predictor, source, &mut ())?)
            }
            Self::SdEdit => {
                Ok(sampler.state_from_noise(&Ddim.noised(latent, noise, trajectory)?, trajectory)?)
            }
        }
    }

    fn to_image<P: NoisePredictor>(
        self,
        noise: &AnyState,
        trajectory: &Trajectory,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<Latents, Fault> {
        let sampler = self.sampler();
        let state = sampler.generate(noise, trajectory, predictor, condition, &mut ())?;
        Ok(sampler.image(&state, trajectory)?)
    }
}

/// A caption against the empty prompt.
fn prompt<B: Backend>(model: &StableDiffusion<B>, text: &str) -> Result<Guidance<PromptEmbedding>, Fault> {
    Ok(Guidance { positive: model.encode_prompt(text)?, negative: model.encode_prompt("")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_their_names_and_take_the_calls_that_their_papers_say() {
        let plan = |steps, strength| {
            let setting = Setting { guidance: 3.0, source_guidance: 3.0, strength, steps };
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
