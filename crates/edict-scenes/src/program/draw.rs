//! One picture.

use edict_scenes::{Scene, Wording};
use image::{ExtendedColorType, ImageEncoder};

use super::{Draw, ProgramError, say};

/// Writes a scene as a PNG and prints the caption that names every attribute.
pub(super) fn write(options: &Draw) -> Result<(), ProgramError> {
    let scene = Scene::from_seed(options.seed);
    let picture = scene.render(options.size)?;
    let mut png = Vec::new();
    let side = picture.side() as u32;
    image::codecs::png::PngEncoder::new_with_quality(
        &mut png,
        image::codecs::png::CompressionType::Best,
        image::codecs::png::FilterType::Adaptive,
    )
    .write_image(picture.bytes(), side, side, ExtendedColorType::Rgb8)
    .map_err(|source| ProgramError::Encode { path: options.out.clone(), source })?;
    std::fs::write(&options.out, png).map_err(ProgramError::write(&options.out))?;
    say(&scene.caption(&Wording::COMPLETE))
}
