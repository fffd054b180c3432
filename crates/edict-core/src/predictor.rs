//! The model, as samplers see it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use ndarray::ArrayViewD;

use crate::Latents;

/// A timestep of the training schedule, counted from 0 (almost no noise).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestep(usize);

impl Timestep {
    /// Names the training timestep `index`.
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// Returns the index into the training schedule.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for Timestep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A diffusion model: predicts the noise that latents contain.
///
/// Implement it for your own model and every sampler of this crate inverts it. Models that predict something else than the
/// noise are wrapped in [`VelocityPredictor`](crate::VelocityPredictor) or [`SamplePredictor`](crate::SamplePredictor);
/// classifier-free guidance is [`Guided`](crate::Guided), itself a predictor.
///
/// Predictions must be *pure*: equal arguments give bitwise equal results. A model in evaluation mode (no dropout, no random
/// kernel) is. A predictor rounds its input to the precision of its network itself.
///
/// The trait is object safe, and forwarded for references, boxes and shared pointers.
pub trait NoisePredictor {
    /// What the prediction depends on besides latents and time: a prompt embedding, a class, `()`.
    type Condition: ?Sized;
    /// What can go wrong in the model.
    type Error: Error + Send + Sync + 'static;

    /// Predicts the noise in `latents` `[batch, ...]` at training timestep `t`; the result has the shape of `latents`.
    ///
    /// # Errors
    /// Whatever the model reports; the sampler stops and names the step.
    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &Self::Condition,
    ) -> Result<Latents, Self::Error>;

    /// Predicts the noise in the same latents under two conditions.
    ///
    /// Provided as two calls; a model that is faster on one batch of two overrides it.
    ///
    /// # Errors
    /// As [`Self::predict`].
    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&Self::Condition; 2],
    ) -> Result<[Latents; 2], Self::Error> {
        let [first, second] = conditions;
        Ok([self.predict(latents.view(), t, first)?, self.predict(latents, t, second)?])
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<P: NoisePredictor + ?Sized> NoisePredictor for $pointer {
            type Condition = P::Condition;
            type Error = P::Error;

            fn predict(
                &self,
                latents: ArrayViewD<'_, f64>,
                t: Timestep,
                condition: &Self::Condition,
            ) -> Result<Latents, Self::Error> {
                (**self).predict(latents, t, condition)
            }

            fn predict_pair(
                &self,
                latents: ArrayViewD<'_, f64>,
                t: Timestep,
                conditions: [&Self::Condition; 2],
            ) -> Result<[Latents; 2], Self::Error> {
                (**self).predict_pair(latents, t, conditions)
            }
        }
    )*};
}
forward!(&P, Box<P>, Rc<P>, Arc<P>);

/// What a closure behind [`FnPredictor`] may return: latents, or a result with latents.
pub trait Prediction {
    /// The closure's error; [`Infallible`] where it cannot fail.
    type Error: Error + Send + Sync + 'static;

    /// Turns the closure's value into a result.
    fn into_result(self) -> Result<Latents, Self::Error>;
}

impl Prediction for Latents {
    type Error = Infallible;

    fn into_result(self) -> Result<Latents, Infallible> {
        Ok(self)
    }
}

impl<E: Error + Send + Sync + 'static> Prediction for Result<Latents, E> {
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// A closure as a predictor.
///
/// ```
/// use edict_core::{FnPredictor, NoisePredictor, Timestep};
/// let model = FnPredictor::new(|z, _t: Timestep, gain: &f64| z.mapv(|v| gain * v));
/// let z = ndarray::arr1(&[1.0, -2.0]).into_dyn();
/// assert_eq!(model.predict(z.view(), Timestep::new(7), &0.5).unwrap(), ndarray::arr1(&[0.5, -1.0]).into_dyn());
/// ```
pub struct FnPredictor<F, C: ?Sized> {
    function: F,
    condition: PhantomData<fn(&C)>,
}

impl<F, C: ?Sized, R> FnPredictor<F, C>
where
    F: Fn(ArrayViewD<'_, f64>, Timestep, &C) -> R,
    R: Prediction,
{
    /// Wraps a pure function of latents, timestep and condition.
    pub fn new(function: F) -> Self {
        Self { function, condition: PhantomData }
    }
}

impl<F, C: ?Sized> fmt::Debug for FnPredictor<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnPredictor").finish_non_exhaustive()
    }
}

impl<F, C: ?Sized, R> NoisePredictor for FnPredictor<F, C>
where
    F: Fn(ArrayViewD<'_, f64>, Timestep, &C) -> R,
    R: Prediction,
{
    type Condition = C;
    type Error = R::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &C,
    ) -> Result<Latents, Self::Error> {
        (self.function)(latents, t, condition).into_result()
    }
}
