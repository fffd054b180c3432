//! Descriptions of scenes.

use crate::canvas::Canvas;
use crate::clutter::{self, Clutter};
use crate::{Colour, Ground, Kind, Picture, Rng, SceneError, Sky, Style, background, object, style};

/// First seed that no training data is made from.
pub const HELD_OUT: u64 = 1 << 32;

/// The thing that the scene is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its colour.
    pub colour: Colour,
    /// Where its middle stands, from the left.
    pub x: f32,
    /// Where it stands on the ground, from the top.
    pub y: f32,
    /// Side of the square that holds it, in units of the picture's side.
    pub size: f32,
}

impl Object {
    /// The square that holds the object whatever its kind: left, top, right, bottom.
    #[must_use]
    pub fn bounds(&self) -> [f32; 4] {
        let half = 0.5 * self.size;
        [self.x - half, self.y - self.size, self.x + half, self.y]
    }
}

/// A scene: everything that a picture of it depends on.
///
/// # Example
///
/// ```
/// use edict_scenes::{HELD_OUT, Scene, Wording};
///
/// let scene = Scene::from_seed(HELD_OUT);
/// let picture = scene.render(64)?;
/// assert_eq!(picture.bytes().len(), 64 * 64 * 3);
/// assert!(scene.caption(&Wording::COMPLETE).contains(scene.object.kind.word()));
/// # Ok::<(), edict_scenes::SceneError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// How it is drawn.
    pub style: Style,
    /// The sky.
    pub sky: Sky,
    /// The land.
    pub ground: Ground,
    /// What it is about.
    pub object: Object,
    /// Where land and sky meet, from the top.
    pub horizon: f32,
    /// Where along their curve the far and the near hills begin, in periods.
    pub hills: [f32; 2],
    /// Where the sun or the moon stands; at sunset only its x counts.
    pub sun: [f32; 2],
    /// Small things that no caption names, from far to near.
    pub clutter: Vec<Clutter>,
}

impl Scene {
    /// Draws the description that belongs to a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::for_purpose(seed, 1);
        let rng = &mut rng;
        // Plain pictures twice as often: most edits start from one.
        let style = rng.pick(&[Style::Plain, Style::Plain, Style::Pencil, Style::Mosaic]);
        let sky = rng.pick(&Sky::ALL);
        let ground = rng.pick(&Ground::ALL);
        let horizon = rng.between(0.46, 0.60);
        let size = rng.between(0.32, 0.50);
        let object = Object {
            kind: rng.pick(&Kind::ALL),
            colour: rng.pick(&Colour::ALL),
            x: rng.between(0.5 * size + 0.03, 0.97 - 0.5 * size),
            y: rng.between(horizon + 0.12, 0.93),
            size,
        };
        let hills = [rng.unit(), rng.unit()];
        let sun = [rng.between(0.12, 0.88), rng.between(0.11, 0.20)];
        let clutter = clutter::scatter(horizon, object.bounds(), rng);
        Self { style, sky, ground, object, horizon, hills, sun, clutter }
    }

    /// Draws the scene, `side` pixels wide and high.
    ///
    /// # Errors
    ///
    /// [`SceneError::Side`] unless the side is a multiple of 16 in 32..=1024: the mosaic has 16 tiles a side.
    pub fn render(&self, side: usize) -> Result<Picture, SceneError> {
        if !(32..=1024).contains(&side) || !side.is_multiple_of(16) {
            return Err(SceneError::Side { found: side });
        }
        let mut canvas = Canvas::new(side);
        let light = background::Light::of(self.sky);
        background::draw_sky(&mut canvas, self);
        for item in self.clutter.iter().filter(|item| item.kind.is_in_sky()) {
            clutter::draw(&mut canvas, item, self.sky, &light);
        }
        background::draw_land(&mut canvas, self, &light);
        for item in self.clutter.iter().filter(|item| !item.kind.is_in_sky()) {
            clutter::draw(&mut canvas, item, self.sky, &light);
        }
        object::draw(&mut canvas, &self.object, &light);
        Ok(Picture::from_canvas(&style::apply(self.style, canvas)))
    }
}
