//! Small things that no caption names and every edit has to keep.

use crate::background::Light;
use crate::canvas::{Canvas, lit};
use crate::shape::{ellipse, stroke};
use crate::{Rng, Sky};

/// What a small thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClutterKind {
    /// A white cloud.
    Cloud,
    /// A bird, far away.
    Bird,
    /// A grey stone.
    Stone,
    /// Three blades of grass.
    Tuft,
}

impl ClutterKind {
    /// Whether it is in the sky, behind the land.
    #[must_use]
    pub const fn is_in_sky(self) -> bool {
        matches!(self, Self::Cloud | Self::Bird)
    }
}

/// A small thing and its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clutter {
    /// What it is.
    pub kind: ClutterKind,
    /// Its middle, or its foot for what stands on the ground.
    pub at: [f32; 2],
    /// Half its width.
    pub radius: f32,
}

/// Scatters clutter where it overlaps neither the object, whatever its kind, nor other clutter.
pub(crate) fn scatter(horizon: f32, object: [f32; 4], rng: &mut Rng) -> Vec<Clutter> {
    let mut items: Vec<Clutter> = Vec::new();
    let counts = [
        (ClutterKind::Cloud, rng.below(3)),
        (ClutterKind::Bird, rng.below(3)),
        (ClutterKind::Stone, 1 + rng.below(3)),
        (ClutterKind::Tuft, 1 + rng.below(3)),
    ];
    for (kind, count) in counts {
        for _ in 0..count {
            // A few tries, then without: a crowded scene is no reason to loop for long.
            for _ in 0..12 {
                let (radius, low, high) = match kind {
                    ClutterKind::Cloud => (rng.between(0.08, 0.12), 0.08, horizon - 0.20),
                    ClutterKind::Bird => (rng.between(0.035, 0.05), 0.08, horizon - 0.14),
                    ClutterKind::Stone => (rng.between(0.025, 0.045), horizon + 0.10, 0.95),
                    ClutterKind::Tuft => (rng.between(0.03, 0.04), horizon + 0.12, 0.96),
                };
                let at = [rng.between(radius + 0.01, 0.99 - radius), rng.between(low, high)];
                let item = Clutter { kind, at, radius };
                let clear = |other: &Clutter| {
                    (other.at[0] - at[0]).abs() > other.radius + radius + 0.02
                        || (other.at[1] - at[1]).abs() > other.radius + radius + 0.02
                };
                let [left, top, right, bottom] = object;
                let off_object = at[0] + radius + 0.04 < left
                    || at[0] - radius - 0.04 > right
                    || at[1] + radius + 0.02 < top
                    || at[1] - 2.0 * radius - 0.05 > bottom;
                if off_object && items.iter().all(clear) {
                    items.push(item);
                    break;
                }
            }
        }
    }
    items.sort_by(|a, b| a.at[1].total_cmp(&b.at[1]));
    items
}

/// Paints one item.
pub(crate) fn draw(canvas: &mut Canvas, item: &Clutter, sky: Sky, light: &Light) {
    let ([x, y], r) = (item.at, item.radius);
    let within = [x - r, y - 2.0 * r, x + r, y + r];
    match item.kind {
        ClutterKind::Cloud => {
            let colour = match sky {
                Sky::Day => [1.0, 1.0, 1.0],
                Sky::Sunset => [0.98, 0.72, 0.66],
                Sky::Night => [0.30, 0.34, 0.50],
            };
            canvas.fill(within, colour, 0.9, |p| {
                let base = ellipse(p, [x, y], [r, 0.38 * r]);
                let left = ellipse(p, [x - 0.25 * r, y - 0.25 * r], [0.45 * r, 0.42 * r]);
                let right = ellipse(p, [x + 0.25 * r, y - 0.15 * r], [0.45 * r, 0.35 * r]);
                base.min(left).min(right)
            });
        }
        ClutterKind::Bird => {
            let colour = if sky == Sky::Night { [0.75, 0.78, 0.88] } else { [0.15, 0.15, 0.20] };
            canvas.fill(within, colour, 1.0, |p| {
                let tip = |side: f32| {
                    let elbow = [x + side * 0.5 * r, y - 0.55 * r];
                    let inner = stroke(p, [x, y], elbow, 0.009);
                    inner.min(stroke(p, elbow, [x + side * r, y - 0.30 * r], 0.009))
                };
                tip(-1.0).min(tip(1.0))
            });
        }
        ClutterKind::Stone => {
            let dark = lit([0.33, 0.33, 0.36], light.land);
            canvas.fill(within, dark, 1.0, |p| ellipse(p, [x, y - 0.5 * r], [r, 0.7 * r]));
            let top = lit([0.60, 0.60, 0.63], light.land);
            canvas.fill(within, top, 1.0, |p| ellipse(p, [x - 0.12 * r, y - 0.68 * r], [0.65 * r, 0.40 * r]));
        }
        ClutterKind::Tuft => {
            let colour = lit([0.16, 0.38, 0.12], light.land);
            canvas.fill(within, colour, 1.0, |p| {
                let blade = |lean: f32, height: f32| stroke(p, [x, y], [x + lean * r, y - height * r], 0.010);
                blade(-0.75, 1.1).min(blade(0.0, 1.6)).min(blade(0.75, 1.1))
            });
        }
    }
}
