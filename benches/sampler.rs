//! What the sampler itself costs: the state update with predictions given, and its share of an edit.
//!
//! Read the update as a ratio to the loop of the same run: machines differ, and drift.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
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

type Group<'c> = BenchmarkGroup<'c, WallTime>;

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

fn update(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("update");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for size in SIZES {
        group.throughput(Throughput::Elements(size as u64));
        let eps = [normal(&[1, size], 3), normal(&[1, size], 4)];
        by_hand(&mut group, &eps);
        steps(&mut group, "edict", Edict::default(), &eps);
        steps(&mut group, "lattice edict", LatticeEdict::default(), &eps);
        steps(&mut group, "two-step", TwoStep::default(), &eps);
        steps(&mut group, "lattice two-step", LatticeTwoStep::default(), &eps);
    }
    group.finish();
}

fn by_hand(group: &mut Group, eps: &[Latents; 2]) {
    let coefficients = Setting::new().run.steps()[MIDDLE].coefficients();
    let start = CoupledPair { x: &eps[0] * 0.5, y: &eps[1] * 0.5 };
    for (name, by_hand) in [
        ("by hand, generate", generate_by_hand as fn(&mut [f64], &mut [f64], [&[f64]; 2], (f64, f64), f64)),
        ("by hand, invert", invert_by_hand),
    ] {
        group.bench_function(BenchmarkId::new(name, eps[0].len()), |bencher| {
            bencher.iter_custom(|iterations| {
                time_step(iterations, eps, &start, |CoupledPair { x, y }, predictions| {
                    let (x, y) = (x.as_slice_mut().unwrap(), y.as_slice_mut().unwrap());
                    let eps = [predictions[0].as_slice().unwrap(), predictions[1].as_slice().unwrap()];
                    by_hand(black_box(x), black_box(y), eps, coefficients, 0.93);
                })
            });
        });
    }
}

fn steps<S: Sampler>(group: &mut Group, name: &str, sampler: S, eps: &[Latents; 2]) {
    let setting = Setting::new();
    let (run, step) = (&setting.run, &setting.run.steps()[MIDDLE]);
    let start = setting.generated(&sampler, &eps[0], MIDDLE);
    group.bench_function(BenchmarkId::new(format!("{name}, generate"), eps[0].len()), |bencher| {
        bencher.iter_custom(|iterations| {
            time_step(iterations, eps, &start, |state, predictions| {
                let model = Prepared(RefCell::new(predictions));
                sampler.generate_step(state, run, step, &model, &()).unwrap();
            })
        });
    });
    let start = setting.inverted(&sampler, &eps[0], MIDDLE + 1);
    group.bench_function(BenchmarkId::new(format!("{name}, invert"), eps[0].len()), |bencher| {
        bencher.iter_custom(|iterations| {
            time_step(iterations, eps, &start, |state, predictions| {
                let model = Prepared(RefCell::new(predictions));
                sampler.invert_step(state, run, step, &model, &()).unwrap();
            })
        });
    });
}

/// Whole runs, less what happens inside the predictor; of large latents ten steps, among which is the one whose low bits the
/// lattice moves to a carry plane.
fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run");
    group.measurement_time(Duration::from_secs(3)).sample_size(10);
    for (size, levels) in [(SIZES[0], 0..50), (SIZES[1], 34..44)] {
        group.throughput(Throughput::Elements((size * levels.len()) as u64));
        let latents = normal(&[1, size], 3);
        runs(&mut group, "edict", Edict::default(), &latents, &levels);
        runs(&mut group, "lattice edict", LatticeEdict::default(), &latents, &levels);
        runs(&mut group, "two-step", TwoStep::default(), &latents, &levels);
        runs(&mut group, "lattice two-step", LatticeTwoStep::default(), &latents, &levels);
    }
    group.finish();
}

fn runs<S: Sampler>(group: &mut Group, name: &str, sampler: S, latents: &Latents, levels: &Range<usize>) {
    let setting = Setting::new();
    let piece = setting.run.split_at(levels.end).unwrap().0.split_at(levels.start).unwrap().1;
    let time = |run: &dyn Fn(&Timed<&GaussianData>) -> S::State| {
        let timed = Timed { predictor: &setting.model, inside: Cell::default() };
        let begun = Instant::now();
        black_box(run(&timed));
        begun.elapsed() - timed.inside.get()
    };
    let start = setting.generated(&sampler, latents, levels.start);
    group.bench_function(BenchmarkId::new(format!("{name}, generate"), latents.len()), |bencher| {
        bencher.iter_custom(|iterations| {
            let generate = |model: &Timed<&GaussianData>| {
                sampler.generate(&start, &piece, model, &0.0, &mut ()).unwrap_or_else(|e| panic!("{e}"))
            };
            (0..iterations).map(|_| time(&generate)).sum()
        });
    });
    let start = setting.inverted(&sampler, latents, levels.end);
    group.bench_function(BenchmarkId::new(format!("{name}, invert"), latents.len()), |bencher| {
        bencher.iter_custom(|iterations| {
            let invert = |model: &Timed<&GaussianData>| {
                sampler.invert(&start, &piece, model, &0.0, &mut ()).unwrap_or_else(|e| panic!("{e}"))
            };
            (0..iterations).map(|_| time(&invert)).sum()
        });
    });
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
    let share = 100.0 * (1.0 - inside.as_secs_f64() / total.as_secs_f64());
    println!("outside the network calls: {share:.3}% of the edit's time");
}

criterion_group!(benches, update, run, overhead);
criterion_main!(benches);
