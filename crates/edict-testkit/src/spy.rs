//! A predictor that keeps a record of what it is asked.

use std::sync::Mutex;

use edict_core::{Latents, NoisePredictor, Timestep};
use ndarray::ArrayViewD;

/// One call of a predictor.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The latents given.
    pub latents: Latents,
    /// The timestep told.
    pub timestep: Timestep,
    /// How many conditions were asked about: 2 for `predict_pair`.
    pub conditions: usize,
}

/// Wraps a predictor and records its calls.
#[derive(Debug)]
pub struct Spy<P> {
    predictor: P,
    calls: Mutex<Vec<Call>>,
}

impl<P> Spy<P> {
    /// Wraps a predictor.
    pub fn new(predictor: P) -> Self {
        Self { predictor, calls: Mutex::default() }
    }

    /// Returns the calls since the last time this was asked.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        // A list of calls is whole even when another thread panicked while it held the lock.
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record(&self, latents: &ArrayViewD<'_, f64>, timestep: Timestep, conditions: usize) {
        self.lock().push(Call { latents: latents.to_owned(), timestep, conditions });
    }
}

impl<P: NoisePredictor> NoisePredictor for Spy<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &Self::Condition,
    ) -> Result<Latents, Self::Error> {
        self.record(&latents, t, 1);
        self.predictor.predict(latents, t, condition)
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&Self::Condition; 2],
    ) -> Result<[Latents; 2], Self::Error> {
        self.record(&latents, t, 2);
        self.predictor.predict_pair(latents, t, conditions)
    }
}
