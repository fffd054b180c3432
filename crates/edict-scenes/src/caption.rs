//! Putting scenes into words.

use crate::{Ground, Rng, Scene, Sky, Style};

/// How the parts of a caption follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// "a red car in the desert at night".
    GroundThenSky,
    /// "a red car at night in the desert".
    SkyThenGround,
    /// "at night, a red car in the desert".
    SkyFirst,
}

/// What a caption mentions and in which words; the same wording fits every scene.
///
/// Two scenes put into words by one wording differ in the words of what differs between them, and only there
/// (and "a" may become "an").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wording {
    /// Mentions the object; where it does not, the ground is what the caption is about.
    pub object: bool,
    /// Mentions the object's colour.
    pub colour: bool,
    /// Mentions the ground.
    pub ground: bool,
    /// Mentions the sky.
    pub sky: bool,
    /// Order of the parts.
    pub order: Order,
    /// Which of the synonyms for ground and sky are taken; any number.
    pub synonyms: [usize; 2],
    /// Which of the forms of naming the style is taken; any number.
    pub form: usize,
}

const fn ground_phrases(ground: Ground) -> [&'static str; 2] {
    match ground {
        Ground::Meadow => ["in a meadow", "on the grass"],
        Ground::Desert => ["in the desert", "on the dunes"],
        Ground::Snow => ["in the snow", "in winter"],
        Ground::Beach => ["on the beach", "by the sea"],
    }
}

const fn ground_noun(ground: Ground) -> &'static str {
    match ground {
        Ground::Meadow => "a meadow",
        Ground::Desert => "a desert",
        Ground::Snow => "snow and mountains",
        Ground::Beach => "a beach",
    }
}

const fn sky_phrases(sky: Sky) -> [&'static str; 3] {
    match sky {
        Sky::Day => ["by day", "on a sunny day", "under a blue sky"],
        Sky::Sunset => ["at sunset", "in the evening", "under an orange sky"],
        Sky::Night => ["at night", "under the stars", "under a dark sky"],
    }
}

/// Lead and trail of each form of naming the style.
const fn style_forms(style: Style) -> [(&'static str, &'static str); 4] {
    match style {
        Style::Plain => [("", ""), ("a picture of ", ""), ("", ""), ("an image of ", "")],
        Style::Pencil => [
            ("a pencil drawing of ", ""),
            ("a pencil sketch of ", ""),
            ("", ", pencil drawing"),
            ("", ", pencil style"),
        ],
        Style::Mosaic => {
            [("a mosaic of ", ""), ("a mosaic of ", ""), ("", ", mosaic"), ("", ", mosaic style")]
        }
    }
}

fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}

impl Wording {
    /// Names every attribute in the first words of each list, as in "a red car in the desert at night".
    pub const COMPLETE: Self = Self {
        object: true,
        colour: true,
        ground: true,
        sky: true,
        order: Order::GroundThenSky,
        synonyms: [0, 0],
        form: 0,
    };

    /// Draws a wording as training captions have it: most parts are mentioned most of the time.
    pub fn sample(rng: &mut Rng) -> Self {
        let object = rng.chance(0.95);
        Self {
            object,
            colour: rng.chance(0.9),
            ground: !object || rng.chance(0.85),
            sky: rng.chance(0.8),
            order: rng.pick(&[
                Order::GroundThenSky,
                Order::GroundThenSky,
                Order::GroundThenSky,
                Order::SkyThenGround,
                Order::SkyFirst,
            ]),
            // The first synonym more often than any other.
            synonyms: [rng.pick(&[0, 0, 1]), rng.pick(&[0, 0, 1, 2])],
            form: rng.below(4),
        }
    }
}

impl Scene {
    /// Puts the scene into words.
    #[must_use]
    pub fn caption(&self, wording: &Wording) -> String {
        let (lead, trail) = style_forms(self.style)[wording.form % 4];
        let sky = wording.sky.then(|| sky_phrases(self.sky)[wording.synonyms[1] % 3]);
        let ground = ground_phrases(self.ground)[wording.synonyms[0] % 2];
        let (subject, ground) = if !wording.object {
            (ground_noun(self.ground).to_owned(), None)
        } else if wording.colour {
            let named = format!("{} {}", self.object.colour, self.object.kind);
            (with_article(&named), wording.ground.then_some(ground))
        } else {
            (with_article(self.object.kind.word()), wording.ground.then_some(ground))
        };
        let subject = format!("{lead}{subject}");
        let parts = match (wording.order, sky) {
            (Order::SkyFirst, Some(sky)) => [Some(format!("{sky}, {subject}")), ground.map(Into::into), None],
            (Order::SkyThenGround, _) => [Some(subject), sky.map(Into::into), ground.map(Into::into)],
            _ => [Some(subject), ground.map(Into::into), sky.map(Into::into)],
        };
        let phrase = parts.into_iter().flatten().collect::<Vec<String>>().join(" ");
        format!("{phrase}{trail}")
    }

    /// The captions of a seed: `count` wordings drawn for it.
    #[must_use]
    pub fn captions(&self, seed: u64, count: usize) -> Vec<String> {
        let mut rng = Rng::for_purpose(seed, 2);
        (0..count).map(|_| self.caption(&Wording::sample(&mut rng))).collect()
    }
}
