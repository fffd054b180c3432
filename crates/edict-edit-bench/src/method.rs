//! The ways to edit that are compared.

use std::fmt;

use edict_core::{
    Ddim, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep, MixingWeight, Sampler,
    Trajectory, TwoStep, TwoStepRule, UpdateOrder,
};
use edict_stable_diffusion::{AnySampler, Backend, PromptEmbedding, StableDiffusion, seeded_noise};

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
        setting: Setting,
        reconstruct: bool,
    ) -> Result<(Latents, Option<Latents>), Fault> {
        let trajectory = model.trajectory(setting.steps, setting.strength)?;
        let predictor = Guided::new(model.predictor(), GuidanceScale::constant(setting.guidance)?);
        let negative = model.encode_prompt("")?;
        let under = |prompt: &str| -> Result<Guidance<PromptEmbedding>, Fault> {
            Ok(Guidance { positive: model.encode_prompt(prompt)?, negative: negative.clone() })
        };
        let (source, target) = (under(&case.source_caption)?, under(&case.target_caption)?);
        match self {
            Self::Invert(_, sampler) => {
                let start = sampler.state_from_image(latent, &trajectory)?;
                let noise = sampler.invert(&start, &trajectory, &predictor, &source, &mut ())?;
                let generate = |condition| -> Result<Latents, Fault> {
                    let state = sampler.generate(&noise, &trajectory, &predictor, condition, &mut ())?;
                    Ok(sampler.image(&state, &trajectory)?)
                };
                Ok((generate(&target)?, reconstruct.then(|| generate(&source)).transpose()?))
            }
            Self::SdEdit => {
                let noised = noised(latent, case.number, &trajectory)?;
                Ok((Ddim.generate(&noised, &trajectory, &predictor, &target, &mut ())?, None))
            }
        }
    }
}

fn noised(latent: &Latents, seed: u64, trajectory: &Trajectory) -> Result<Latents, Fault> {
    Ok(Ddim.noised(latent, &seeded_noise(latent.shape(), seed), trajectory)?)
}
