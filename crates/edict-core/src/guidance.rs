//! Classifier-free guidance.

use std::fmt;
use std::sync::Arc;

use ndarray::{ArrayViewD, Zip};

use crate::{ConfigError, Latents, NoisePredictor, Timestep};

/// The two conditions of a guided prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guidance<C> {
    /// What the result should be.
    pub positive: C,
    /// What it is pushed away from; the empty prompt unless you have a better one.
    pub negative: C,
}

/// How strongly a prediction is pushed from the negative to the positive condition.
///
/// At 1 the negative condition is not evaluated at all, at 0 the positive is not.
#[derive(Clone)]
pub struct GuidanceScale(Scale);

#[derive(Clone)]
enum Scale {
    Constant(f64),
    Interval { scale: f64, low: usize, high: usize },
    Function(Arc<dyn Fn(Timestep) -> f64 + Send + Sync>),
}

impl GuidanceScale {
    /// Uses one scale at every timestep.
    ///
    /// # Errors
    /// [`ConfigError::GuidanceScale`] if it is not finite.
    pub fn constant(scale: f64) -> Result<Self, ConfigError> {
        check(scale)?;
        Ok(Self(Scale::Constant(scale)))
    }

    /// Uses `scale` at training timesteps from `low` to `high`, both included, and 1 elsewhere (arXiv:2404.07724).
    ///
    /// # Errors
    /// [`ConfigError::GuidanceScale`] if the scale is not finite, [`ConfigError::GuidanceInterval`] if `high < low`.
    pub fn interval(scale: f64, low: usize, high: usize) -> Result<Self, ConfigError> {
        check(scale)?;
        if high < low {
            return Err(ConfigError::GuidanceInterval { low, high });
        }
        Ok(Self(Scale::Interval { scale, low, high }))
    }

    /// Uses a scale that is a pure function of the timestep.
    ///
    /// Where it is not finite the prediction is not either, and the run stops there.
    pub fn function(scale: impl Fn(Timestep) -> f64 + Send + Sync + 'static) -> Self {
        Self(Scale::Function(Arc::new(scale)))
    }

    /// Returns the scale at a timestep.
    pub fn at(&self, t: Timestep) -> f64 {
        match &self.0 {
            Scale::Constant(scale) => *scale,
            Scale::Interval { scale, low, high } if (*low..=*high).contains(&t.get()) => *scale,
            Scale::Interval { .. } => 1.0,
            Scale::Function(scale) => scale(t),
        }
    }
}

fn check(scale: f64) -> Result<(), ConfigError> {
    if scale.is_finite() { Ok(()) } else { Err(ConfigError::GuidanceScale(scale)) }
}

impl fmt::Debug for GuidanceScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Scale::Constant(scale) => write!(f, "GuidanceScale({scale})"),
            Scale::Interval { scale, low, high } => write!(f, "GuidanceScale({scale} at {low}..={high})"),
            Scale::Function(_) => write!(f, "GuidanceScale(function)"),
        }
    }
}

/// A predictor under classifier-free guidance, `n + s (p - n)` (arXiv:2207.12598).
///
/// `p` and `n` are the predictions under the two conditions of a [`Guidance`], combined in `f64`. Both are asked for in one
/// [`NoisePredictor::predict_pair`], which a model may answer with one batch of two.
#[derive(Clone, Debug)]
pub struct Guided<P> {
    predictor: P,
    scale: GuidanceScale,
}

impl<P> Guided<P> {
    /// Guides a predictor.
    pub fn new(predictor: P, scale: GuidanceScale) -> Self {
        Self { predictor, scale }
    }
}

impl<P> NoisePredictor for Guided<P>
where
    P: NoisePredictor,
    P::Condition: Sized,
{
    type Condition = Guidance<P::Condition>;
    type Error = P::Error;

    fn predict(
        &self,
        latents: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &Self::Condition,
    ) -> Result<Latents, Self::Error> {
        let Guidance { positive, negative } = condition;
        let scale = self.scale.at(t);
        if scale == 1.0 {
            return self.predictor.predict(latents, t, positive);
        }
        if scale == 0.0 {
            return self.predictor.predict(latents, t, negative);
        }
        let [positive, mut guided] = self.predictor.predict_pair(latents, t, [positive, negative])?;
        // A model whose two answers differ in shape is left to the sampler's shape check.
        if positive.shape() == guided.shape() {
            Zip::from(&mut guided).and(&positive).for_each(|n, &p| *n += scale * (p - *n));
            Ok(guided)
        } else {
            Ok(positive)
        }
    }
}
