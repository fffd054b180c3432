//! Models that predict something else than the noise.

use std::error::Error;

use ndarray::{ArrayViewD, Zip};
use thiserror::Error as ThisError;

use crate::{Latents, NoisePredictor, NoiseSchedule, Timestep};

/// A prediction that could not be made or converted.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ParameterizationError<E: Error + 'static> {
    /// The model failed.
    #[error(transparent)]
    Model(E),
    /// The timestep is not one of the schedule that converts the prediction.
    #[error("timestep {timestep} is outside training (0 to {last})")]
    TimestepOutsideTraining {
        /// The timestep asked for.
        timestep: Timestep,
        /// The last training timestep.
        last: usize,
    },
    /// The prediction has another shape than the latents.
    #[error("the prediction should have the latents' shape {expected:?}, found {found:?}")]
    Shape {
        /// Shape of the latents.
        expected: Vec<usize>,
        /// Shape of the prediction.
        found: Vec<usize>,
    },
}

macro_rules! adapter {
    ($(#[$doc:meta])* $name:ident, |$alpha:ident, $sigma:ident, $out:ident, $input:ident| $eps:expr) => {
        $(#[$doc])*
        ///
        /// The conversion uses the network's own input and output and the alpha-bar of the timestep it was told, in `f64`, so
        /// that a coupled sampler stays exact.
        #[derive(Clone, Debug)]
        pub struct $name<P> {
            model: P,
            schedule: NoiseSchedule,
        }

        impl<P> $name<P> {
            /// Wraps a model trained with `schedule`.
            pub fn new(model: P, schedule: NoiseSchedule) -> Self {
                Self { model, schedule }
            }
        }

        impl<P: NoisePredictor> $name<P> {
            fn convert(
                &self,
                mut prediction: Latents,
                latents: ArrayViewD<'_, f64>,
                t: Timestep,
            ) -> Result<Latents, ParameterizationError<P::Error>> {
                let last = self.schedule.timesteps() - 1;
                let bar = (self.schedule.alpha_bar(t))
                    .ok_or(ParameterizationError::TimestepOutsideTraining { timestep: t, last })?;
                if prediction.shape() != latents.shape() {
                    let (expected, found) = (latents.shape().to_vec(), prediction.shape().to_vec());
                    return Err(ParameterizationError::Shape { expected, found });
                }
                let ($alpha, $sigma) = (bar.sqrt(), (1.0 - bar).sqrt());
                Zip::from(&mut prediction).and(&latents).for_each(|value, &$input| {
                    let $out = *value;
                    *value = $eps;
                });
                Ok(prediction)
            }
        }

        impl<P: NoisePredictor> NoisePredictor for $name<P> {
            type Condition = P::Condition;
            type Error = ParameterizationError<P::Error>;

            fn predict(
                &self,
                latents: ArrayViewD<'_, f64>,
                t: Timestep,
                condition: &Self::Condition,
            ) -> Result<Latents, Self::Error> {
                let out = self.model.predict(latents.view(), t, condition);
                self.convert(out.map_err(ParameterizationError::Model)?, latents, t)
            }

            fn predict_pair(
                &self,
                latents: ArrayViewD<'_, f64>,
                t: Timestep,
                conditions: [&Self::Condition; 2],
            ) -> Result<[Latents; 2], Self::Error> {
                let out = self.model.predict_pair(latents.view(), t, conditions);
                let [first, second] = out.map_err(ParameterizationError::Model)?;
                Ok([self.convert(first, latents.view(), t)?, self.convert(second, latents, t)?])
            }
        }
    };
}

adapter!(
    /// A model of velocities, `v = alpha eps - sigma x` (arXiv:2202.00512), as a predictor of noise: `eps = alpha v + sigma z`.
    VelocityPredictor,
    |alpha, sigma, v, z| alpha * v + sigma * z
);
adapter!(
    /// A model of clean latents as a predictor of noise: `eps = (z - alpha x0) / sigma`.
    ///
    /// Where the schedule has no noise (`sigma = 0`) the result is not finite, and a run stops there.
    SamplePredictor,
    |alpha, sigma, x0, z| (z - alpha * x0) / sigma
);
