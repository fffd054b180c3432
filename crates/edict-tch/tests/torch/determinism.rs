//! Equal arguments give equal bits, from call to call and from thread to thread, with one number of threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oracle;
use crate::oracle::{raw, rounding, values};
use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType};
use edict_tch::TchBackend;
use ndarray::ArrayD;

/// Runs every operation that forms sums or splits work, at sizes that are split among threads.
fn run(backend: &TchBackend) -> Vec<ArrayD<f64>> {
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

#[track_caller]
fn assert_same_bits(first: &[ArrayD<f64>], second: &[ArrayD<f64>], what: &str) {
    for (i, (first, second)) in first.iter().zip(second).enumerate() {
        assert_eq!(first.shape(), second.shape());
        let differing = first.iter().zip(second).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!(differing, 0, "{what}: operation {i} differs in {differing} of {} elements", first.len());
    }
}

/// PyTorch has one number of threads for the process; these tests change it.
static THREADS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn equal_arguments_give_equal_bits() {
    let _alone = alone();
    for dtype in oracle::DTYPES {
        for threads in [1, 2, 3] {
            let backend = TchBackend::cpu(dtype).unwrap().with_threads(threads).unwrap();
            let first = run(&backend);
            run(&backend.with_dtype(DType::F64));
            assert_same_bits(&first, &run(&backend), &format!("{dtype}, {threads} threads, again"));
            // Another thread has its own OpenMP team, and starts with another number of threads.
            let elsewhere = std::thread::scope(|scope| scope.spawn(|| run(&backend)).join().unwrap());
            assert_same_bits(&first, &elsewhere, &format!("{dtype}, {threads} threads, from another thread"));
        }
    }
}

#[test]
fn other_numbers_of_threads_differ_by_roundoff_at_most() {
    let _alone = alone();
    for dtype in oracle::DTYPES {
        let one = run(&TchBackend::cpu(dtype).unwrap().with_threads(1).unwrap());
        for threads in [2, 3, 5] {
            let several = run(&TchBackend::cpu(dtype).unwrap().with_threads(threads).unwrap());
            for (i, (one, several)) in one.iter().zip(&several).enumerate() {
                let largest = one.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                let error = (one - several).iter().fold(0.0f64, |a, b| a.max(b.abs())) / largest;
                // Where a thread's share ends in the middle of a vector, PyTorch goes on with another erf and another exp.
                assert!(
                    error <= 4.0 * rounding(dtype),
                    "{dtype}, {threads} threads, operation {i}: {error:e}"
                );
            }
        }
    }
}

#[test]
fn uses_the_threads_asked_for() {
    let _alone = alone();
    let backend = TchBackend::cpu(DType::F32).unwrap().with_threads(3).unwrap();
    assert_eq!(backend.threads(), 3);
    run(&backend);
    assert_eq!(tch::get_num_threads(), 3);
    assert_eq!(backend.clone().with_threads(1).unwrap().threads(), 1);
    let all = std::thread::available_parallelism().unwrap().get();
    assert_eq!(backend.with_threads(0).unwrap().threads(), all);
    let error = TchBackend::cpu(DType::F32).unwrap().with_threads(usize::MAX).unwrap_err();
    assert!(error.to_string().contains(&usize::MAX.to_string()), "{error}");
}
