//! Equal arguments give equal bits: from call to call, and whatever the number of threads.

mod oracle;

use edict_candle::CandleBackend;
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType};
use ndarray::{ArrayD, Axis, Slice};
use oracle::{raw, values};

/// Runs every operation that forms sums or splits work, at sizes that are split among threads.
fn run(backend: &CandleBackend) -> Vec<ArrayD<f64>> {
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
fn run_ragged(backend: &CandleBackend) -> Vec<ArrayD<f64>> {
    let mut found = Vec::new();
    let mut keep = |y: edict_candle::Tensor| found.push(backend.download(&y).unwrap());
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
fn assert_same_bits(first: &[ArrayD<f64>], second: &[ArrayD<f64>], what: &str) {
    for (i, (first, second)) in first.iter().zip(second).enumerate() {
        assert_eq!(first.shape(), second.shape());
        let differing = first.iter().zip(second).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "{what}: operation {i} differs in {differing} of {} elements", first.len());
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for dtype in oracle::DTYPES {
        let one = run(&CandleBackend::cpu(dtype).with_threads(1).unwrap());
        for threads in [2, 3, 5] {
            let backend = CandleBackend::cpu(dtype).with_threads(threads).unwrap();
            assert_same_bits(&one, &run(&backend), &format!("{dtype}, {threads} threads"));
            assert_same_bits(
                &one,
                &backend.install(|| run(&backend)),
                &format!("{dtype}, {threads} threads, inside"),
            );
        }
        assert_same_bits(&one, &run(&CandleBackend::cpu(dtype)), &format!("{dtype}, the global threads"));
    }
}

#[test]
fn ragged_results_do_not_depend_on_the_number_of_threads() {
    for dtype in [DType::F32, DType::F64] {
        let one = run_ragged(&CandleBackend::cpu(dtype).with_threads(1).unwrap());
        for threads in [2, 3, 7] {
            let backend = CandleBackend::cpu(dtype).with_threads(threads).unwrap();
            assert_same_bits(&one, &run_ragged(&backend), &format!("{dtype}, {threads} threads"));
        }
    }
}

#[test]
fn items_of_a_batch_do_not_depend_on_one_another() {
    for dtype in [DType::F32, DType::F64] {
        let backend = CandleBackend::cpu(dtype).with_threads(2).unwrap();
        let up = |x: &ArrayD<f64>| backend.upload(x.view()).unwrap();
        let geometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };
        let load = |outputs: usize, inputs: usize| {
            let weight = raw(&values(&[outputs, inputs, 3, 3], 1));
            backend.load_conv2d(weight, Some(raw(&values(&[outputs], 2))), geometry).unwrap()
        };
        // Few channels, windows of slices, Winograd's.
        let convolutions = [(4, load(40, 4)), (52, load(33, 52)), (96, load(48, 96))];
        let linear = backend.load_linear(raw(&values(&[192, 52], 3)), Some(raw(&values(&[192], 4)))).unwrap();
        let norm = backend.load_norm(raw(&values(&[52], 5)), raw(&values(&[52], 6))).unwrap();
        let run = |select: &dyn Fn(ArrayD<f64>) -> ArrayD<f64>| -> Vec<ArrayD<f64>> {
            let mut found = Vec::new();
            for (channels, conv) in &convolutions {
                let image = up(&select(values(&[3, *channels, 21, 19], 7)));
                found.push(backend.conv2d(&image, conv).unwrap());
            }
            let image = up(&select(values(&[3, 52, 21, 19], 8)));
            let (query, key) =
                (up(&select(values(&[3, 101, 52], 9))), up(&select(values(&[3, 300, 52], 10))));
            found.push(backend.group_norm_silu(&image, &norm, 13, 1e-5).unwrap());
            found.push(backend.layer_norm(&query, &norm, 1e-5).unwrap());
            found.push(backend.linear(&query, &linear).unwrap());
            found.push(backend.linear_geglu(&query, &linear).unwrap());
            for causal in [false, true] {
                let options = AttentionOptions { causal, upcast: false };
                found.push(backend.attention(&query, &key, &key, 4, options).unwrap());
            }
            found.iter().map(|y| backend.download(y).unwrap()).collect()
        };
        let all = run(&|x| x);
        for item in 0..3 {
            let only = |x: &ArrayD<f64>| x.slice_axis(Axis(0), Slice::from(item..=item)).to_owned();
            let expected: Vec<_> = all.iter().map(&only).collect();
            assert_same_bits(&expected, &run(&|x| only(&x)), &format!("{dtype}, item {item} alone"));
        }
    }
}

#[test]
fn results_do_not_depend_on_what_ran_before() {
    let backend = CandleBackend::cpu(DType::F32);
    let first = run(&backend);
    run(&backend.with_dtype(DType::F64));
    assert_same_bits(&first, &run(&backend), "again");
}

#[test]
fn uses_the_threads_asked_for() {
    let backend = CandleBackend::cpu(DType::F32).with_threads(3).unwrap();
    assert_eq!(backend.threads(), 3);
    assert_eq!(backend.install(rayon::current_num_threads), 3);
    assert_eq!(backend.clone().with_threads(1).unwrap().threads(), 1);
}
