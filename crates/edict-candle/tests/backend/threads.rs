//! Equal arguments give equal bits, whatever the number of threads and whatever else is in the batch.

use edict_candle::CandleBackend;
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType};
use ndarray::{ArrayD, Axis, Slice};

use crate::backend::determinism::{assert_same_bits, run, run_ragged};
use crate::backend::oracle::{DTYPES, raw, values};

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for dtype in DTYPES {
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
fn uses_the_threads_asked_for() {
    let backend = CandleBackend::cpu(DType::F32).with_threads(3).unwrap();
    assert_eq!(backend.threads(), 3);
    assert_eq!(backend.install(rayon::current_num_threads), 3);
    assert_eq!(backend.clone().with_threads(1).unwrap().threads(), 1);
}
