//! Weights in half the memory.

use edict_candle::{CandleBackend, CandleError};
use edict_stable_diffusion::{Backend, DType, ModelFolder, UNet};

use crate::backend::golden::{Golden, RUNS, model, relative_error};
use crate::backend::networks::check;

#[test]
fn weights_in_half_the_memory_cost_their_own_rounding_only() {
    for (weights, unit) in [(DType::F16, 1.0 / 2048.0), (DType::BF16, 1.0 / 256.0)] {
        let backend = CandleBackend::cpu(DType::F32).with_weights(weights).unwrap();
        for run in RUNS {
            let folder = ModelFolder::open(model(run.model)).unwrap();
            let golden = Golden::open(run);
            let unet = UNet::load(&backend, folder.unet_weights(), folder.unet_config()).unwrap();
            let context = unet.context(golden.tensor("text_source").view()).unwrap();
            let found = unet.predict(golden.tensor("image_latent").view(), 501, &context).unwrap();
            let error = relative_error(&found, &golden.tensor("unet_out"));
            println!("{} weights in {weights}: {error:.1e}", run.file);
            // Errors of single weights are independent of one another: over many terms they do not add up to more than
            // a few roundings, where activations in the half format are rounded forty times in a row.
            assert!(error > 1e-6 && error <= 4.0 * unit, "{} {weights}: {error:e}", run.file);
        }
    }
}

#[test]
fn only_networks_in_f32_keep_weights_in_half_formats() {
    for (dtype, weights) in [(DType::F64, DType::F16), (DType::F16, DType::F16), (DType::F32, DType::F64)] {
        let error = CandleBackend::cpu(dtype).with_weights(weights).unwrap_err();
        assert!(matches!(error, CandleError::Weights { .. }), "{error}");
    }
    // The autoencoder's copy in another precision computes as it always does.
    let backend = CandleBackend::cpu(DType::F32).with_weights(DType::F16).unwrap().with_dtype(DType::F64);
    let run = RUNS[0];
    let folder = ModelFolder::open(model(run.model)).unwrap();
    let golden = Golden::open(run);
    let unet = UNet::load(&backend, folder.unet_weights(), folder.unet_config()).unwrap();
    let context = unet.context(golden.tensor("text_source").view()).unwrap();
    let found = unet.predict(golden.tensor("image_latent").view(), 501, &context).unwrap();
    check(run, "unet_out", DType::F64, &found, &golden);
}
