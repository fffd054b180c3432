//! The kernels, at the sizes they have in Stable Diffusion 1.5 for a picture of 512x512 under guidance, on one thread.
//!
//! Beside them what the machine could do: multiplications and additions in registers, and a copy of memory.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use edict_candle::{CandleBackend, Tensor};
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType, RawTensor};
use ndarray::ArrayD;
use pulp::{Arch, Simd, WithSimd};

fn wave(shape: &[usize]) -> ArrayD<f64> {
    let mut state = 1u32;
    ArrayD::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 23) - 1.0
    })
}

fn raw(shape: &[usize]) -> RawTensor<'static> {
    let data: Vec<u8> = wave(shape).iter().flat_map(|&x| (x as f32 * 0.05).to_le_bytes()).collect();
    RawTensor { dtype: DType::F32, shape: shape.to_vec(), data: Cow::Owned(data) }
}

struct Bench<'a> {
    criterion: &'a mut Criterion,
    backend: CandleBackend,
}

impl Bench<'_> {
    fn up(&self, shape: &[usize]) -> Tensor {
        let x = self.backend.upload(wave(shape).view()).unwrap();
        // Images lie in memory as the back end's own operations leave them.
        if shape.len() == 4 { self.backend.add(&x, &x).unwrap() } else { x }
    }

    /// Times a kernel; `amount` are its multiplications and additions, or its elements.
    fn time(&mut self, name: &str, amount: usize, kernel: impl Fn(&CandleBackend) -> Tensor) {
        let mut group = self.criterion.benchmark_group("kernels");
        // Ten samples of as many calls each: of ever more, as criterion does by itself, a kernel of half a second would take half a minute.
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
        group.throughput(Throughput::Elements(amount as u64));
        group.bench_function(name, |b| b.iter(|| black_box(kernel(&self.backend))));
        group.finish();
    }

    fn conv(&mut self, shape: [usize; 4], outputs: usize, kernel: usize, stride: usize) {
        let [batch, channels, height, width] = shape;
        let padding = kernel / 2;
        let geometry = Conv2dGeometry { stride, padding_before: padding, padding_after: padding };
        let weight = raw(&[outputs, channels, kernel, kernel]);
        let conv = self.backend.load_conv2d(weight, Some(raw(&[outputs])), geometry).unwrap();
        let x = self.up(&shape);
        let amount = 2 * batch * height * width / (stride * stride) * channels * outputs * kernel * kernel;
        let name =
            format!("conv {channels} to {outputs}, {kernel}x{kernel}, {height}x{width}, stride {stride}");
        self.time(&name, amount, |backend| backend.conv2d(&x, &conv).unwrap());
    }

    fn linear(&mut self, [batch, tokens, inputs]: [usize; 3], outputs: usize, gated: bool) {
        let x = self.up(&[batch, tokens, inputs]);
        let linear = self.backend.load_linear(raw(&[outputs, inputs]), Some(raw(&[outputs]))).unwrap();
        let amount = 2 * batch * tokens * inputs * outputs;
        let name =
            format!("linear{} {inputs} to {outputs}, {tokens} tokens", if gated { "_geglu" } else { "" });
        self.time(&name, amount, |backend| {
            if gated { backend.linear_geglu(&x, &linear) } else { backend.linear(&x, &linear) }.unwrap()
        });
    }

    fn attention(&mut self, [batch, tokens, channels]: [usize; 3], keys: usize, heads: usize) {
        let (query, key) = (self.up(&[batch, tokens, channels]), self.up(&[batch, keys, channels]));
        let name = format!("attention {tokens} x {keys}, {heads} heads of {}", channels / heads);
        self.time(&name, 4 * batch * tokens * keys * channels, |backend| {
            backend.attention(&query, &key, &key, heads, AttentionOptions::default()).unwrap()
        });
    }
}

fn kernels(criterion: &mut Criterion) {
    let backend = CandleBackend::cpu(DType::F32).with_threads(1).unwrap();
    let mut bench = Bench { criterion, backend };
    bench.conv([2, 320, 64, 64], 320, 3, 1);
    bench.conv([2, 1280, 16, 16], 1280, 3, 1);
    bench.conv([2, 2560, 8, 8], 1280, 3, 1);
    bench.conv([2, 320, 64, 64], 320, 3, 2);
    bench.conv([2, 320, 64, 64], 320, 1, 1);
    bench.conv([2, 4, 64, 64], 320, 3, 1);
    bench.conv([1, 256, 256, 256], 256, 3, 1);
    for (channels, tokens) in [(320, 4096), (640, 1024), (1280, 256)] {
        bench.linear([2, tokens, channels], channels, false);
        bench.linear([2, tokens, channels], 8 * channels, true);
        bench.linear([2, tokens, 4 * channels], channels, false);
        bench.attention([2, tokens, channels], tokens, 8);
        bench.attention([2, tokens, channels], 77, 8);
        let norm = bench.backend.load_norm(raw(&[channels]), raw(&[channels])).unwrap();
        let side = tokens.isqrt();
        let (x, image) = (bench.up(&[2, tokens, channels]), bench.up(&[2, channels, side, side]));
        let count = 2 * tokens * channels;
        bench.time(&format!("layer_norm {tokens}x{channels}"), count, |b| {
            b.layer_norm(&x, &norm, 1e-5).unwrap()
        });
        bench.time(&format!("group_norm_silu {channels}x{side}x{side}"), count, |b| {
            b.group_norm_silu(&image, &norm, 32, 1e-5).unwrap()
        });
    }
    bench.attention([1, 4096, 512], 4096, 1);
    let x = bench.up(&[2, 1280, 1280]);
    bench.time("silu", 2 * 1280 * 1280, |b| b.silu(&x).unwrap());
    bench.time("gelu", 2 * 1280 * 1280, |b| b.gelu(&x).unwrap());
}

/// Multiplies and adds in as many registers as hide the latency.
struct Peak;

/// Chains of operations that do not wait for one another.
const CHAINS: usize = 24;

/// Operations of a chain.
const LENGTH: usize = 100_000;

impl WithSimd for Peak {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (x, y) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.5)));
        let mut chains = [simd.splat_f32s(0.0); CHAINS];
        for _ in 0..LENGTH {
            for chain in &mut chains {
                *chain = simd.mul_add_e_f32s(*chain, x, y);
            }
        }
        chains.into_iter().map(|chain| simd.reduce_sum_f32s(chain)).sum()
    }
}

/// Tells how many elements of f32 fill a register.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

fn machine(criterion: &mut Criterion) {
    let arch = Arch::new();
    let mut group = criterion.benchmark_group("machine");
    group.throughput(Throughput::Elements((2 * CHAINS * LENGTH * arch.dispatch(Lanes)) as u64));
    group.bench_function("multiply and add in registers", |b| b.iter(|| arch.dispatch(Peak)));
    // Far larger than the second cache.
    let from = vec![1.0f32; 1 << 25];
    let mut to = vec![0.0f32; from.len()];
    group.sample_size(10).throughput(Throughput::Bytes(2 * 4 * from.len() as u64));
    group.bench_function("read and write memory", |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    group.finish();
}

criterion_group!(benches, machine, kernels);
criterion_main!(benches);
