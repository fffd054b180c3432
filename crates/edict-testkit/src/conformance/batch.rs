//! Samples in a batch, and alone.

use edict_core::{NoisePredictor, NoiseSchedule};
use ndarray::{ArrayViewD, Axis, CowArray, Slice, concatenate};

use super::predictions::{check_latents, predict, timesteps};
use super::{ConformanceError, Difference};

/// Checks that each sample of a batch is predicted as it is alone.
///
/// `tolerance` is a share of the largest value predicted; 0 asks for the same bits. Of latents with a batch of one, the sample with
/// its sign turned is the second.
///
/// # Errors
/// [`ConformanceError::Batch`]; [`ConformanceError::Shape`], [`ConformanceError::NonFinite`] and [`ConformanceError::Predict`] if a
/// prediction cannot be compared.
pub fn check_batch<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    condition: &P::Condition,
    tolerance: f64,
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    let mut samples = CowArray::from(latents.view());
    if samples.shape()[0] == 1 {
        let turned = latents.mapv(|value| -value);
        let both = concatenate(Axis(0), &[latents.view(), turned.view()]);
        samples = both.map_err(|_| ConformanceError::Latents(latents.shape().to_vec()))?.into();
    }
    let batch = samples.shape()[0];
    for timestep in timesteps(schedule) {
        let together = predict(predictor, samples.view(), timestep, condition)?;
        for sample in 0..batch {
            let only = Slice::from(sample..=sample);
            let alone = predict(predictor, samples.slice_axis(Axis(0), only), timestep, condition)?;
            let difference = Difference::of(together.slice_axis(Axis(0), only), alone.view());
            if !difference.is_within(tolerance, alone.view()) {
                return Err(ConformanceError::Batch { timestep, sample, batch, difference, tolerance });
            }
        }
    }
    Ok(())
}
