//! Stable Diffusion against the Python oracle.

use edict_stable_diffusion::{DType, ModelFolder, TextEncoder, UNet, Vae};
use ndarray::{ArrayD, Axis, concatenate};

use super::Tested;
use super::golden::{Golden, RUNS, Run, image, model, relative_error};

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

pub(crate) fn check(run: Run, name: &str, dtype: DType, found: &ArrayD<f64>, golden: &Golden) {
    let error = relative_error(found, &golden.tensor(name));
    println!("{} {name} {dtype}: {error:.1e}", run.file);
    assert!(error <= bound(dtype), "{} {name} at {dtype}: {error:e} is above {:e}", run.file, bound(dtype));
}

fn each<T: Tested>(dtypes: &[DType], test: impl Fn(&ModelFolder, &T::Backend, DType, Run, &Golden)) {
    for run in RUNS {
        let folder = ModelFolder::open(model(run.model)).unwrap();
        let golden = Golden::open(run);
        for dtype in dtypes {
            test(&folder, &T::cpu(*dtype), *dtype, run, &golden);
        }
    }
}

pub(crate) fn text_encoder_agrees_with_the_oracle<T: Tested>() {
    each::<T>(&[DType::F64, DType::F32], |folder, backend, dtype, run, golden| {
        let tokenizer = folder.tokenizer().unwrap();
        let encoder =
            TextEncoder::load(backend, folder.text_encoder_weights(), folder.text_encoder_config()).unwrap();
        for (name, prompt) in golden.prompts() {
            let ids = tokenizer.encode(&prompt).unwrap().to_batch();
            check(run, name, dtype, &encoder.encode(ids.view()).unwrap(), golden);
        }
    });
}

pub(crate) fn unet_agrees_with_the_oracle<T: Tested>() {
    each::<T>(&[DType::F64, DType::F32, DType::F16, DType::BF16], |folder, backend, dtype, run, golden| {
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

pub(crate) fn autoencoder_agrees_with_the_oracle<T: Tested>() {
    // At 16 bits `force_upcast` makes these f32 runs, with nothing lost on the way.
    each::<T>(&[DType::F64, DType::F32, DType::F16, DType::BF16], |folder, backend, dtype, run, golden| {
        let vae = Vae::load(backend, folder.vae_weights(), folder.vae_config()).unwrap();
        let runs_in = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        assert_eq!(vae.dtype(), runs_in);
        check(run, "image_latent", runs_in, &vae.encode(image(run).view()).unwrap().mode(), golden);
        check(run, "decoded", runs_in, &vae.decode(golden.tensor("image_latent").view()).unwrap(), golden);
    });
}

pub(crate) fn a_guided_pair_is_its_two_predictions<T: Tested>() {
    each::<T>(&[DType::F64, DType::F32], |folder, backend, dtype, run, golden| {
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

pub(crate) fn what_is_not_a_number_comes_out_of_the_network<T: Tested>() {
    // Attention may answer 0 where a query is not a number; what goes past it carries it on.
    each::<T>(&[DType::F64, DType::F32, DType::F16], |folder, backend, dtype, run, golden| {
        let unet = UNet::load(backend, folder.unet_weights(), folder.unet_config()).unwrap();
        let context = unet.context(golden.tensor("text_source").view()).unwrap();
        let mut latents = golden.tensor("image_latent");
        latents[[0, 1, 2, 3]] = f64::NAN;
        let found = unet.predict(latents.view(), 501, &context).unwrap();
        assert!(found.iter().all(|x| x.is_nan()), "{} at {dtype}", run.file);
    });
}
