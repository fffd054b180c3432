//! Back ends that have given exactness up, beside one that has not.

use edict_stable_diffusion::DType;
use edict_tch::TchBackend;

use crate::backend::determinism::{assert_same_bits, run};

/// Exactness is a setting of PyTorch's that the process has once: operations under either wait for each other. On the processor both
/// compute alike today, so that what this can show is that the waiting ends.
#[test]
fn fast_back_ends_leave_exact_ones_alone() {
    let exact = TchBackend::cpu(DType::F32);
    let alone = run(&exact);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let fast = TchBackend::cpu(DType::F32).with_fast_kernels(true);
            (0..5).for_each(|_| drop(run(&fast)));
        });
        loop {
            assert_same_bits(&alone, &run(&exact), "beside a fast back end, or after it");
            if other.is_finished() {
                break;
            }
        }
    });
}
