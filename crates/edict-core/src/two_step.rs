//! The two-step samplers: O-BELM (arXiv:2410.07273) and BDIA (arXiv:2307.10829).

use crate::sampler::{finite, predict};
use crate::update::{FiniteCheck, advance, combine, retreat, uncombine};
use crate::{ConfigError, Latents, NoisePredictor, Sampler, StateError, Step, StepError, Trajectory};

/// Two neighbouring latents of a run: what a two-step sampler carries.
///
/// An image and fresh noise begin as one latent, and gain their neighbour at the first step.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    latents: Latents,
    neighbour: Option<Neighbour>,
    level: usize,
}

/// The latents across a transition.
#[derive(Clone, Debug, PartialEq)]
struct Neighbour {
    /// Index of the step between the two.
    step: usize,
    latents: Latents,
}

impl Neighbours {
    /// Makes the state of an image or of fresh noise, which has no neighbour yet, at a level of a run.
    pub fn alone(latents: Latents, level: usize) -> Self {
        Self { latents, neighbour: None, level }
    }

    /// Makes a state from the latents at `level` and those across the transition that `step` makes.
    ///
    /// # Errors
    /// [`StateError::PairShape`] if the shapes differ.
    pub fn new(latents: Latents, level: usize, neighbour: Latents, step: usize) -> Result<Self, StateError> {
        if latents.shape() != neighbour.shape() {
            return Err(StateError::PairShape { x: latents.shape().to_vec(), y: neighbour.shape().to_vec() });
        }
        Ok(Self { latents, neighbour: Some(Neighbour { step, latents: neighbour }), level })
    }

    /// Returns the latents at the level the state stands at.
    pub fn latents(&self) -> &Latents {
        &self.latents
    }

    /// Returns the neighbouring latents, if there are any: on the image's side at the noisy end of a run, on the noise's side at its
    /// image end.
    pub fn neighbour(&self) -> Option<&Latents> {
        self.neighbour.as_ref().map(|neighbour| &neighbour.latents)
    }

    /// Returns the index of the step between the two latents.
    pub fn step(&self) -> Option<usize> {
        self.neighbour.as_ref().map(|neighbour| neighbour.step)
    }

    /// Returns the level the state stands at: 0 at the noisy end of the run.
    pub fn level(&self) -> usize {
        self.level
    }
}

/// Which of the two-step samplers.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum TwoStepRule {
    /// O-BELM (arXiv:2410.07273): the two-step formula of the smallest local error. It has no parameter.
    #[default]
    Belm,
    /// BDIA-DDIM (arXiv:2307.10829) with `gamma` in `(0, 1]`.
    ///
    /// Inversion enlarges errors by `1 / gamma` a step; the smaller `gamma`, the closer to DDIM are the pictures.
    Bdia {
        /// The share of the last step that is taken back.
        gamma: f64,
    },
}

/// Exact inversion with one network call a step: O-BELM and BDIA.
///
/// With `u = z / alpha` of level `j`, its difference `d_j = u_{j+1} - u_j` and the noise-to-signal ratio's fall `h_j`, both make
///
/// ```text
/// d_j = -rho_j d_{j-1} - (h_j + rho_j h_{j-1}) eps(z_j, t_j)
/// ```
///
/// from two neighbouring latents, `rho_j = (h_j / h_{j-1})^2` for O-BELM and `gamma alpha_{j-1} / alpha_{j+1}` for BDIA; given
/// `z_j` and `z_{j+1}` the same line has `z_{j-1}`. The first step of an image or of fresh noise is DDIM's. Transitions of
/// zero width are passed over.
///
/// Rounding errors grow in inversion: [`LatticeTwoStep`](crate::LatticeTwoStep) is exact to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct TwoStep {
    rule: TwoStepRule,
}

impl TwoStep {
    /// Makes a sampler.
    ///
    /// # Errors
    /// [`ConfigError::Gamma`] unless `gamma` is in `(0, 1]`.
    pub fn new(rule: TwoStepRule) -> Result<Self, ConfigError> {
        match rule {
            TwoStepRule::Bdia { gamma } if !(gamma > 0.0 && gamma <= 1.0) => Err(ConfigError::Gamma(gamma)),
            _ => Ok(Self { rule }),
        }
    }

    /// Returns the rule.
    pub fn rule(&self) -> TwoStepRule {
        self.rule
    }

    /// Returns the numbers of the step `step` that follows `previous`.
    pub(crate) fn transition(&self, previous: &Step, step: &Step) -> Transition {
        let (last, next) = (width(previous), width(step));
        let rho = match self.rule {
            TwoStepRule::Belm => (next / last) * (next / last),
            TwoStepRule::Bdia { gamma } => gamma * previous.scale_from() / step.scale_to(),
        };
        Transition { rho, noise: next + rho * last }
    }

    /// Returns how much of each of the two latents and of the noise the step `step` after `previous` takes: `z_{j-1}`, `z_j`,
    /// `eps`.
    pub(crate) fn coefficients(&self, previous: &Step, step: &Step) -> [f64; 3] {
        let Transition { rho, noise } = self.transition(previous, step);
        let alpha = step.scale_to();
        [rho * alpha / previous.scale_from(), (1.0 - rho) * alpha / step.scale_from(), -noise * alpha]
    }
}

/// The numbers of a two-step update in `u = z / alpha`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Transition {
    /// What the last difference is multiplied by, with the sign turned.
    pub(crate) rho: f64,
    /// What the noise is multiplied by, with the sign turned.
    pub(crate) noise: f64,
}

/// The fall of the noise-to-signal ratio `sqrt((1 - A) / A)` over a step.
pub(crate) fn width(step: &Step) -> f64 {
    let ratio = |bar: f64| ((1.0 - bar) / bar).sqrt();
    ratio(step.alpha_bar_from()) - ratio(step.alpha_bar_to())
}

/// Whether a step changes the latents at all.
pub(crate) fn is_wide(step: &Step) -> bool {
    width(step) > 0.0
}

/// Returns the last step of the run before `level` that is not of zero width.
pub(crate) fn wide_before(run: &Trajectory, level: usize) -> Option<&Step> {
    run.run().iter().take(level).rfind(|step| is_wide(step))
}

/// Returns the first step of the run from `level` on that is not of zero width.
pub(crate) fn wide_from(run: &Trajectory, level: usize) -> Option<&Step> {
    run.run().iter().skip(level).find(|step| is_wide(step))
}

/// What a two-step sampler does at a step, given the step its state holds the transition of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Move<'t> {
    /// Nothing changes but the level: the step is of zero width.
    Stay,
    /// The state holds the latents across this step: it goes there.
    Cross,
    /// The state holds one latent: DDIM's step.
    Begin,
    /// The two-step update between these, the noisier first.
    Update([&'t Step; 2]),
}

/// Says what generation does at a step.
pub(crate) fn generating<'t>(run: &'t Trajectory, held: Option<usize>, step: &'t Step) -> Move<'t> {
    match (is_wide(step), held.and_then(|held| run.run().get(held))) {
        (false, _) => Move::Stay,
        (true, Some(held)) if held.index() == step.index() => Move::Cross,
        // `check_place` has seen to it that it is the step before.
        (true, Some(held)) => Move::Update([held, step]),
        (true, None) => Move::Begin,
    }
}

/// Says what inversion does at a step.
pub(crate) fn inverting<'t>(run: &'t Trajectory, held: Option<usize>, step: &'t Step) -> Move<'t> {
    match generating(run, held, step) {
        Move::Update([later, step]) => Move::Update([step, later]),
        other => other,
    }
}

/// Checks that a state which stands at `level`, and holds the transition of step `held`, can start a run from `start`.
pub(crate) fn check_place(
    run: &Trajectory,
    level: usize,
    held: Option<usize>,
    start: usize,
) -> Result<(), StateError> {
    let fits = |step: Option<&Step>| step.map(Step::index) == held;
    if level == start && (held.is_none() || fits(wide_before(run, level)) || fits(wide_from(run, level))) {
        return Ok(());
    }
    Err(StateError::Level { level, levels: run.run().len() + 1 })
}

impl Sampler for TwoStep {
    type State = Neighbours;

    fn state_from_image(&self, image: &Latents, run: &Trajectory) -> Result<Neighbours, StateError> {
        Ok(Neighbours::alone(image.clone(), run.run().len()))
    }

    fn state_from_noise(&self, noise: &Latents, _: &Trajectory) -> Result<Neighbours, StateError> {
        Ok(Neighbours::alone(noise.clone(), 0))
    }

    fn image(&self, state: &Neighbours, _: &Trajectory) -> Result<Latents, StateError> {
        Ok(state.latents.clone())
    }

    fn check(&self, state: &Neighbours, run: &Trajectory, level: usize) -> Result<(), StateError> {
        check_place(run, state.level, state.step(), level)?;
        for latents in [Some(&state.latents), state.neighbour()].into_iter().flatten() {
            if !FiniteCheck::of(latents).passed() {
                return Err(StateError::NonFinite { latent: "z" });
            }
        }
        Ok(())
    }

    fn generate_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut Neighbours,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let Neighbours { latents, neighbour, level } = state;
        *level = step.index() + 1;
        match generating(trajectory, neighbour.as_ref().map(|n| n.step), step) {
            Move::Stay => Ok(()),
            Move::Cross => {
                cross(latents, neighbour);
                Ok(())
            }
            Move::Begin => {
                let e = predict(predictor, latents, step, condition)?;
                let (a, b) = step.coefficients();
                let mut next = latents.clone();
                finite(advance(&mut next, &e, a, b), step)?;
                begin(latents, neighbour, next, step);
                Ok(())
            }
            Move::Update([previous, step]) => {
                let e = predict(predictor, latents, step, condition)?;
                let coefficients = self.coefficients(previous, step);
                let Some(neighbour) = neighbour else { return Ok(()) };
                finite(combine(&mut neighbour.latents, latents, &e, coefficients), step)?;
                std::mem::swap(latents, &mut neighbour.latents);
                neighbour.step = step.index();
                Ok(())
            }
        }
    }

    fn invert_step<P: NoisePredictor + ?Sized>(
        &self,
        state: &mut Neighbours,
        trajectory: &Trajectory,
        step: &Step,
        predictor: &P,
        condition: &P::Condition,
    ) -> Result<(), StepError<P::Error>> {
        let Neighbours { latents, neighbour, level } = state;
        *level = step.index();
        match inverting(trajectory, neighbour.as_ref().map(|n| n.step), step) {
            Move::Stay => Ok(()),
            Move::Cross => {
                cross(latents, neighbour);
                Ok(())
            }
            Move::Begin => {
                let e = predict(predictor, latents, step, condition)?;
                let (a, b) = step.coefficients();
                let mut next = latents.clone();
                finite(retreat(&mut next, &e, a, b), step)?;
                begin(latents, neighbour, next, step);
                Ok(())
            }
            Move::Update([previous, later]) => {
                // The update of generation from here was told the timestep of here: that of the later step.
                let e = predict(predictor, latents, later, condition)?;
                let coefficients = self.coefficients(previous, later);
                let Some(neighbour) = neighbour else { return Ok(()) };
                finite(uncombine(&mut neighbour.latents, latents, &e, coefficients), later)?;
                std::mem::swap(latents, &mut neighbour.latents);
                neighbour.step = previous.index();
                Ok(())
            }
        }
    }
}

fn cross(latents: &mut Latents, neighbour: &mut Option<Neighbour>) {
    if let Some(neighbour) = neighbour {
        std::mem::swap(latents, &mut neighbour.latents);
    }
}

fn begin(latents: &mut Latents, neighbour: &mut Option<Neighbour>, next: Latents, step: &Step) {
    let latents = std::mem::replace(latents, next);
    *neighbour = Some(Neighbour { step: step.index(), latents });
}
