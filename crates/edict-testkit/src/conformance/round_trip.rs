//! There and back by the exact samplers.

use std::fmt;

use edict_core::{
    Latents, LatticeEdict, LatticeNeighbours, LatticePair, LatticeTwoStep, NoisePredictor, NoiseSchedule,
    Registers, SampleError, Sampler, StateError, Trajectory, TwoStep, TwoStepRule,
};
use ndarray::ArrayViewD;

use super::predictions::check_latents;
use super::{ConformanceError, Difference};
use crate::{Call, Spy};

/// Where a round trip begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripStart {
    /// Image to noise and back.
    Image,
    /// Noise to image and back.
    Noise,
}

/// A round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// The method.
    pub method: &'static str,
    /// The number of steps.
    pub steps: usize,
    /// Where it begins.
    pub start: TripStart,
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, steps, start } = self;
        let way = match start {
            TripStart::Image => "from image to noise and back",
            TripStart::Noise => "from noise to image and back",
        };
        write!(f, "{method}, {steps} step{} {way}", if *steps == 1 { "" } else { "s" })
    }
}

/// An exact sampler, as a round trip needs it.
trait Exact: Sampler {
    /// Calls of the way out that the way back does not repeat.
    const NOT_REPEATED: usize;

    /// Compares what came back with what it began as.
    fn compare(
        &self,
        back: &Self::State,
        start: &Self::State,
        run: &Trajectory,
    ) -> Result<Difference, StateError>;
}

impl Exact for LatticeEdict {
    const NOT_REPEATED: usize = 0;

    fn compare(
        &self,
        back: &LatticePair,
        start: &LatticePair,
        run: &Trajectory,
    ) -> Result<Difference, StateError> {
        let pairs = [self.leave(back, run)?, self.leave(start, run)?];
        let [found, expected] = pairs.map(|pair| [pair.x, pair.y]);
        let largest = found.iter().zip(&expected).map(|(a, b)| Difference::of(a.view(), b.view()).largest);
        // The integers decide: they hold more than their latents.
        let (different, total) = integers_that_differ(back.registers(), start.registers());
        Ok(Difference { different, total, largest: largest.fold(0.0, f64::max) })
    }
}

/// Counts the elements in which registers differ, and all of them.
fn integers_that_differ(a: &Registers, b: &Registers) -> (usize, usize) {
    let total = a.values()[0].len();
    if a.values()[0].shape() != b.values()[0].shape() || a.carry().len() != b.carry().len() {
        return (total, total);
    }
    let [[v, w], [other_v, other_w]] = [a.values(), b.values()];
    let mut differs = vec![false; total];
    let values = v.iter().zip(other_v).zip(w.iter().zip(other_w));
    differs.iter_mut().zip(values).for_each(|(differs, ((v, ov), (w, ow)))| *differs = v != ov || w != ow);
    for (plane, other) in a.carry().iter().zip(b.carry()) {
        let bytes = plane.iter().zip(other);
        differs.iter_mut().zip(bytes).for_each(|(differs, (byte, other))| *differs |= byte != other);
    }
    (differs.into_iter().filter(|differs| *differs).count(), total)
}

impl Exact for LatticeTwoStep {
    // The first step of one latent alone: on the way back the state has two.
    const NOT_REPEATED: usize = 1;

    fn compare(
        &self,
        back: &LatticeNeighbours,
        start: &LatticeNeighbours,
        run: &Trajectory,
    ) -> Result<Difference, StateError> {
        let [found, expected] = [self.leave(back, run)?, self.leave(start, run)?];
        Ok(Difference::of(found.latents().view(), expected.latents().view()))
    }
}

/// Runs the exact samplers from image to noise to image and from noise to image to noise: EDICT, O-BELM and BDIA on the lattice, with
/// each of the given numbers of steps.
///
/// Every bit must come back, and on the way back the network must be asked the same questions in reverse. Of a predictor that passes
/// [`check_determinism`](super::check_determinism) this finds out what two calls in a row do not: answers that depend on what was
/// asked before. `latents` are taken for an image's and for noise.
///
/// # Errors
/// [`ConformanceError::RoundTrip`] and [`ConformanceError::Questions`]; [`ConformanceError::Run`] if a run cannot be made;
/// [`ConformanceError::Config`] if the schedule has not that many steps.
pub fn check_round_trips<P: NoisePredictor + ?Sized>(
    predictor: &P,
    schedule: &NoiseSchedule,
    latents: ArrayViewD<'_, f64>,
    condition: &P::Condition,
    steps: &[usize],
) -> Result<(), ConformanceError<P::Error>> {
    check_latents(&latents)?;
    let latents = latents.to_owned();
    let belm = LatticeTwoStep::default();
    let bdia = LatticeTwoStep::new(TwoStep::new(TwoStepRule::Bdia { gamma: 0.96 })?)?;
    for &steps in steps {
        // Where there is room, so that the last step changes something too: a schedule may end at the level of timestep 0.
        let room = schedule.timesteps().checked_div(steps).is_some_and(|stride| stride > 1);
        let run = Trajectory::builder(steps).offset(room.into()).build(schedule)?;
        for start in [TripStart::Image, TripStart::Noise] {
            let trip = |method| Trip { method, steps, start };
            let with = (predictor, condition);
            round_trip(&LatticeEdict::default(), trip("EDICT"), &run, &latents, with)?;
            round_trip(&belm, trip("O-BELM"), &run, &latents, with)?;
            round_trip(&bdia, trip("BDIA"), &run, &latents, with)?;
        }
    }
    Ok(())
}

fn round_trip<S, P>(
    sampler: &S,
    trip: Trip,
    run: &Trajectory,
    latents: &Latents,
    (predictor, condition): (&P, &P::Condition),
) -> Result<(), ConformanceError<P::Error>>
where
    S: Exact<State: Send + Sync + fmt::Debug + 'static>,
    P: NoisePredictor + ?Sized,
{
    let failed =
        |error: SampleError<P::Error, S::State>| ConformanceError::Run { trip, source: Box::new(error) };
    let spy = Spy::new(predictor);
    let start = match trip.start {
        TripStart::Image => sampler.state_from_image(latents, run),
        TripStart::Noise => sampler.state_from_noise(latents, run),
    }
    .map_err(|error| failed(error.into()))?;
    let inverting = trip.start == TripStart::Image;
    let walk = |from: &S::State, inverting: bool| {
        if inverting {
            sampler.invert(from, run, &spy, condition, &mut ())
        } else {
            sampler.generate(from, run, &spy, condition, &mut ())
        }
    };
    let end = walk(&start, inverting).map_err(failed)?;
    let mut asked = spy.take();
    asked.reverse();
    asked.truncate(asked.len().saturating_sub(S::NOT_REPEATED));
    let back = walk(&end, !inverting).map_err(failed)?;
    let again = spy.take();
    if let Some(call) = first_other_call(&again, &asked) {
        return Err(ConformanceError::Questions { trip, call, calls: asked.len() });
    }
    let difference = sampler.compare(&back, &start, run).map_err(|error| failed(error.into()))?;
    if difference.different > 0 {
        return Err(ConformanceError::RoundTrip { trip, difference });
    }
    Ok(())
}

/// The first call that is not the one expected.
fn first_other_call(calls: &[Call], expected: &[Call]) -> Option<usize> {
    let other = calls.iter().zip(expected).position(|(call, expected)| call != expected);
    other.or((calls.len() != expected.len()).then_some(expected.len().min(calls.len())))
}
