//! A record of what a network predicted.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::ArrayViewD;

use crate::{Latents, NoisePredictor, Timestep};

/// Hashes the bits of a prediction: FNV-1a, 64 bits, over the little-endian bytes of its elements in order.
///
/// Two predictions that differ in any bit have different hashes but for an accident of one in 2^64. The function is part of files
/// and does not change.
pub fn prediction_hash(prediction: ArrayViewD<'_, f64>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    prediction
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Wraps a predictor and keeps a hash of each prediction it makes.
///
/// An exact run back sees the same predictions in reverse order; the first hash that differs names the call at which a network,
/// machine or setting has changed.
#[derive(Debug)]
pub struct Recorded<P> {
    predictor: P,
    hashes: Mutex<Vec<u64>>,
}

impl<P> Recorded<P> {
    /// Wraps a predictor.
    pub fn new(predictor: P) -> Self {
        Self { predictor, hashes: Mutex::default() }
    }

    /// Returns the hashes of all predictions so far, in the order they were made.
    pub fn hashes(&self) -> Vec<u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        // A list of numbers is whole even when another thread panicked while it held the lock.
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, prediction: &Latents) {
        self.lock().push(prediction_hash(prediction.view()));
    }
}

impl<P: NoisePredictor> NoisePredictor for Recorded<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        let prediction = self.predictor.predict(latents, t, condition)?;
        self.keep(&prediction);
        Ok(prediction)
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        let predictions = self.predictor.predict_pair(latents, t, conditions)?;
        predictions.iter().for_each(|prediction| self.keep(prediction));
        Ok(predictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_published_function() {
        // FNV-1a of no byte is its offset; the other value is from a program that also gives the published hash of "foobar".
        let hash = |values: &[f64]| prediction_hash(ndarray::aview1(values).into_dyn());
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(&[0.0]), 0xa8c7_f832_281a_39c5);
        assert_ne!(hash(&[0.0]), hash(&[-0.0]));
        assert_ne!(hash(&[1.0, 2.0]), hash(&[2.0, 1.0]));
    }
}
