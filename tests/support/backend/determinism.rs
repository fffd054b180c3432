//! Equal arguments give equal bits, from call to call and from thread to thread.

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType};
use ndarray::ArrayD;

use super::Tested;
use super::oracle::{DTYPES, raw, values};

/// Runs every operation that forms sums or splits work, at sizes that are split among threads.
pub(crate) fn run<B: Backend>(backend: &B) -> Vec<ArrayD<f64>> {
    let image = backend.upload(values(&[2, 64, 45, 37], 1).view()).unwrap();
    let tokens = backend.upload((values(&[2, 700, 64], 2) / 3.0).view()).unwrap();
    let geometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };
    let conv = backend
        .load_conv2d(raw(&values(&[72, 64, 3, 3], 3)), Some(raw(&values(&[72], 4))), geometry)
        .unwrap();
    // As many channels as the quicker way of convolving asks for.
    let wide_image = backend.upload(values(&[2, 96, 45, 37], 9).view()).unwrap();
    let wide = backend
        .load_conv2d(raw(&values(&[112, 96, 3, 3], 10)), Some(raw(&values(&[112], 11))), geometry)
        .unwrap();
    let linear = backend.load_linear(raw(&values(&[200, 64], 5)), Some(raw(&values(&[200], 6)))).unwrap();
    let norm = backend.load_norm(raw(&values(&[64], 7)), raw(&values(&[64], 8))).unwrap();
    let causal = AttentionOptions { causal: true, upcast: false };
    [
        backend.conv2d(&image, &conv),
        backend.conv2d(&wide_image, &wide),
        backend.linear(&tokens, &linear),
        backend.group_norm_silu(&image, &norm, 8, 1e-5),
        backend.layer_norm(&tokens, &norm, 1e-5),
        backend.attention(&tokens, &tokens, &tokens, 4, AttentionOptions::default()),
        backend.attention(&tokens, &tokens, &tokens, 1, causal),
        backend.geglu(&tokens),
        backend.add(&image, &image),
        backend.upsample_to(&image, 90, 74),
    ]
    .map(|y| backend.download(&y.unwrap()).unwrap())
    .into()
}

/// Runs the same at sizes that fill no block, panel or vector.
pub(crate) fn run_ragged<B: Backend>(backend: &B) -> Vec<ArrayD<f64>> {
    let mut found = Vec::new();
    let mut keep = |y: B::Tensor| found.push(backend.download(&y).unwrap());
    // (batch, channels, height, width, outputs, kernel, stride): odd channels, few channels, many outputs, Winograd's.
    for (batch, channels, height, width, outputs, kernel, stride) in [
        (2, 37, 31, 29, 41, 3, 1),
        (1, 4, 33, 67, 320, 3, 1),
        (3, 3, 41, 23, 7, 3, 2),
        (1, 61, 19, 53, 1, 1, 1),
        (3, 112, 17, 18, 144, 3, 1),
        (1, 128, 13, 150, 32, 3, 1),
    ] {
        let image = backend.upload(values(&[batch, channels, height, width], 1).view()).unwrap();
        let weight = values(&[outputs, channels, kernel, kernel], 2);
        let geometry = Conv2dGeometry { stride, padding_before: kernel / 2, padding_after: kernel / 2 };
        let conv = backend.load_conv2d(raw(&weight), Some(raw(&values(&[outputs], 3))), geometry).unwrap();
        keep(backend.conv2d(&image, &conv).unwrap());
    }
    for (batch, tokens, inputs, outputs) in
        [(1, 1, 1283, 331), (2, 385, 321, 97), (5, 77, 63, 1025), (1, 2, 40, 4096)]
    {
        let x = backend.upload(values(&[batch, tokens, inputs], 4).view()).unwrap();
        let linear = backend.load_linear(raw(&values(&[outputs, inputs], 5)), None).unwrap();
        keep(backend.linear(&x, &linear).unwrap());
        let gates =
            backend.load_linear(raw(&values(&[96, inputs], 6)), Some(raw(&values(&[96], 7)))).unwrap();
        keep(backend.linear_geglu(&x, &gates).unwrap());
    }
    for (batch, n, m, channels, heads) in [(1, 301, 517, 39, 3), (3, 97, 77, 40, 1), (2, 1, 700, 300, 1)] {
        let [query, key] = [(n, 8), (m, 9)]
            .map(|(tokens, seed)| backend.upload(values(&[batch, tokens, channels], seed).view()).unwrap());
        for causal in [false, true] {
            let options = AttentionOptions { causal, upcast: false };
            keep(backend.attention(&query, &key, &key, heads, options).unwrap());
        }
    }
    let image = backend.upload(values(&[3, 51, 37, 29], 10).view()).unwrap();
    let norm = backend.load_norm(raw(&values(&[51], 11)), raw(&values(&[51], 12))).unwrap();
    keep(backend.group_norm(&image, &norm, 17, 1e-5).unwrap());
    let tokens = backend.image_to_tokens(&image).unwrap();
    keep(backend.layer_norm(&tokens, &norm, 1e-5).unwrap());
    keep(backend.gelu(&tokens).unwrap());
    keep(backend.quick_gelu(&tokens).unwrap());
    found
}

#[track_caller]
pub(crate) fn assert_same_bits(first: &[ArrayD<f64>], second: &[ArrayD<f64>], what: &str) {
    for (i, (first, second)) in first.iter().zip(second).enumerate() {
        assert_eq!(first.shape(), second.shape());
        let differing = first.iter().zip(second).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "{what}: operation {i} differs in {differing} of {} elements", first.len());
    }
}

fn repeats_itself<T: Tested>(dtype: DType, run: impl Fn(&T::Backend) -> Vec<ArrayD<f64>> + Sync) {
    for threads in [1, 2, 3] {
        let backend = T::with_threads(dtype, threads);
        let first = run(&backend);
        run(&backend.with_dtype(DType::F64));
        assert_same_bits(&first, &run(&backend), &format!("{dtype}, {threads} threads, again"));
        // Another thread may have a team of its own, and start with another number of threads.
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| run(&backend)).join().unwrap());
        assert_same_bits(&first, &elsewhere, &format!("{dtype}, {threads} threads, from another thread"));
    }
}

pub(crate) fn equal_arguments_give_equal_bits<T: Tested>() {
    for dtype in DTYPES {
        repeats_itself::<T>(dtype, run);
    }
}

pub(crate) fn ragged_arguments_give_equal_bits<T: Tested>() {
    for dtype in [DType::F32, DType::F64] {
        repeats_itself::<T>(dtype, run_ragged);
    }
}

/// What a back end prepares for images of one shape may be prepared anew for others, here and in other threads at the same time.
pub(crate) fn convolutions_give_equal_bits_between_other_images<T: Tested>() {
    for (channels, outputs) in [(96, 112), (4, 33)] {
        let backend = T::cpu(DType::F32);
        let geometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };
        let conv = backend.load_conv2d(raw(&values(&[outputs, channels, 3, 3], 1)), None, geometry).unwrap();
        let convolve = |[batch, height, width]: [usize; 3]| {
            let image = backend.upload(values(&[batch, channels, height, width], 2).view()).unwrap();
            [backend.download(&backend.conv2d(&image, &conv).unwrap()).unwrap()]
        };
        let shapes = [[1, 8, 8], [2, 8, 8], [1, 24, 40]];
        let alone = shapes.map(convolve);
        for _ in 0..2 {
            for shape in [2, 2, 0, 1, 1, 0] {
                assert_same_bits(&alone[shape], &convolve(shapes[shape]), "after images of other shapes");
            }
        }
        std::thread::scope(|scope| {
            for (alone, shape) in alone.iter().zip(shapes) {
                scope.spawn(move || {
                    for _ in 0..20 {
                        assert_same_bits(alone, &convolve(shape), "beside images of other shapes");
                    }
                });
            }
        });
    }
}
