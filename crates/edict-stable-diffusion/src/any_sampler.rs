//! A sampler chosen while running.

use edict_core::{
    CoupledPair, Ddim, Edict, Latents, LatticeEdict, LatticeNeighbours, LatticePair, LatticeTwoStep,
    MixingWeight, Neighbours, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory, TwoStep,
};

/// Any of the samplers, for programs whose users choose one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum AnySampler {
    /// EDICT, exact to the last bit.
    LatticeEdict(LatticeEdict),
    /// EDICT in floats.
    Edict(Edict),
    /// O-BELM or BDIA, exact to the last bit.
    LatticeTwoStep(LatticeTwoStep),
    /// O-BELM or BDIA in floats.
    TwoStep(TwoStep),
    /// DDIM, whose inversion is approximate.
    Ddim(Ddim),
}

/// What [`AnySampler`] carries.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum AnyState {
    /// That of [`AnySampler::LatticeEdict`].
    LatticePair(LatticePair),
    /// That of [`AnySampler::Edict`].
    Pair(CoupledPair),
    /// That of [`AnySampler::LatticeTwoStep`].
    LatticeNeighbours(LatticeNeighbours),
    /// That of [`AnySampler::TwoStep`].
    Neighbours(Neighbours),
    /// That of [`AnySampler::Ddim`].
    Single(Latents),
}

/// Applies an expression to the sampler and its state, whatever they are; an error where they are not of one kind.
macro_rules! together {
    ($sampler:expr, $state:expr, |$s:ident, $z:ident| $body:expr) => {
        match ($sampler, $state) {
            (AnySampler::LatticeEdict($s), AnyState::LatticePair($z)) => $body,
            (AnySampler::Edict($s), AnyState::Pair($z)) => $body,
            (AnySampler::LatticeTwoStep($s), AnyState::LatticeNeighbours($z)) => $body,
            (AnySampler::TwoStep($s), AnyState::Neighbours($z)) => $body,
            (AnySampler::Ddim($s), AnyState::Single($z)) => $body,
            _ => Err(StateError::OtherSampler.into()),
        }
    };
}

impl AnySampler {
    /// Returns whether inversion comes back to the last bit, with a deterministic network.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::LatticeEdict(_) | Self::LatticeTwoStep(_))
    }

    /// Returns the mixing weight of EDICT; other samplers have none.
    pub fn mixing_weight(&self) -> Option<MixingWeight> {
        self.edict().map(|edict| edict.mixing_weight())
    }

    /// Returns EDICT in floats, whose steps are made, or `None` for other samplers.
    pub fn edict(&self) -> Option<Edict> {
        match self {
            Self::LatticeEdict(sampler) => Some(sampler.float()),
            Self::Edict(sampler) => Some(*sampler),
            _ => None,
        }
    }

    /// Returns the two-step sampler in floats, whose steps are made, or `None` for other samplers.
    pub fn two_step(&self) -> Option<TwoStep> {
        match self {
            Self::LatticeTwoStep(sampler) => Some(sampler.float()),
            Self::TwoStep(sampler) => Some(*sampler),
            _ => None,
        }
    }

    /// Returns the latents of a state: `x` is that at its level, which pictures are decoded from, `y` its partner.
    ///
    /// The partner is the other of EDICT's pair; for two-step samplers the neighbour, on the image's side at the noisy end of a
    /// run and on the noise's side at its image end; `x` itself where there is none.
    ///
    /// # Errors
    /// [`StateError`] if the state is not one of this sampler and run.
    pub fn latents(&self, state: &AnyState, run: &Trajectory) -> Result<CoupledPair, StateError> {
        let neighbours = |state: &Neighbours| CoupledPair {
            x: state.latents().clone(),
            y: state.neighbour().unwrap_or(state.latents()).clone(),
        };
        match (self, state) {
            (Self::LatticeEdict(sampler), AnyState::LatticePair(state)) => sampler.leave(state, run),
            (Self::Edict(_), AnyState::Pair(pair)) => Ok(pair.clone()),
            (Self::LatticeTwoStep(sampler), AnyState::LatticeNeighbours(state)) => {
                Ok(neighbours(&sampler.leave(state, run)?))
            }
            (Self::TwoStep(_), AnyState::Neighbours(state)) => Ok(neighbours(state)),
            (Self::Ddim(_), AnyState::Single(latents)) => Ok(CoupledPair::equal_to(latents)),
            _ => Err(StateError::OtherSampler),
        }
    }
}

impl Sampler for AnySampler {
    type State = AnyState;

    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<AnyState, StateError> {
        Ok(match self {
            Self::LatticeEdict(s) => AnyState::LatticePair(s.state_from_image(image, run)?),
            Self::Edict(s) => AnyState::Pair(s.state_from_image(image, run)?),
            Self::LatticeTwoStep(s) => AnyState::LatticeNeighbours(s.state_from_image(image, run)?),
            Self::TwoStep(s) => AnyState::Neighbours(s.state_from_image(image, run)?),
            Self::Ddim(s) => AnyState::Single(s.state_from_image(image, run)?),
        })
    }

    fn state_from_noise(&self, noise: &Latents, run: &Trajectory) -> Result<AnyState, StateError> {
        Ok(match self {
            Self::LatticeEdict(s) => AnyState::LatticePair(s.state_from_noise(noise, run)?),
            Self::Edict(s) => AnyState::Pair(s.state_from_noise(noise, run)?),
            Self::LatticeTwoStep(s) => AnyState::LatticeNeighbours(s.state_from_noise(noise, run)?),
            Self::TwoStep(s) => AnyState::Neighbours(s.state_from_noise(noise, run)?),
            Self::Ddim(s) => AnyState::Single(s.state_from_noise(noise, run)?),
        })
    }

    fn image(&self, state: &AnyState, run: &Trajectory) -> Result<Latents, StateError> {
        together!(self, state, |s, z| s.image(z, run))
    }

    fn check(&self, state: &AnyState, run: &Trajectory, level: usize) -> Result<(), StateError> {
        together!(self, state, |s, z| s.check(z, run, level))
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut AnyState,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        together!(self, state, |s, z| s.generate_step(z, run, step, predictor, condition))
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut AnyState,
        run: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        together!(self, state, |s, z| s.invert_step(z, run, step, predictor, condition))
    }
}
