//! Edits with known outcome.

use crate::{Colour, Ground, Kind, Rng, Scene, Sky, Style, Wording};

/// An attribute that an edit may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// What the object is.
    Kind,
    /// The object's colour.
    Colour,
    /// The sky and the light.
    Sky,
    /// The land.
    Ground,
    /// How the scene is drawn.
    Style,
}

impl Attribute {
    /// Every attribute there is.
    pub const ALL: [Self; 5] = [Self::Kind, Self::Colour, Self::Sky, Self::Ground, Self::Style];

    /// The attribute's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Colour => "colour",
            Self::Sky => "sky",
            Self::Ground => "ground",
            Self::Style => "style",
        }
    }
}

/// A change of one attribute to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Edit {
    /// Turns the object into another.
    Kind(Kind),
    /// Colours the object.
    Colour(Colour),
    /// Changes the sky.
    Sky(Sky),
    /// Changes the land.
    Ground(Ground),
    /// Draws the scene in another style.
    Style(Style),
}

fn other_than<T: Copy + PartialEq, const N: usize>(present: T, all: &[T; N], rng: &mut Rng) -> T {
    loop {
        let value = rng.pick(all);
        if value != present {
            return value;
        }
    }
}

impl Edit {
    /// Draws an edit of the attribute to a value other than the scene's.
    pub fn sample(attribute: Attribute, scene: &Scene, rng: &mut Rng) -> Self {
        match attribute {
            Attribute::Kind => Self::Kind(other_than(scene.object.kind, &Kind::ALL, rng)),
            Attribute::Colour => Self::Colour(other_than(scene.object.colour, &Colour::ALL, rng)),
            Attribute::Sky => Self::Sky(other_than(scene.sky, &Sky::ALL, rng)),
            Attribute::Ground => Self::Ground(other_than(scene.ground, &Ground::ALL, rng)),
            Attribute::Style => Self::Style(other_than(scene.style, &Style::ALL, rng)),
        }
    }

    /// The attribute that changes.
    #[must_use]
    pub const fn attribute(self) -> Attribute {
        match self {
            Self::Kind(_) => Attribute::Kind,
            Self::Colour(_) => Attribute::Colour,
            Self::Sky(_) => Attribute::Sky,
            Self::Ground(_) => Attribute::Ground,
            Self::Style(_) => Attribute::Style,
        }
    }

    /// The scene after the edit: the same description with the one attribute changed.
    #[must_use]
    pub fn apply(self, scene: &Scene) -> Scene {
        let mut edited = scene.clone();
        match self {
            Self::Kind(kind) => edited.object.kind = kind,
            Self::Colour(colour) => edited.object.colour = colour,
            Self::Sky(sky) => edited.sky = sky,
            Self::Ground(ground) => edited.ground = ground,
            Self::Style(style) => edited.style = style,
        }
        edited
    }
}

/// One question of an edit benchmark: two scenes that differ in one attribute, and their captions.
#[derive(Debug, Clone, PartialEq)]
pub struct EditCase {
    /// The scene to edit.
    pub source: Scene,
    /// The scene that an ideal edit makes.
    pub target: Scene,
    /// Caption of the source, naming every attribute.
    pub source_caption: String,
    /// Caption of the target in the same words save the one.
    pub target_caption: String,
    /// The edit.
    pub edit: Edit,
}

impl EditCase {
    /// Draws the scene of a seed and an edit of it; take seeds from [`crate::HELD_OUT`] on.
    #[must_use]
    pub fn from_seed(seed: u64, attribute: Attribute) -> Self {
        let source = Scene::from_seed(seed);
        let edit = Edit::sample(attribute, &source, &mut Rng::for_purpose(seed, 3));
        let target = edit.apply(&source);
        let caption = |scene: &Scene| scene.caption(&Wording::COMPLETE);
        Self { source_caption: caption(&source), target_caption: caption(&target), source, target, edit }
    }
}
