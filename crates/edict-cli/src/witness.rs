//! Predictors that keep an eye on what passes through them.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

use edict_core::{Latents, NoisePredictor, Timestep, prediction_hash};
use ndarray::ArrayViewD;

/// Counts network calls: one for each forward pass, whatever its batch.
pub(crate) struct Counted<'a, P> {
    pub(crate) predictor: P,
    pub(crate) calls: &'a AtomicUsize,
}

impl<P: NoisePredictor> NoisePredictor for Counted<'_, P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.predictor.predict(latents, t, condition)
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.predictor.predict_pair(latents, t, conditions)
    }
}

/// Keeps the hash of each prediction, and finds the first that is not as expected.
pub(crate) struct Witness<P> {
    predictor: P,
    made: RefCell<Vec<u64>>,
    expected: Vec<u64>,
    difference: Cell<Option<usize>>,
}

impl<P> Witness<P> {
    /// Goes on with a record.
    pub(crate) fn recording(predictor: P, made: Vec<u64>) -> Self {
        Self { predictor, made: RefCell::new(made), expected: Vec::new(), difference: Cell::default() }
    }

    /// Compares with what an inversion has predicted: `skip` predictions were made before.
    pub(crate) fn checking(predictor: P, inverted: &[u64], skip: usize) -> Self {
        let expected = inverted.iter().rev().skip(skip).copied().collect();
        Self { predictor, made: RefCell::default(), expected, difference: Cell::default() }
    }

    /// Returns the hashes.
    pub(crate) fn into_made(self) -> Vec<u64> {
        self.made.into_inner()
    }

    /// Returns how many predictions were made, and the number of the first that differs.
    pub(crate) fn checked(&self) -> (usize, Option<usize>) {
        (self.made.borrow().len().min(self.expected.len()), self.difference.get())
    }
}

impl<P: NoisePredictor> NoisePredictor for Witness<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        let prediction = self.predictor.predict(latents, t, condition)?;
        let hash = prediction_hash(prediction.view());
        let mut made = self.made.borrow_mut();
        let number = made.len();
        if self.difference.get().is_none()
            && self.expected.get(number).is_some_and(|hash_then| *hash_then != hash)
        {
            self.difference.set(Some(number));
        }
        made.push(hash);
        Ok(prediction)
    }
}
