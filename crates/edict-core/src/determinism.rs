//! Whether a network answers one question in one way.

use std::error::Error;

use ndarray::ArrayViewD;
use thiserror::Error as ThisError;

use crate::{Latents, NoisePredictor, Timestep};

/// Why a predictor cannot be inverted exactly.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum DeterminismError<E: Error + 'static> {
    /// The model failed.
    #[error("prediction failed")]
    Predict(#[source] E),
    /// One question had two answers.
    #[error(
        "the network answered one question in two ways: {different} of {total} values differ, by up to {largest:e}; exact \
         inversion needs a deterministic network: usual causes are dropout that was left on, GPU kernels that are chosen by \
         timing or add in any order, and sums split over threads as they come free"
    )]
    Differs {
        /// Values that differ in a bit.
        different: usize,
        /// Values compared.
        total: usize,
        /// The largest difference.
        largest: f64,
    },
}

/// Asks a predictor one question twice and compares the answers bit for bit.
///
/// Ask with latents of the shape of the run: networks choose their kernels by shape, and with guidance pass the guided predictor, so that the
/// batch is that of the run too. Two calls; that both agree does not prove that the next one will.
///
/// # Errors
/// [`DeterminismError::Differs`] if they do not agree, [`DeterminismError::Predict`] if the model fails.
pub fn check_deterministic<P: NoisePredictor + ?Sized>(
    predictor: &P,
    latents: ArrayViewD<'_, f64>,
    t: Timestep,
    condition: &P::Condition,
) -> Result<(), DeterminismError<P::Error>> {
    let ask = || predictor.predict(latents.view(), t, condition).map_err(DeterminismError::Predict);
    let answers: [Latents; 2] = [ask()?, ask()?];
    let [first, second] = &answers;
    let total = first.len().max(second.len());
    let pairs = || first.iter().zip(second).filter(|(a, b)| a.to_bits() != b.to_bits());
    // Where shapes differ, every element does.
    let different = if first.shape() == second.shape() { pairs().count() } else { total };
    if different == 0 {
        return Ok(());
    }
    let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    Err(DeterminismError::Differs { different, total, largest })
}
