//! Procedural scenes with captions and ground-truth edits.
//!
//! A [`Scene`] is a description: one object on a ground under a sky, drawn in a style, with clutter beside
//! it. It is drawn ([`Scene::render`]) at any side, put into words ([`Scene::caption`]), and changed in one
//! attribute ([`Edit::apply`]); since everything else of the description stays, drawing the changed
//! description gives the picture that an ideal edit would have made, and comparing the two drawings gives the
//! region that the edit should touch ([`Picture::changed`]).
//!
//! # The world
//!
//! | attribute | values | kind of edit |
//! |---|---|---|
//! | [`Kind`] | house, car, tree, mushroom, balloon, star | local |
//! | [`Colour`] | red, orange, yellow, green, blue, purple, pink, white | local |
//! | [`Sky`] | day, sunset, night | global |
//! | [`Ground`] | meadow, desert, snow, beach | global |
//! | [`Style`] | plain, pencil, mosaic | style |
//!
//! The object's place and size, the horizon, the hills, the sun's place and the clutter (stones, tufts,
//! birds, clouds) are free and named by no caption: an edit has to keep them.
//!
//! # Conventions
//!
//! Places are in units of the picture's side: x runs from 0 (left) to 1 (right), y from 0 (top) to 1
//! (bottom). Colours are sRGB in [0, 1]. Everything follows from a `u64` seed through [`Rng`], and drawing
//! uses only operations that IEEE 754 rounds exactly (no sine, no exponential), so a seed gives the same bytes
//! on every machine. Seeds below [`HELD_OUT`] are for training, the others for tests and benchmarks.
//!
//! # Captions
//!
//! ```text
//! caption  = phrase [trail]                    the style is always named unless it is plain
//! lead     = "a picture of" | "an image of"                            plain, sometimes
//!          | "a pencil drawing of" | "a pencil sketch of"              pencil
//!          | "a mosaic of"                                             mosaic
//! trail    = ", pencil drawing" | ", pencil style" | ", mosaic" | ", mosaic style"    instead of a lead
//! phrase   = subject [ground] [sky] | subject [sky] [ground] | sky "," subject [ground]
//! subject  = [lead] ("a" | "an") [colour] kind
//!          | [lead] land                        now and then without the object; no ground follows then
//! land     = "a meadow" | "a desert" | "snow and mountains" | "a beach"
//! ground   = "in a meadow" | "on the grass" | "in the desert" | "on the dunes"
//!          | "in the snow" | "in winter" | "on the beach" | "by the sea"
//! sky      = "by day" | "on a sunny day" | "under a blue sky" | "at sunset" | "in the evening"
//!          | "under an orange sky" | "at night" | "under the stars" | "under a dark sky"
//! ```
//!
//! # Example
//!
//! ```
//! use edict_scenes::{Colour, Edit, Scene, Wording};
//!
//! let source = Scene::from_seed(7);
//! let target = Edit::Colour(Colour::Blue).apply(&source);
//! let (before, after) = (source.render(64)?, target.render(64)?);
//! let region = before.changed(&after)?;
//! assert_eq!(region.len(), 64 * 64);
//! assert!(target.caption(&Wording::COMPLETE).contains("blue"));
//! # Ok::<(), edict_scenes::SceneError>(())
//! ```
#![forbid(unsafe_code)]

mod attributes;
mod background;
mod canvas;
mod caption;
mod clutter;
mod edit;
mod error;
mod object;
mod picture;
mod rng;
mod scene;
mod shape;
mod style;

pub use attributes::{Colour, Ground, Kind, Sky, Style};
pub use caption::{Order, Wording};
pub use clutter::{Clutter, ClutterKind};
pub use edit::{Attribute, Edit, EditCase};
pub use error::SceneError;
pub use picture::Picture;
pub use rng::Rng;
pub use scene::{HELD_OUT, Object, Scene};
