//! Stable Diffusion on candle against the Python oracle.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../tests/support/golden.rs"]
mod golden;

use edict_candle::{CandleBackend, CandleError};
use edict_stable_diffusion::{Backend, DType, ModelFolder, TextEncoder, UNet, Vae};
use golden::{Golden, RUNS, Run, image, model, relative_error};
use ndarray::{ArrayD, Axis, concatenate};

/// f64: independent implementations agree to about 1e-13. f32: roundoff of 6e-8 through some hundred layers. f16 and bf16,
/// whose networks round every layer to 11 and 8 bits, about forty times in a row: a bound on the U-Net alone.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-9,
        DType::F32 => 5e-5,
        DType::F16 => 40.0 / 2048.0,
        DType::BF16 => 40.0 / 256.0,
    }
}

fn check(run: Run, name: &str, dtype: DType, found: &ArrayD<f64>, golden: &Golden) {
    let error = relative_error(found, &golden.tensor(name));
    println!("{} {name} {dtype}: {error:.1e}", run.file);
    assert!(error <= bound(dtype), "{} {name} at {dtype}: {error:e} is above {:e}", run.file, bound(dtype));
}

fn each(dtypes: &[DType], test: impl Fn(&ModelFolder, &CandleBackend, DType, Run, &Golden)) {
    for run in RUNS {
        let folder = ModelFolder::open(model(run.model)).unwrap();
        let golden = Golden::open(run);
        for dtype in dtypes {
            test(&folder, &CandleBackend::cpu(*dtype), *dtype, run, &golden);
        }
    }
}

#[test]
fn text_encoder_agrees_with_the_oracle() {
    each(&[DType::F64, DType::F32], |folder, backend, dtype, run, golden| {
        let tokenizer = folder.tokenizer().unwrap();
        let encoder =
            TextEncoder::load(backend, folder.text_encoder_weights(), folder.text_encoder_config()).unwrap();
        for (name, prompt) in golden.prompts() {
            let ids = tokenizer.encode(&prompt).unwrap().to_batch();
            check(run, name, dtype, &encoder.encode(ids.view()).unwrap(), golden);
        }
    });
}

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

#[test]
fn unet_agrees_with_the_oracle() {
    each(&[DType::F64, DType::F32, DType::F16, DType::BF16], |folder, backend, dtype, run, golden| {
        let unet = UNet::load(backend, folder.unet_weights(), folder.unet_config()).unwrap();
        let context = unet.context(golden.tensor("text_source").view()).unwrap();
        let latents = golden.tensor("image_latent");
        let found = unet.predict(latents.view(), 501, &context).unwrap();
        check(run, "unet_out", dtype, &found, golden);
        assert_eq!(
            found,
            unet.predict(latents.view(), 501, &context).unwrap(),
            "equal arguments, equal bits"
        );
    });
}

#[test]
fn autoencoder_agrees_with_the_oracle() {
    // At 16 bits `force_upcast` makes these f32 runs, with nothing lost on the way.
    each(&[DType::F64, DType::F32, DType::F16, DType::BF16], |folder, backend, dtype, run, golden| {
        let vae = Vae::load(backend, folder.vae_weights(), folder.vae_config()).unwrap();
        let runs_in = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        assert_eq!(vae.dtype(), runs_in);
        check(run, "image_latent", runs_in, &vae.encode(image(run).view()).unwrap().mode(), golden);
        check(run, "decoded", runs_in, &vae.decode(golden.tensor("image_latent").view()).unwrap(), golden);
    });
}

#[test]
fn a_guided_pair_is_its_two_predictions() {
    each(&[DType::F64, DType::F32], |folder, backend, dtype, run, golden| {
        let unet = UNet::load(backend, folder.unet_weights(), folder.unet_config()).unwrap();
        let latents = golden.tensor("image_latent");
        let prompts = [golden.tensor("text_source"), golden.tensor("text_negative")];
        let alone = prompts
            .each_ref()
            .map(|states| unet.predict(latents.view(), 501, &unet.context(states.view()).unwrap()).unwrap());
        let stack = |[a, b]: [&ArrayD<f64>; 2]| concatenate(Axis(0), &[a.view(), b.view()]).unwrap();
        let context = unet.context(stack(prompts.each_ref()).view()).unwrap();
        let together = unet.predict(stack([&latents, &latents]).view(), 501, &context).unwrap();
        let error = relative_error(&together, &stack(alone.each_ref()));
        println!("{} pair {dtype}: {error:.1e}", run.file);
        assert!(error <= bound(dtype) / 10.0, "{} at {dtype}: {error:e}", run.file);
    });
}
