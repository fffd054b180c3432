//! Two back ends that share nothing but the networks' definition: candle and PyTorch agree on every component of the tiny models.

#[allow(dead_code, unreachable_pub)]
#[path = "support/golden.rs"]
mod golden;

use edict_candle::CandleBackend;
use edict_stable_diffusion::{Backend, DType, ModelFolder, TextEncoder, UNet, Vae};
use edict_tch::TchBackend;
use edict_testkit::normal;
use golden::{model, relative_error};
use ndarray::ArrayD;

const MODELS: [&str; 3] = ["tiny-sd1", "tiny-sd2", "tiny-legacy"];

/// f64: some hundred layers of roundoff at 1e-16, with much to spare. f32: the same at 6e-8.
const BOUNDS: [(DType, f64); 2] = [(DType::F64, 1e-9), (DType::F32, 1e-4)];

type Component = (&'static str, ArrayD<f64>);

/// Everything that a model's networks compute; `shift` moves what they are asked.
fn components<B: Backend>(backend: &B, folder: &ModelFolder, shift: f64) -> Vec<Component> {
    let text =
        TextEncoder::load(backend, folder.text_encoder_weights(), folder.text_encoder_config()).unwrap();
    let unet = UNet::load(backend, folder.unet_weights(), folder.unet_config()).unwrap();
    let vae = Vae::load(backend, folder.vae_weights(), folder.vae_config()).unwrap();

    let prompts =
        ["a photo of a cat", ""].map(|prompt| folder.tokenizer().unwrap().encode(prompt).unwrap().to_batch());
    let states = prompts.map(|ids| text.encode(ids.view()).unwrap());
    // Not square, so that no axis can stand for another.
    let factor = folder.vae_config().factor();
    let image = normal(&[1, 3, 8 * factor, 4 * factor], 1).mapv(|x| (x / 3.0 + shift).clamp(-1.0, 1.0));
    let posterior = vae.encode(image.view()).unwrap();
    let latents = normal(&[2, folder.unet_config().in_channels, 8, 6], 2) + shift;
    let both = ndarray::concatenate(ndarray::Axis(0), &[states[0].view(), states[1].view()]).unwrap();
    let at = |timestep| unet.predict(latents.view(), timestep, &unet.context(both.view()).unwrap()).unwrap();
    let one = latents.slice_axis(ndarray::Axis(0), ndarray::Slice::from(..1)).to_owned();
    let alone = unet.predict(one.view(), 1, &unet.context(states[0].view()).unwrap()).unwrap();
    let decoded = vae.decode(posterior.mode().view()).unwrap();
    let [prompt, empty] = states;
    vec![
        ("text encoder", prompt),
        ("text encoder of nothing", empty),
        ("encoder's mean", posterior.mean().clone()),
        ("encoder's deviation", posterior.standard_deviation().clone()),
        ("decoder", decoded),
        ("U-Net of a pair at 981", at(981)),
        ("U-Net of a pair at 0", at(0)),
        ("U-Net alone", alone),
    ]
}

/// The largest error among components, relative to each one's largest element.
fn compare(name: &str, dtype: DType, found: &[Component], expected: &[Component]) -> f64 {
    let mut largest = 0.0f64;
    for ((component, found), (_, expected)) in found.iter().zip(expected) {
        let error = relative_error(found, expected);
        println!("{name} {component} {dtype}: {error:.1e}");
        assert!(!error.is_nan(), "{name} {component} {dtype}");
        largest = largest.max(error);
    }
    largest
}

#[test]
fn candle_and_pytorch_agree_on_every_component() {
    for name in MODELS {
        let folder = ModelFolder::open(model(name)).unwrap();
        for (dtype, bound) in BOUNDS {
            let found = components(&TchBackend::cpu(dtype), &folder, 0.0);
            let expected = components(&CandleBackend::cpu(dtype), &folder, 0.0);
            let error = compare(name, dtype, &found, &expected);
            assert!(error <= bound, "{name} at {dtype}: {error:e} is above {bound:e}");
            // They are two: bit for bit the same would mean that one was compared with itself.
            assert!(error > 0.0, "{name} at {dtype}: equal to the last bit");
        }
    }
}

#[test]
fn the_comparison_sees_a_small_difference() {
    let folder = ModelFolder::open(model("tiny-sd1")).unwrap();
    for (dtype, bound) in BOUNDS {
        let found = components(&TchBackend::cpu(dtype), &folder, 10.0 * bound);
        let expected = components(&CandleBackend::cpu(dtype), &folder, 0.0);
        let error = compare("moved", dtype, &found, &expected);
        assert!(error > bound, "{dtype}: {error:e} is within {bound:e}");
    }
}
