//! Two conditions at once.

use edict_core::{Guidance, GuidanceScale, Guided, Latents, NoisePredictor, NoiseSchedule, Timestep};
use ndarray::ArrayViewD;

use super::predictions::{check_latents, check_prediction, predict, timesteps};
use super::{ConformanceError, Difference};

/// A predictor whose conditions are borrowed, so that they can be put into a [`Guidance`] without a copy.
pub(super) struct Borrowed<'a, P: ?Sized>(pub(super) &'a P);

impl<'a, P: NoisePredictor + ?Sized> NoisePredictor for Borrowed<'a, P>
where
    P::Condition: 'a,
{
    type Condition = &'a P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &&'a P::Condition,
    ) -> Result<Latents, P::Error> {
        self.0.predict(latents, t, condition)
    }

    fn predict_pair(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        [first, second]: [&&'a P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        self.0.predict_pair(latents, t, [first, second])
    }
}

/// Checks that guidance at scale 1 is the prediction under the first condition, and at scale 0 that under the second, bit for bit.
///
/// # Errors
/// [`ConformanceError::Guidance`]; [`ConformanceError::Shape`], [`ConformanceError::NonFinite`] and [`ConformanceError::Predict`]
/// if a prediction cannot be compared.
pub fn check_guidance<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    [positive, negative]: [&P::Condition; 2],
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    let both = Guidance { positive, negative };
    for (scale, alone) in [(1.0, positive), (0.0, negative)] {
        let guided = Guided::new(Borrowed(predictor), GuidanceScale::constant(scale)?);
        for timestep in timesteps(schedule) {
            let found = predict(&guided, latents.view(), timestep, &both)?;
            let expected = predict(predictor, latents.view(), timestep, alone)?;
            let difference = Difference::of(found.view(), expected.view());
            if difference.different > 0 {
                return Err(ConformanceError::Guidance { timestep, scale, difference });
            }
        }
    }
    Ok(())
}

/// Checks that `predict_pair` answers as two calls of `predict` do, in their order.
///
/// `tolerance` is a share of the largest value predicted; 0 asks for the same bits. Answers in each other's place are found out if the
/// two conditions lead to predictions that differ by more.
///
/// # Errors
/// [`ConformanceError::Pair`]; [`ConformanceError::Shape`], [`ConformanceError::NonFinite`] and [`ConformanceError::Predict`] if a
/// prediction cannot be compared.
pub fn check_pair<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    conditions: [&P::Condition; 2],
    tolerance: f64,
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    for timestep in timesteps(schedule) {
        let found = predictor
            .predict_pair(latents.view(), timestep, conditions)
            .map_err(|source| ConformanceError::Predict { timestep, source })?;
        let mut expected = Vec::with_capacity(2);
        for (answer, condition) in found.iter().zip(conditions) {
            check_prediction(answer, latents.shape(), timestep)?;
            expected.push(predict(predictor, latents.view(), timestep, condition)?);
        }
        let compare = |found: &Latents, expected: &Latents| {
            let difference = Difference::of(found.view(), expected.view());
            (difference, difference.is_within(tolerance, expected.view()))
        };
        let swapped =
            found.iter().zip(expected.iter().rev()).all(|(found, expected)| compare(found, expected).1);
        for (answer, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (difference, agrees) = compare(found, expected);
            if !agrees {
                return Err(ConformanceError::Pair { timestep, answer, difference, tolerance, swapped });
            }
        }
    }
    Ok(())
}
