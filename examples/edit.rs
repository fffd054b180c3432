//! Editing a picture: invert under the prompt that describes it, generate under the one wanted.
//!
//! `cargo run --release --example edit -- [MODEL_DIR IMAGE SOURCE TARGET OUT.png]`; without arguments a tiny model with random
//! weights is used, whose pictures show that everything runs and nothing else.

use edict::candle::CandleBackend;
use edict::stable_diffusion::{DType, ModelFolder, Picture, StableDiffusion, write_png};
use edict::{Guidance, GuidanceScale, Guided, LatticeEdict, Sampler};
use ndarray::{Axis, Ix3};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let output = std::env::temp_dir().join("edict-example-edit.png");
    let default = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/tiny-sd1"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images/shape-64.png"),
        "a small white diamond",
        "a large red circle",
        output.to_str().ok_or("the temporary directory's name is not UTF-8")?,
    ];
    let [model, image, source, target, output] = match &arguments[..] {
        [model, image, source, target, output] => [model.as_str(), image, source, target, output],
        _ => default,
    };
    let model = StableDiffusion::load(&CandleBackend::cpu(DType::F32), &ModelFolder::open(model)?)?;
    let picture = Picture::open(image)?.prepare(None, model.factor())?;
    let latents = model.encode_images(picture.view().into_dyn())?.mode();

    // 80% of 50 steps: the picture's layout is kept, and there is room for change.
    let trajectory = model.trajectory(50, 0.8)?;
    let predictor = Guided::new(model.predictor(), GuidanceScale::constant(3.0)?);
    let negative = model.encode_prompt("")?;
    let source = Guidance { positive: model.encode_prompt(source)?, negative: negative.clone() };
    let target = Guidance { positive: model.encode_prompt(target)?, negative };

    let edict = LatticeEdict::default();
    let start = edict.state_from_image(&latents, &trajectory)?;
    let noise = edict.invert(&start, &trajectory, &predictor, &source, &mut ())?;
    let edited = edict.generate(&noise, &trajectory, &predictor, &target, &mut ())?;

    let picture = model.decode(&edict.image(&edited, &trajectory)?)?;
    write_png(output, picture.index_axis(Axis(0), 0).into_dimensionality::<Ix3>()?)?;
    println!("wrote {output}");
    Ok(())
}
