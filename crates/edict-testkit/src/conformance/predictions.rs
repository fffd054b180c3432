//! Single predictions: shape, numbers, and the same ones again.

use edict_core::{Latents, NoisePredictor, NoiseSchedule, Timestep, check_deterministic};
use ndarray::ArrayViewD;

use super::ConformanceError;

/// Returns the timesteps at which predictions are checked: both ends of training, and three between.
pub fn timesteps(schedule: &NoiseSchedule) -> Vec<Timestep> {
    let last = schedule.timesteps().saturating_sub(1);
    let mut timesteps: Vec<_> = (0..=4).map(|quarter| Timestep::new(last * quarter / 4)).collect();
    timesteps.dedup();
    timesteps
}

/// Checks that there is something to ask with.
pub(super) fn check_latents<E: std::error::Error>(
    latents: &ArrayViewD<'_, f64>,
) -> Result<(), ConformanceError<E>> {
    if latents.ndim() == 0 || latents.is_empty() {
        return Err(ConformanceError::Latents(latents.shape().to_vec()));
    }
    Ok(())
}

/// Checks that a prediction has the shape of the latents and is finite.
pub(super) fn check_prediction<E: std::error::Error>(
    prediction: &Latents,
    shape: &[usize],
    timestep: Timestep,
) -> Result<(), ConformanceError<E>> {
    if prediction.shape() != shape {
        let (expected, found) = (shape.to_vec(), prediction.shape().to_vec());
        return Err(ConformanceError::Shape { timestep, expected, found });
    }
    let count = prediction.iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        return Err(ConformanceError::NonFinite { timestep, count, total: prediction.len() });
    }
    Ok(())
}

/// Predicts, and checks what comes.
pub(super) fn predict<P: NoisePredictor + ?Sized>(
    predictor: &P,
    latents: ArrayViewD<'_, f64>,
    timestep: Timestep,
    condition: &P::Condition,
) -> Result<Latents, ConformanceError<P::Error>> {
    let shape = latents.shape().to_vec();
    let prediction = predictor
        .predict(latents, timestep, condition)
        .map_err(|source| ConformanceError::Predict { timestep, source })?;
    check_prediction(&prediction, &shape, timestep)?;
    Ok(prediction)
}

/// Checks that predictions have the shape of the latents and are finite, at [`timesteps`].
///
/// # Errors
/// [`ConformanceError::Shape`], [`ConformanceError::NonFinite`], [`ConformanceError::Predict`] if the model fails.
pub fn check_predictions<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    condition: &P::Condition,
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    for timestep in timesteps(schedule) {
        predict(predictor, latents.view(), timestep, condition)?;
    }
    Ok(())
}

/// Asks the same twice at each of [`timesteps`]: the answers must have the same bits.
///
/// # Errors
/// [`ConformanceError::Determinism`].
pub fn check_determinism<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    condition: &P::Condition,
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    for timestep in timesteps(schedule) {
        check_deterministic(predictor, latents.view(), timestep, condition)
            .map_err(|source| ConformanceError::Determinism { timestep, source })?;
    }
    Ok(())
}
