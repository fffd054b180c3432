//! Threads: each back end has its own number of them, and the last bits depend on it.

use edict_stable_diffusion::DType;
use edict_tch::TchBackend;

use crate::backend::determinism::run;
use crate::backend::oracle::{DTYPES, rounding};

#[test]
fn other_numbers_of_threads_differ_by_roundoff_at_most() {
    for dtype in DTYPES {
        let one = run(&TchBackend::cpu(dtype).with_threads(1).unwrap());
        for threads in [2, 3, 5] {
            let several = run(&TchBackend::cpu(dtype).with_threads(threads).unwrap());
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
    let backend = TchBackend::cpu(DType::F32).with_threads(3).unwrap();
    assert_eq!(backend.threads(), 3);
    run(&backend);
    assert_eq!(tch::get_num_threads(), 3);
    assert_eq!(backend.clone().with_threads(1).unwrap().threads(), 1);
    let all = std::thread::available_parallelism().unwrap().get();
    assert_eq!(backend.with_threads(0).unwrap().threads(), all);
    let error = TchBackend::cpu(DType::F32).with_threads(usize::MAX).unwrap_err();
    assert!(error.to_string().contains(&usize::MAX.to_string()), "{error}");
}
