//! Exact inversion of diffusion models, independent of any tensor library.
//!
//! EDICT (arXiv:2211.12446) carries two coupled latents through a diffusion model so that every step can be undone: the noise
//! that turns into a given image is *found*, not approximated. This crate has the samplers; the network is yours, behind one
//! trait.
//!
//! * [`NoisePredictor`] is your model: latents, timestep and condition in, predicted noise out.
//! * [`NoiseSchedule`] is the table of alpha-bars it was trained with.
//! * [`Trajectory`] chooses the timesteps of a run: how many, how spaced, how much of the schedule.
//! * [`LatticeEdict`] walks a trajectory both ways, exact to the last bit; [`LatticeTwoStep`] (O-BELM, BDIA) at half the network
//!   calls; [`Edict`] and [`TwoStep`] are the same in floats, exact up to rounding; [`Ddim`] is the usual approximation to
//!   compare with.
//!
//! ```
//! use edict_core::{Edict, FnPredictor, Latents, NoiseSchedule, Sampler, Timestep, Trajectory};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any function of latents, timestep and condition can be the model; this one knows its data has variance 1/4.
//! let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000)?;
//! let table = schedule.clone();
//! let model = FnPredictor::new(move |z, t: Timestep, _prompt: &str| -> Latents {
//!     let bar = table.alpha_bars()[t.get()];
//!     z.mapv(|v| (1.0 - bar).sqrt() * v / (0.25 * bar + 1.0 - bar))
//! });
//! let trajectory = Trajectory::builder(50).strength(0.8).build(&schedule)?;
//! let edict = Edict::default();
//!
//! let image = Latents::from_shape_fn(vec![1, 4, 8, 8], |i| (i[2] as f64 - i[3] as f64) / 8.0);
//! let start = edict.state_from_image(&image, &trajectory)?;
//! let pair = edict.invert(&start, &trajectory, &model, "a photo", &mut ())?;
//! let back = edict.generate(&pair, &trajectory, &model, "a photo", &mut ())?;
//! let error = (&back.x - &image).iter().fold(0.0, |m: f64, d| m.max(d.abs()));
//! assert!(error < 1e-11);
//! # Ok(())
//! # }
//! ```
//!
//! # Conventions
//!
//! * `generate` goes from noise to image, `invert` from image to noise. Steps are numbered in generation order: step 0 is the
//!   noisiest of the run, whichever way a run goes.
//! * A *timestep* is an index into the training schedule, a *step* a position in the run.
//! * Latents are `f64` on the host ([`Latents`]), with a leading batch axis; a model casts to its own precision inside.
//! * alpha-bar is the signal's share of the variance: `z = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) eps`.
//! * Configuration errors ([`ConfigError`]) are raised on construction, never while sampling.
#![forbid(unsafe_code)]
// A panic on input is a bug: errors are typed.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ddim;
mod determinism;
mod edict;
mod error;
mod guidance;
mod latents;
mod lattice;
mod observer;
mod parameterization;
mod predictor;
mod record;
mod sampler;
mod schedule;
mod single_precision;
mod stability;
mod trajectory;
mod two_step;
mod update;

pub use ddim::Ddim;
pub use determinism::{DeterminismError, check_deterministic};
pub use edict::{CoupledPair, Edict, MixingWeight, UpdateOrder};
pub use error::{ConfigError, SampleError, StateError, StepError};
pub use guidance::{Guidance, GuidanceScale, Guided};
pub use latents::{Latents, narrow, widen};
pub use lattice::{Grid, LatticeEdict, LatticeNeighbours, LatticePair, LatticeTwoStep, Registers};
pub use observer::Observer;
pub use parameterization::{ParameterizationError, SamplePredictor, VelocityPredictor};
pub use predictor::{FnPredictor, NoisePredictor, Prediction, Timestep};
pub use record::{Recorded, prediction_hash};
pub use sampler::Sampler;
pub use schedule::NoiseSchedule;
pub use single_precision::SinglePrecision;
pub use stability::Stability;
pub use trajectory::{Step, TimestepSpacing, Trajectory, TrajectoryBuilder};
pub use two_step::{Neighbours, TwoStep, TwoStepRule};
