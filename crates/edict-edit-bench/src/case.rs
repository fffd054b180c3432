//! The questions: scenes of which it is known what an edit should make of them.

use edict_core::Latents;
use edict_scenes::{Attribute, EditCase, HELD_OUT, Picture};
use edict_stable_diffusion::ModelFolder;
use ndarray::ArrayD;
use xxhash_rust::xxh3::Xxh3;

use crate::Fault;

/// The side of the pictures that a model makes.
///
/// # Errors
/// If they are not square, as scenes are.
pub(crate) fn side(folder: &ModelFolder) -> Result<usize, Fault> {
    let size = folder.image_size();
    if size.width == size.height {
        Ok(size.width)
    } else {
        Err(format!("the model makes {size}, and scenes are square").into())
    }
}

/// So many cases of each attribute have seeds of their own.
pub(crate) const NUMBERS: u64 = 100_000;

/// A scene, its picture, and the picture that an ideal edit makes.
pub(crate) struct Case {
    /// What the scene is drawn from; no two cases have one.
    pub(crate) seed: u64,
    pub(crate) source_caption: String,
    pub(crate) target_caption: String,
    /// `[1, 3, side, side]` in [-1, 1].
    pub(crate) source: Latents,
    pub(crate) target: Latents,
    /// Where the two differ, `[side, side]`, rows from the top.
    pub(crate) changed: Vec<bool>,
}

impl Case {
    /// Draws case `number` of an attribute, below [`NUMBERS`], from seeds no training scene has.
    pub(crate) fn draw(attribute: Attribute, number: u64, side: usize) -> Result<Self, Fault> {
        // Every attribute has seeds of its own; the first 512 held-out ones have watched over training.
        let seed = HELD_OUT + 10_000 + attribute as u64 * NUMBERS + number;
        let case = EditCase::from_seed(seed, attribute);
        let (source, target) = (case.source.render(side)?, case.target.render(side)?);
        Ok(Self {
            seed,
            source_caption: case.source_caption,
            target_caption: case.target_caption,
            changed: source.changed(&target)?,
            source: pixels(&source),
            target: pixels(&target),
        })
    }
}

/// Hashes the pictures and the captions of the first case of each attribute: of other scenes other results follow.
pub(crate) fn fingerprint(side: usize) -> Result<String, Fault> {
    let mut hash = Xxh3::new();
    for attribute in Attribute::ALL {
        let case = Case::draw(attribute, 0, side)?;
        for value in case.source.iter().chain(&case.target) {
            hash.update(&value.to_le_bytes());
        }
        for caption in [&case.source_caption, &case.target_caption] {
            hash.update(&(caption.len() as u64).to_le_bytes());
            hash.update(caption.as_bytes());
        }
    }
    Ok(format!("{:032x}", hash.digest128()))
}

fn pixels(picture: &Picture) -> Latents {
    let (side, bytes) = (picture.side(), picture.bytes());
    ArrayD::from_shape_fn(vec![1, 3, side, side], |i| {
        f64::from(bytes[(i[2] * side + i[3]) * 3 + i[1]]) / 127.5 - 1.0
    })
}
