//! The two loops every sampler shares.

use std::ops::Range;

use crate::predictor::NoisePredictor;
use crate::update::FiniteCheck;
use crate::{Latents, Observer, SampleError, StateError, Step, StepError, Trajectory};

/// The outcome of a run of sampler `S` with predictor `P`.
type RunResult<S, P> =
    Result<<S as Sampler>::State, SampleError<<P as NoisePredictor>::Error, <S as Sampler>::State>>;

/// A way to walk a trajectory from noise to image and back.
pub trait Sampler {
    /// What a run carries from step to step.
    type State: Clone;

    /// Makes the state of an image, to invert from the image end of a run.
    ///
    /// # Errors
    /// [`StateError`] if the latents are not finite or do not fit into the state.
    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<Self::State, StateError>;

    /// Makes the state of fresh noise, to generate from the noisy end of a run.
    ///
    /// # Errors
    /// As [`Self::state_from_image`].
    fn state_from_noise(&self, noise: &Latents, run: &Trajectory) -> Result<Self::State, StateError>;

    /// Returns the latents that a state's picture is decoded from.
    ///
    /// # Errors
    /// [`StateError`] if the state is not one of this run.
    fn image(&self, state: &Self::State, run: &Trajectory) -> Result<Latents, StateError>;

    /// Checks that a run can start from a state that stands at `level`.
    ///
    /// # Errors
    /// [`StateError`] says what is wrong with it.
    fn check(&self, state: &Self::State, run: &Trajectory, level: usize) -> Result<(), StateError>;

    /// Makes one step of `trajectory` towards the image.
    ///
    /// # Errors
    /// [`StepError`]; the state is then that of no level and must be dropped.
    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut Self::State,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>>;

    /// Makes one step of `trajectory` towards the noise.
    ///
    /// # Errors
    /// [`StepError`]; the state is then that of no level and must be dropped.
    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut Self::State,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>>;

    /// Runs a trajectory from its noisy end to its image end.
    ///
    /// `state` stands at the first level of the trajectory and is not changed.
    ///
    /// # Errors
    /// [`SampleError`]: the state does not fit, a prediction failed, was not finite or misshapen, or the observer stopped.
    fn generate<P: NoisePredictor + ?Sized>(
        &self,
        state: &Self::State,
        trajectory: &Trajectory,
        predictor: &P,
        condition: &P::Condition,
        observer: &mut (impl Observer<Self::State> + ?Sized),
    ) -> RunResult<Self, P>
    where
        Self: Sized,
    {
        let Range { start, end } = trajectory.levels();
        self.check(state, trajectory, start)?;
        let mut state = state.clone();
        for step in trajectory.steps() {
            self.generate_step(&mut state, trajectory, step, predictor, condition)?;
            let level = step.index() + 1;
            if observer.after_step(step, &state).is_break() && level != end {
                return Err(SampleError::Stopped { state: Box::new(state), level });
            }
        }
        Ok(state)
    }

    /// Runs a trajectory from its image end to its noisy end.
    ///
    /// `state` stands at the last level of the trajectory and is not changed.
    ///
    /// # Errors
    /// As [`Self::generate`].
    fn invert<P: NoisePredictor + ?Sized>(
        &self,
        state: &Self::State,
        trajectory: &Trajectory,
        predictor: &P,
        condition: &P::Condition,
        observer: &mut (impl Observer<Self::State> + ?Sized),
    ) -> RunResult<Self, P>
    where
        Self: Sized,
    {
        let Range { start, end } = trajectory.levels();
        self.check(state, trajectory, end)?;
        let mut state = state.clone();
        for step in trajectory.steps().iter().rev() {
            self.invert_step(&mut state, trajectory, step, predictor, condition)?;
            let level = step.index();
            if observer.after_step(step, &state).is_break() && level != start {
                return Err(SampleError::Stopped { state: Box::new(state), level });
            }
        }
        Ok(state)
    }
}

/// Predicts noise for a step and checks the shape. That it is finite shows in the update.
pub(crate) fn predict<P: NoisePredictor + ?Sized>(
    predictor: &P,
    latents: &Latents,
    step: &Step,
    condition: &P::Condition,
) -> Result<Latents, StepError<P::Error>> {
    let (index, timestep) = (step.index(), step.timestep());
    let prediction = predictor
        .predict(latents.view(), timestep, condition)
        .map_err(|source| StepError::Predict { step: index, timestep, source })?;
    if prediction.shape() != latents.shape() {
        let (expected, found) = (latents.shape().to_vec(), prediction.shape().to_vec());
        return Err(StepError::PredictionShape { step: index, expected, found });
    }
    Ok(prediction)
}

/// Turns a failed check into an error that names the step.
pub(crate) fn finite<E: std::error::Error>(check: FiniteCheck, step: &Step) -> Result<(), StepError<E>> {
    if check.passed() {
        Ok(())
    } else {
        Err(StepError::NonFinite { step: step.index(), timestep: step.timestep() })
    }
}
