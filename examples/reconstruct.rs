//! A picture to noise and back with Stable Diffusion, by EDICT and by DDIM.
//!
//! `cargo run --release --example reconstruct -- [MODEL_DIR IMAGE PROMPT]`; without arguments a tiny model with random weights
//! and a photograph of this repository are used.

use edict::candle::CandleBackend;
use edict::stable_diffusion::{
    DType, ModelFolder, Picture, StableDiffusion, latent_max_abs_error, pixel_mse, psnr,
};
use edict::{Ddim, LatticeEdict, Sampler};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, image, prompt] = match &arguments[..] {
        [model, image, prompt] => [model.as_str(), image, prompt],
        _ => [
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/tiny-sd1"),
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images/photo-64.png"),
            "a photo",
        ],
    };
    let model = StableDiffusion::load(&CandleBackend::cpu(DType::F32), &ModelFolder::open(model)?)?;
    let picture = Picture::open(image)?.prepare(None, model.factor())?.into_dyn();
    let prompt = model.encode_prompt(prompt)?;
    let latents = model.encode_images(picture.view())?.mode();
    let trajectory = model.trajectory(50, 0.8)?;
    let predictor = model.predictor();

    let edict = LatticeEdict::default();
    let start = edict.state_from_image(&latents, &trajectory)?;
    // What has to come back: the encoder's latents after one rounding to the lattice.
    let latents = edict.image(&start, &trajectory)?;
    let state = edict.invert(&start, &trajectory, &predictor, &prompt, &mut ())?;
    let state = edict.generate(&state, &trajectory, &predictor, &prompt, &mut ())?;
    let by_edict = edict.image(&state, &trajectory)?;
    assert_eq!(by_edict, latents, "to the last bit");
    let noise = Ddim.invert(&latents, &trajectory, &predictor, &prompt, &mut ())?;
    let by_ddim = Ddim.generate(&noise, &trajectory, &predictor, &prompt, &mut ())?;

    for (name, z) in [("encoder and decoder alone", &latents), ("EDICT", &by_edict), ("DDIM", &by_ddim)] {
        let error = latent_max_abs_error(z.view(), latents.view())?;
        let mse = pixel_mse(model.decode(z)?.view(), picture.view())?;
        println!("{name:<26} latent error {error:.1e}, pixels {:.4} dB", psnr(mse));
    }
    Ok(())
}
