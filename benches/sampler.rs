//! What the sampler itself costs: the state update with predictions given, and its share of an edit.
//!
//! Read the update as a ratio to the loop of the same run: machines differ, and drift.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edict::candle::CandleBackend;
use edict::stable_diffusion::{DType, ModelFolder, StableDiffusion, seeded_noise};
use edict::{
    CoupledPair, Edict, Guidance, GuidanceScale, Guided, Latents, LatticeEdict, LatticeTwoStep,
    NoisePredictor, NoiseSchedule, Sampler, Timestep, Trajectory, TwoStep,
};
use edict_testkit::{GaussianData, normal};
use ndarray::ArrayViewD;

/// Elements of a latent: a 512x512 picture of Stable Diffusion, and one far beyond any cache.
const SIZES: [usize; 2] = [1 << 14, 1 << 22];

/// A model whose answers lie ready, so that handing one over costs nothing.
struct Prepared(RefCell<Vec<Latents>>);

impl NoisePredictor for Prepared {
    type Condition = ();
    type Error = Infallible;

    fn predict(&self, z: ArrayViewD<'_, f64>, _: Timestep, _: &()) -> Result<Latents, Infallible> {
        Ok(self.0.borrow_mut().pop().unwrap_or_else(|| z.to_owned()))
    }
}

/// A step as one would write it by hand for two slices: a pass for `x`, and a pass for `y` with the mixing.
fn generate_by_hand(x: &mut [f64], y: &mut [f64], eps: [&[f64]; 2], (a, b): (f64, f64), p: f64) {
    for (x, e) in x.iter_mut().zip(eps[0]) {
        *x = a * *x + b * e;
    }
    let q = 1.0 - p;
    for ((x, y), e) in x.iter_mut().zip(y).zip(eps[1]) {
        *y = a * *y + b * e;
        *x = p * *x + q * *y;
        *y = p * *y + q * *x;
    }
}

/// The same backwards: a pass that undoes the mixing, because the network is asked about its result, and one for each update.
fn invert_by_hand(x: &mut [f64], y: &mut [f64], eps: [&[f64]; 2], (a, b): (f64, f64), p: f64) {
    let q = 1.0 - p;
    for (x, y) in x.iter_mut().zip(y.iter_mut()) {
        *y = (*y - q * *x) / p;
        *x = (*x - q * *y) / p;
    }
    for (y, e) in y.iter_mut().zip(eps[0]) {
        *y = (*y - b * e) / a;
    }
    for (x, e) in x.iter_mut().zip(eps[1]) {
        *x = (*x - b * e) / a;
    }
}

/// Times `step` on a state and two predictions that it owns, as a model hands them over: making them is not timed, letting go
/// of them is.
fn time_step<T: Clone>(
    iterations: u64,
    eps: &[Latents; 2],
    start: &T,
    mut step: impl FnMut(&mut T, Vec<Latents>),
) -> Duration {
    let mut elapsed = Duration::ZERO;
    for _ in 0..iterations {
        let (mut state, predictions) = (start.clone(), eps.to_vec());
        let begun = Instant::now();
        step(&mut state, predictions);
        elapsed += begun.elapsed();
    }
    elapsed
}

/// The run that everything is measured in, its schedule, and the model that leads to a state in its middle.
struct Setting {
    run: Trajectory,
    model: GaussianData,
}

impl Setting {
    fn new() -> Self {
        let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).unwrap();
        let run = Trajectory::builder(50).offset(1).build(&schedule).unwrap();
        Self { run, model: GaussianData::new(schedule, 1.0) }
    }

    /// Generates from noise down to a level.
    fn generated<S: Sampler>(&self, sampler: &S, latents: &Latents, level: usize) -> S::State {
        let (piece, _) = self.run.split_at(level).unwrap();
        let noise = sampler.state_from_noise(latents, &self.run).unwrap();
        sampler.generate(&noise, &piece, &self.model, &0.0, &mut ()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Inverts an image up to a level.
    fn inverted<S: Sampler>(&self, sampler: &S, latents: &Latents, level: usize) -> S::State {
        let (_, piece) = self.run.split_at(level).unwrap();
        let image = sampler.state_from_image(latents, &self.run).unwrap();
        sampler.invert(&image, &piece, &self.model, &0.0, &mut ()).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// In the middle of the run, `x` first.
const MIDDLE: usize = 24;

/// Times that many steps.
type Contender = (&'static str, Box<dyn Fn(u64) -> Duration>);

/// Which way a step goes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Generate,
    Invert,
}

fn update(criterion: &mut Criterion) {
    for (size, rounds) in SIZES.into_iter().zip([400, 15]) {
        for (name, way) in [("generate", Way::Generate), ("invert", Way::Invert)] {
            let contenders = [
                by_hand(way, size),
                step("edict", Edict::default(), way, size),
                step("lattice edict", LatticeEdict::default(), way, size),
                step("two-step", TwoStep::default(), way, size),
                step("lattice two-step", LatticeTwoStep::default(), way, size),
            ];
            let mut group = criterion.benchmark_group(format!("update, {name}"));
            group.throughput(Throughput::Elements(size as u64));
            group.measurement_time(Duration::from_secs(3)).sample_size(20);
            for (name, time) in &contenders {
                group.bench_function(BenchmarkId::new(*name, size), |bencher| bencher.iter_custom(time));
            }
            group.finish();
            in_turn(&contenders, name, size, rounds);
        }
    }
}

/// Prints the ratios to the first contender, each taken within one round and the median of those: a busy machine slows all
/// that are in a round.
fn in_turn(contenders: &[Contender], way: &str, size: usize, rounds: usize) {
    let steps = 1 + (1 << 16) / size as u64;
    let times: Vec<Vec<f64>> = (0..rounds)
        .map(|_| contenders.iter().map(|(_, time)| time(steps).as_secs_f64() / steps as f64).collect())
        .collect();
    for (i, (name, _)) in contenders.iter().enumerate() {
        let ratio = median(times.iter().map(|round| round[i] / round[0]));
        let time = median(times.iter().map(|round| round[i])) / size as f64 * 1e9;
        println!("in turn, {size} elements: {name}, {way}: {time:.2} ns an element pair, ratio {ratio:.2}");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn predictions(size: usize) -> [Latents; 2] {
    [normal(&[1, size], 3), normal(&[1, size], 4)]
}

fn by_hand(way: Way, size: usize) -> Contender {
    let coefficients = Setting::new().run.steps()[MIDDLE].coefficients();
    let eps = predictions(size);
    let start = CoupledPair { x: &eps[0] * 0.5, y: &eps[1] * 0.5 };
    let by_hand = if way == Way::Invert { invert_by_hand } else { generate_by_hand };
    let time = move |iterations| {
        time_step(iterations, &eps, &start, |CoupledPair { x, y }, predictions| {
            let (x, y) = (x.as_slice_mut().unwrap(), y.as_slice_mut().unwrap());
            let eps = [predictions[0].as_slice().unwrap(), predictions[1].as_slice().unwrap()];
            by_hand(black_box(x), black_box(y), eps, coefficients, 0.93);
        })
    };
    ("by hand", Box::new(time))
}

fn step<S: Sampler + 'static>(name: &'static str, sampler: S, way: Way, size: usize) -> Contender {
    let (setting, eps) = (Setting::new(), predictions(size));
    let start = match way {
        Way::Generate => setting.generated(&sampler, &eps[0], MIDDLE),
        Way::Invert => setting.inverted(&sampler, &eps[0], MIDDLE + 1),
    };
    let time = move |iterations| {
        let (run, step) = (&setting.run, &setting.run.steps()[MIDDLE]);
        time_step(iterations, &eps, &start, |state, predictions| {
            let model = Prepared(RefCell::new(predictions));
            match way {
                Way::Generate => sampler.generate_step(state, run, step, &model, &()).unwrap(),
                Way::Invert => sampler.invert_step(state, run, step, &model, &()).unwrap(),
            }
        })
    };
    (name, Box::new(time))
}

/// Whole runs, less what happens inside the predictor; of large latents ten steps, among which is the one whose low bits the
/// lattice moves to a carry plane.
fn run(_: &mut Criterion) {
    for (size, levels, rounds) in [(SIZES[0], 0..50, 60), (SIZES[1], 34..44, 5)] {
        for (name, way) in [("generate", Way::Generate), ("invert", Way::Invert)] {
            let contenders = [
                walk("edict", Edict::default(), way, size, &levels),
                walk("lattice edict", LatticeEdict::default(), way, size, &levels),
                walk("two-step", TwoStep::default(), way, size, &levels),
                walk("lattice two-step", LatticeTwoStep::default(), way, size, &levels),
            ];
            in_turn(&contenders, &format!("a step of a run, {name}"), size, rounds);
        }
    }
}

/// Times a step of a run, the copy of the state at its start included.
fn walk<S: Sampler + 'static>(
    name: &'static str,
    sampler: S,
    way: Way,
    size: usize,
    levels: &Range<usize>,
) -> Contender {
    let (setting, [latents, _]) = (Setting::new(), predictions(size));
    let piece = setting.run.split_at(levels.end).unwrap().0.split_at(levels.start).unwrap().1;
    let start = match way {
        Way::Generate => setting.generated(&sampler, &latents, levels.start),
        Way::Invert => setting.inverted(&sampler, &latents, levels.end),
    };
    let once = move || {
        let timed = Timed { predictor: &setting.model, inside: Cell::default() };
        let begun = Instant::now();
        let end = match way {
            Way::Generate => sampler.generate(&start, &piece, &timed, &0.0, &mut ()),
            Way::Invert => sampler.invert(&start, &piece, &timed, &0.0, &mut ()),
        };
        let elapsed = begun.elapsed() - timed.inside.get();
        black_box(end.unwrap_or_else(|error| panic!("{error}")));
        elapsed / piece.len() as u32
    };
    (name, Box::new(move |runs| (0..runs).map(|_| once()).sum()))
}

/// Times what happens inside a predictor.
struct Timed<P> {
    predictor: P,
    inside: Cell<Duration>,
}

impl<P: NoisePredictor> Timed<P> {
    fn time<R>(&self, call: impl FnOnce(&P) -> R) -> R {
        let begun = Instant::now();
        let result = call(&self.predictor);
        self.inside.set(self.inside.get() + begun.elapsed());
        result
    }
}

impl<P: NoisePredictor> NoisePredictor for Timed<P> {
    type Condition = P::Condition;
    type Error = P::Error;

    fn predict(
        &self,
        z: ArrayViewD<'_, f64>,
        t: Timestep,
        condition: &P::Condition,
    ) -> Result<Latents, P::Error> {
        self.time(|predictor| predictor.predict(z, t, condition))
    }

    fn predict_pair(
        &self,
        z: ArrayViewD<'_, f64>,
        t: Timestep,
        conditions: [&P::Condition; 2],
    ) -> Result<[Latents; 2], P::Error> {
        self.time(|predictor| predictor.predict_pair(z, t, conditions))
    }
}

/// A guided edit of the tiny model: how much of it is not network calls.
fn overhead(criterion: &mut Criterion) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/tiny-sd1");
    let folder = ModelFolder::open(folder).unwrap();
    let model = StableDiffusion::load(&CandleBackend::cpu(DType::F32), &folder).unwrap();
    let trajectory = model.trajectory(20, 0.8).unwrap();
    let prompts = ["a photo", "a painting", ""].map(|prompt| model.encode_prompt(prompt).unwrap());
    let [source, target, negative] = prompts;
    let source = Guidance { positive: source, negative: negative.clone() };
    let target = Guidance { positive: target, negative };
    let latents = seeded_noise(&[1, 4, 8, 8], 1);
    let sampler = Edict::default();

    let (mut total, mut inside) = (Duration::ZERO, Duration::ZERO);
    let mut group = criterion.benchmark_group("edit");
    group.sample_size(10);
    group.bench_function("tiny model, 20 steps", |bencher| {
        bencher.iter(|| {
            let timed = Timed { predictor: model.predictor(), inside: Cell::default() };
            let guided = Guided::new(&timed, GuidanceScale::constant(3.0).unwrap());
            let begun = Instant::now();
            let start = CoupledPair::equal_to(&latents);
            let noise = sampler.invert(&start, &trajectory, &guided, &source, &mut ()).unwrap();
            let edited = sampler.generate(&noise, &trajectory, &guided, &target, &mut ()).unwrap();
            total += begun.elapsed();
            inside += timed.inside.get();
            edited
        });
    });
    group.finish();
    // Nothing was timed where a filter left this bench out.
    if !total.is_zero() {
        let share = 100.0 * (1.0 - inside.as_secs_f64() / total.as_secs_f64());
        println!("outside the network calls: {share:.3}% of the edit's time");
    }
}

criterion_group!(benches, update, run, overhead);
criterion_main!(benches);
