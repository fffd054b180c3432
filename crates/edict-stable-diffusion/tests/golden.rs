//! The networks against the Python oracle, on a back end of plain loops.

mod support;

use edict_stable_diffusion::{DType, ModelFolder, TextEncoder, UNet, Vae};
use support::golden::{Golden, RUNS, image, model, relative_error};
use support::plain::Plain;

/// Independent f64 implementations agree to about 1e-13; single precision carries 6e-8 through some hundred layers.
const BOUNDS: [(DType, f64); 2] = [(DType::F64, 1e-9), (DType::F32, 5e-5)];

#[test]
fn text_encoder_agrees_with_the_oracle() {
    each(|folder, backend, golden, _, check| {
        let tokenizer = folder.tokenizer().unwrap();
        let encoder =
            TextEncoder::load(backend, folder.text_encoder_weights(), folder.text_encoder_config()).unwrap();
        for (name, prompt) in golden.prompts() {
            let states = encoder.encode(tokenizer.encode(&prompt).unwrap().to_batch().view()).unwrap();
            check(name, &states);
        }
    });
}

#[test]
fn unet_agrees_with_the_oracle() {
    each(|folder, backend, golden, _, check| {
        let unet = UNet::load(backend, folder.unet_weights(), folder.unet_config()).unwrap();
        let context = unet.context(golden.tensor("text_source").view()).unwrap();
        check("unet_out", &unet.predict(golden.tensor("image_latent").view(), 501, &context).unwrap());
    });
}

#[test]
fn autoencoder_agrees_with_the_oracle() {
    each(|folder, backend, golden, run, check| {
        let vae = Vae::load(backend, folder.vae_weights(), folder.vae_config()).unwrap();
        check("image_latent", &vae.encode(image(run).view()).unwrap().mode());
        check("decoded", &vae.decode(golden.tensor("image_latent").view()).unwrap());
    });
}

/// Runs a test for every golden file and precision; the last argument compares a result with the tensor it names.
fn each(
    test: impl Fn(&ModelFolder, &Plain, &Golden, support::golden::Run, &dyn Fn(&str, &ndarray::ArrayD<f64>)),
) {
    for run in RUNS {
        let folder = ModelFolder::open(model(run.model)).unwrap();
        let golden = Golden::open(run);
        for (dtype, bound) in BOUNDS {
            test(&folder, &Plain(dtype), &golden, run, &|name, found| {
                let error = relative_error(found, &golden.tensor(name));
                println!("{} {name} {dtype}: {error:.1e}", run.file);
                assert!(error <= bound, "{} {name} at {dtype}: {error:e} is above {bound:e}", run.file);
            });
        }
    }
}
