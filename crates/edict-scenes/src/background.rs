//! Sky and land.

use crate::canvas::{Canvas, Rgb, blend, lit};
use crate::shape::{disc, wave, zigzag};
use crate::{Ground, Scene, Sky};

/// What a sky does to the colours under it: factors for land and for the object.
///
/// The object is dimmed less, so that its colour can be told at night.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Light {
    pub(crate) land: Rgb,
    pub(crate) object: Rgb,
}

impl Light {
    pub(crate) const fn of(sky: Sky) -> Self {
        match sky {
            Sky::Day => Self { land: [1.0, 1.0, 1.0], object: [1.0, 1.0, 1.0] },
            Sky::Sunset => Self { land: [0.96, 0.74, 0.66], object: [1.0, 0.90, 0.84] },
            Sky::Night => Self { land: [0.44, 0.50, 0.68], object: [0.74, 0.76, 0.86] },
        }
    }
}

/// The same at every night: an edit from day to night then has one right outcome.
const STARS: [[f32; 2]; 11] = [
    [0.06, 0.10],
    [0.15, 0.30],
    [0.24, 0.07],
    [0.33, 0.20],
    [0.43, 0.36],
    [0.52, 0.06],
    [0.60, 0.24],
    [0.70, 0.12],
    [0.78, 0.33],
    [0.87, 0.07],
    [0.94, 0.22],
];

const SUN_RADIUS: f32 = 0.075;

/// Paints the sky with its sun or moon and stars.
pub(crate) fn draw_sky(canvas: &mut Canvas, scene: &Scene) {
    let (zenith, low): (Rgb, Rgb) = match scene.sky {
        Sky::Day => ([0.33, 0.62, 0.94], [0.76, 0.90, 0.99]),
        Sky::Sunset => ([0.47, 0.27, 0.55], [1.00, 0.62, 0.30]),
        Sky::Night => ([0.03, 0.04, 0.16], [0.14, 0.18, 0.40]),
    };
    canvas.paint(|[_, y], _| blend(zenith, low, (y / scene.horizon).min(1.0)));
    let [x, y] = scene.sun;
    let around = |[x, y]: [f32; 2], r: f32| [x - r, y - r, x + r, y + r];
    match scene.sky {
        Sky::Day => {
            let halo = 1.5 * SUN_RADIUS;
            canvas.fill(around([x, y], halo), [1.0, 0.97, 0.75], 0.4, |p| disc(p, [x, y], halo));
            canvas.fill(around([x, y], SUN_RADIUS), [1.0, 0.90, 0.35], 1.0, |p| disc(p, [x, y], SUN_RADIUS));
        }
        Sky::Sunset => {
            let (y, radius) = (scene.horizon - 0.10, 1.3 * SUN_RADIUS);
            canvas.fill(around([x, y], 1.5 * radius), [1.0, 0.75, 0.40], 0.5, |p| {
                disc(p, [x, y], 1.5 * radius)
            });
            canvas.fill(around([x, y], radius), [0.99, 0.32, 0.18], 1.0, |p| disc(p, [x, y], radius));
        }
        Sky::Night => {
            for at in STARS {
                canvas.fill(around(at, 0.012), [1.0, 1.0, 0.92], 1.0, |p| disc(p, at, 0.012));
            }
            // A crescent: the disc less another.
            canvas.fill(around([x, y], SUN_RADIUS), [0.97, 0.95, 0.80], 1.0, |p| {
                disc(p, [x, y], SUN_RADIUS).max(-disc(p, [x + 0.04, y - 0.025], SUN_RADIUS))
            });
        }
    }
}

/// Paints the far hills and the ground in front of them.
pub(crate) fn draw_land(canvas: &mut Canvas, scene: &Scene, light: &Light) {
    let [far_at, near_at] = scene.hills;
    let horizon = scene.horizon;
    let everywhere = [0.0, 0.0, 1.0, 1.0];
    let colour = |c: Rgb| lit(c, light.land);
    // Slopes are gentle, so the height over the curve serves as the distance, but for the mountains'.
    match scene.ground {
        Ground::Meadow => canvas.fill(everywhere, colour([0.36, 0.62, 0.50]), 1.0, |[x, y]| {
            horizon - 0.05 + 0.05 * wave(far_at + 1.6 * x) - y
        }),
        Ground::Desert => canvas.fill(everywhere, colour([0.78, 0.48, 0.30]), 1.0, |[x, y]| {
            let dune = zigzag(far_at + 1.3 * x);
            horizon - 0.11 * dune * dune - y
        }),
        Ground::Snow => {
            let ridge = move |x: f32| horizon + 0.02 - 0.24 * zigzag(far_at + 1.7 * x);
            canvas.fill(everywhere, colour([0.48, 0.58, 0.74]), 1.0, |[x, y]| 0.8 * (ridge(x) - y));
            let snow_line = move |x: f32| horizon - 0.13 + 0.015 * wave(8.0 * x);
            canvas.fill(everywhere, colour([0.93, 0.96, 1.0]), 1.0, |[x, y]| {
                (0.8 * (ridge(x) - y)).max(y - snow_line(x))
            });
        }
        Ground::Beach => {
            canvas.fill(everywhere, colour([0.10, 0.47, 0.72]), 1.0, |[_, y]| horizon - 0.06 - y);
            canvas.fill(everywhere, colour([0.85, 0.95, 0.97]), 1.0, |[x, y]| {
                horizon + 0.025 + 0.012 * wave(near_at + 2.0 * x) - y
            });
        }
    }
    let (top, bottom): (Rgb, Rgb) = match scene.ground {
        Ground::Meadow => ([0.55, 0.80, 0.33], [0.36, 0.64, 0.22]),
        Ground::Desert => ([0.96, 0.72, 0.42], [0.85, 0.55, 0.28]),
        Ground::Snow => ([0.97, 0.98, 1.0], [0.78, 0.86, 0.95]),
        Ground::Beach => ([0.97, 0.90, 0.70], [0.90, 0.79, 0.56]),
    };
    let edge = move |x: f32| match scene.ground {
        Ground::Beach => horizon + 0.05 + 0.012 * wave(near_at + 2.0 * x),
        _ => horizon + 0.02 + 0.018 * wave(near_at + 1.2 * x),
    };
    let side = canvas.side as f32;
    canvas.paint(|[x, y], below| {
        let covered = (0.5 - (edge(x) - y) * side).clamp(0.0, 1.0);
        let depth = ((y - horizon) / (1.0 - horizon)).clamp(0.0, 1.0);
        blend(below, colour(blend(top, bottom, depth)), covered)
    });
}
