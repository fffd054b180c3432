//! What PyTorch's settings are before anybody makes any, hence one test in a process of its own.

use edict_core::{NoisePredictor, Timestep};
use edict_stable_diffusion::{DType, ModelFolder, StableDiffusion};
use edict_tch::TchBackend;
use edict_testkit::normal;

/// Until a number of threads is set, MKL chooses its own: another back end that set one would change the bits of this one.
#[test]
fn another_back_ends_threads_change_no_bits() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/models/tiny-sd2");
    let model =
        StableDiffusion::load(&TchBackend::cpu(DType::F64), &ModelFolder::open(folder).unwrap()).unwrap();
    let prompts = ["a photo of a cat", ""].map(|prompt| model.encode_prompt(prompt).unwrap());
    let latents = normal(&model.latent_shape(1, 48, 32), 7);
    let predict = || {
        let conditions = [&prompts[0], &prompts[1]];
        model.predictor().predict_pair(latents.view(), Timestep::new(500), conditions).unwrap()
    };
    let alone = predict();
    for threads in [1, 2, 3] {
        let other = TchBackend::cpu(DType::F64).with_threads(threads).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| StableDiffusion::load(&other, &ModelFolder::open(folder).unwrap()).unwrap());
        });
        assert_eq!(alone, predict(), "after a back end on {threads} threads");
    }
}
