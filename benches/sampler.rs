//! What the sampler itself costs: the state update with predictions given, and its share of an edit.
//!
//! Read the update as a ratio to the loop of the same run: machines differ, and drift.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edict::candle::CandleBackend;
use edict::stable_diffusion::{DType, ModelFolder, StableDiffusion, seeded_noise};
use edict::{
    CoupledPair, Edict, Guidance, GuidanceScale, Guided, Latents, NoisePredictor, NoiseSchedule, Sampler,
    Timestep, Trajectory,
};
use edict_testkit::normal;
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

/// Times `step` on a pair and two predictions that it owns, as a model hands them over: making them is not timed, letting go
/// of them is.
fn time_step(
    iterations: u64,
    eps: &[Latents; 2],
    mut step: impl FnMut(&mut CoupledPair, Vec<Latents>),
) -> Duration {
    let start = CoupledPair { x: &eps[0] * 0.5, y: &eps[1] * 0.5 };
    let mut pair = start.clone();
    let mut elapsed = Duration::ZERO;
    for _ in 0..iterations {
        let predictions = eps.to_vec();
        let begun = Instant::now();
        step(&mut pair, predictions);
        elapsed += begun.elapsed();
        // Inversion expands the pair's difference at every step; begin anew before it leaves the range.
        if pair.x[[0, 0]].abs() > 1e6 {
            pair.clone_from(&start);
        }
    }
    elapsed
}

fn update(criterion: &mut Criterion) {
    let schedule = NoiseSchedule::scaled_linear(0.00085, 0.012, 1000).unwrap();
    let trajectory = Trajectory::builder(50).offset(1).build(&schedule).unwrap();
    let sampler = Edict::default();
    // In the middle of the run, x first.
    let step = trajectory.steps()[24];
    let mut group = criterion.benchmark_group("update");
    group.measurement_time(Duration::from_secs(5)).sample_size(20);
    for size in SIZES {
        group.throughput(Throughput::Elements(size as u64));
        let eps = [normal(&[1, size], 3), normal(&[1, size], 4)];
        for (name, by_hand) in [
            (
                "generate by hand",
                generate_by_hand as fn(&mut [f64], &mut [f64], [&[f64]; 2], (f64, f64), f64),
            ),
            ("invert by hand", invert_by_hand),
        ] {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    time_step(iterations, &eps, |CoupledPair { x, y }, predictions| {
                        let (x, y) = (x.as_slice_mut().unwrap(), y.as_slice_mut().unwrap());
                        let eps = [predictions[0].as_slice().unwrap(), predictions[1].as_slice().unwrap()];
                        by_hand(black_box(x), black_box(y), eps, step.coefficients(), 0.93);
                    })
                });
            });
        }
        for (name, invert) in [("generate_step", false), ("invert_step", true)] {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    time_step(iterations, &eps, |pair, predictions| {
                        let model = Prepared(RefCell::new(predictions));
                        let done = if invert {
                            sampler.invert_step(pair, &trajectory, &step, &model, &())
                        } else {
                            sampler.generate_step(pair, &trajectory, &step, &model, &())
                        };
                        done.unwrap();
                    })
                });
            });
        }
    }
    group.finish();
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

criterion_group!(benches, update, overhead);
criterion_main!(benches);
