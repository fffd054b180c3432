//! Convolutions of 3x3 by S. Winograd's F(4x4, 3x3): a quarter of the multiplications.
//!
//! Tiles of 4x4 output pixels are polynomials that are multiplied by their values at six points (arXiv:1509.09308). Inputs,
//! 6x6 pixels, and weights are taken to the points, multiplied there, summed over the channels, and what comes out is
//! taken back to pixels. The points are 0, [`A`], -`A`, [`B`], -`B` and infinity. The usual 1 and 2 for `A` and `B` err more;
//! sums over channels are formed in blocks of [`CHANNELS`], since short sums err less. Errors so stay within
//! four times those of the direct sum (root mean squares, of noise), which is what the tests hold them to. One large pixel
//! among small ones costs its neighbours in the tile more. For f64 that would be too much.
//!
//! Weights are transformed anew in every call, a block at a time: kept, they would need four times their memory.

use std::array;
use std::sync::Mutex;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::conv::Windows;
use super::matmul::{Task, divide};
use super::memory::written;
use super::panels::{PANEL, Panels};
use super::tile::{ABREAST, MatrixMut, Start, multiply};
use crate::error::Result;

/// A point; of the sixteenths, this and [`B`] round least. Every coefficient of inputs and outputs is an exact f32.
const A: f32 = 11.0 / 16.0;

/// A point.
const B: f32 = 25.0 / 16.0;

/// Channels from which on it is done: with fewer, the direct sum is so exact that four times its error is not enough.
const MIN_CHANNELS: usize = 96;

/// Output pixels along a tile's side.
const TILE: usize = 4;

/// Points along a side.
const SIDE: usize = 6;

/// Points.
const POINTS: usize = SIDE * SIDE;

/// Channels that are summed at once.
const CHANNELS: usize = 64;

/// Outputs that are done together: with the weights' transforms, the sums of a task fit the second cache.
const OUTPUTS: usize = ABREAST * PANEL;

/// Tiles of a task, about.
const TILES: usize = 64;

/// Tells whether a convolution is done so; it depends on the shape of one image only.
fn pays(windows: &Windows<'_, f32>, outputs: usize) -> bool {
    let tiles = windows.out.map(|pixels| pixels.div_ceil(TILE));
    windows.kernel == 3
        && windows.stride == 1
        // Fewer tiles do not repay the transform of the weights.
        && tiles[0] * tiles[1] >= 16
        && windows.channels.is_multiple_of(PANEL)
        && outputs.is_multiple_of(PANEL)
        && windows.channels >= MIN_CHANNELS
        && outputs >= 2 * PANEL
}

/// An element type that may be convolved so.
pub(super) trait Convolve: Sized {
    /// Convolves if that is quicker than the direct sum and exact enough; the result is `[batch, height, width, outputs]`.
    fn convolve(
        windows: &Windows<'_, Self>,
        panels: &Panels,
        bias: Option<&[Self]>,
    ) -> Option<Result<Aligned<Self>>>;
}

impl Convolve for f32 {
    fn convolve(
        windows: &Windows<'_, Self>,
        panels: &Panels,
        bias: Option<&[Self]>,
    ) -> Option<Result<Aligned<Self>>> {
        pays(windows, panels.outputs()).then(|| convolve(Arch::new(), windows, panels, bias))
    }
}

impl Convolve for f64 {
    /// Never: who computes in f64 wants its accuracy.
    fn convolve(_: &Windows<'_, Self>, _: &Panels, _: Option<&[Self]>) -> Option<Result<Aligned<Self>>> {
        None
    }
}

fn convolve(
    arch: Arch,
    windows: &Windows<'_, f32>,
    panels: &Panels,
    bias: Option<&[f32]>,
) -> Result<Aligned<f32>> {
    panels.check::<f32>()?;
    let [height, width] = windows.out;
    let [down, across] = windows.out.map(|pixels| pixels.div_ceil(TILE));
    // Rows of tiles, those of all images one after the other.
    let rows: Vec<[usize; 2]> =
        (0..windows.batch).flat_map(|item| (0..down).map(move |row| [item, row])).collect();
    let groups: Vec<&[[usize; 2]]> = rows.chunks((TILES / across).max(1)).collect();
    let pixels = |rows: &&[[usize; 2]]| {
        rows.iter().map(|[_, row]| TILE.min(height - row * TILE)).sum::<usize>() * width
    };
    let spare = Mutex::new(Vec::<Buffers>::new());
    let each = |task: Task<'_, f32>| {
        let rows = groups[task.block];
        // Taken from a task that is done: fresh memory would be given page by page, and zeroed.
        let mut buffers = spare.lock().map_or(None, |mut spare| spare.pop()).unwrap_or_default();
        arch.dispatch(Part { task, rows, across, windows, panels, bias, buffers: &mut buffers });
        if let Ok(mut spare) = spare.lock() {
            spare.push(buffers);
        }
    };
    Ok(written(windows.batch * height * width * panels.outputs(), |out| {
        divide(out, panels.outputs(), groups.iter().map(pixels)).into_par_iter().for_each(each);
    }))
}

/// What a task writes before it reads it.
#[derive(Default)]
struct Buffers {
    /// `[point, tile, channel]`
    inputs: Aligned<f32>,
    /// `[point, panel, channel, 16]`
    weights: Aligned<f32>,
    /// `[point, tile, output]`
    sums: Aligned<f32>,
    scratch: Scratch,
}

/// Some rows of tiles, for some outputs.
struct Part<'a, 'b> {
    task: Task<'a, f32>,
    /// Image and row of tiles.
    rows: &'b [[usize; 2]],
    /// Tiles in a row.
    across: usize,
    windows: &'b Windows<'b, f32>,
    panels: &'b Panels,
    bias: Option<&'b [f32]>,
    buffers: &'b mut Buffers,
}

impl WithSimd for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut task, rows, across, windows, panels, bias, buffers } = self;
        let (first_row, first_column, width) = (task.first_row, task.first_column, task.width());
        let Buffers { inputs, weights, sums, scratch } = buffers;
        let tiles: Vec<[usize; 3]> = (rows.iter())
            .flat_map(|&[item, row]| (0..across).map(move |column| [item, row * TILE, column * TILE]))
            .collect();
        let channels = windows.channels;
        inputs.grow(POINTS * tiles.len() * channels);
        for (i, tile) in tiles.iter().enumerate() {
            input(simd, windows, *tile, &mut inputs.as_mut()[i * channels..], tiles.len() * channels);
        }
        weights.grow(POINTS * OUTPUTS * CHANNELS);
        sums.grow(POINTS * tiles.len() * OUTPUTS);
        let mut left = Vec::with_capacity(tiles.len());
        for column in (0..width).step_by(OUTPUTS) {
            let outputs = OUTPUTS.min(width - column);
            for channel in (0..channels).step_by(CHANNELS) {
                let depth = CHANNELS.min(channels - channel);
                for panel in 0..outputs / PANEL {
                    let at = panel * depth * PANEL;
                    let number = (first_column + column) / PANEL + panel;
                    let to = &mut weights.as_mut()[at..];
                    weight(simd, panels, number, channel, channels, to, outputs * depth, scratch, depth);
                }
                for point in 0..POINTS {
                    let weights = &weights[point * outputs * depth..][..outputs * depth];
                    let sums = &mut sums.as_mut()[point * tiles.len() * outputs..][..tiles.len() * outputs];
                    left.clear();
                    left.extend(
                        (0..tiles.len()).map(|tile| {
                            &inputs[(point * tiles.len() + tile) * channels + channel..][..depth]
                        }),
                    );
                    let start = if channel == 0 { Start::Zero } else { Start::Add };
                    let mut all: [&[f32]; OUTPUTS / PANEL] = [&[]; OUTPUTS / PANEL];
                    for (panel, weights) in all.iter_mut().zip(weights.chunks(PANEL * depth)) {
                        *panel = weights;
                    }
                    let out = &mut MatrixMut { elements: sums, width: outputs };
                    multiply(simd, &left, &all[..outputs / PANEL], start, 0, out);
                }
            }
            let mut out = task.take(outputs);
            for (i, &[item, top, left]) in tiles.iter().enumerate() {
                let [height, width] = windows.out;
                let at = |y: usize, x: usize| {
                    let inside = top + y < height && left + x < width;
                    inside.then(|| (item * height + top + y) * width + left + x - first_row)
                };
                let bias = bias.map(|bias| &bias[first_column + column..]);
                output(
                    simd,
                    &sums[i * outputs..],
                    tiles.len() * outputs,
                    outputs,
                    bias,
                    |y, x, j, values| {
                        if let Some(pixel) = at(y, x) {
                            S::as_mut_simd_f32s(out[pixel]).0[j] = values;
                        }
                    },
                );
            }
        }
    }
}

/// Takes the 6x6 pixels of a tile to the points: `to[point * stride + channel]`.
#[inline(always)]
fn input<S: Simd>(
    simd: S,
    windows: &Windows<'_, f32>,
    [item, top, left]: [usize; 3],
    to: &mut [f32],
    stride: usize,
) {
    let pixels: [[&[S::f32s]; SIDE]; SIDE] =
        array::from_fn(|y| array::from_fn(|x| S::as_simd_f32s(windows.pixel(item, top + y, left + x)).0));
    let vectors = pixels[0][0].len();
    let mut points: Vec<&mut [S::f32s]> = to
        .chunks_mut(stride)
        .take(POINTS)
        .map(|to| &mut S::as_mut_simd_f32s(&mut to[..windows.channels]).0[..vectors])
        .collect();
    for v in 0..vectors {
        let mut half = [[simd.splat_f32s(0.0); SIDE]; SIDE];
        for x in 0..SIDE {
            let column = input_line(simd, array::from_fn(|y| pixels[y][x][v]));
            for y in 0..SIDE {
                half[y][x] = column[y];
            }
        }
        for (y, row) in half.into_iter().enumerate() {
            for (x, value) in input_line(simd, row).into_iter().enumerate() {
                points[y * SIDE + x][v] = value;
            }
        }
    }
}

#[inline(always)]
fn input_line<S: Simd>(simd: S, d: [S::f32s; SIDE]) -> [S::f32s; SIDE] {
    let times = |factor: f32, x, y| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, y);
    let product = |factor: f32, x| simd.mul_f32s(simd.splat_f32s(factor), x);
    // The coefficients of `x (x +- A) (x^2 - B^2)`, of the same with A and B exchanged, and of `(x^2 - A^2) (x^2 - B^2)`.
    let (even, odd) = (times(-B * B, d[2], d[4]), times(-A * B * B, d[1], product(A, d[3])));
    let (even2, odd2) = (times(-A * A, d[2], d[4]), times(-A * A * B, d[1], product(B, d[3])));
    [
        times(A * A * B * B, d[0], times(-A * A - B * B, d[2], d[4])),
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        simd.add_f32s(even2, odd2),
        simd.sub_f32s(even2, odd2),
        times(A * A * B * B, d[1], times(-A * A - B * B, d[3], d[5])),
    ]
}

/// Weights of a panel as they are stored, widened where they are halves; one for each place of the window.
type Scratch = [Vec<f32>; 9];

/// Takes a panel's weights of `depth` channels to the points: `to[point * stride + channel * 16 + output]`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "where from and where to are three numbers each")]
fn weight<S: Simd>(
    simd: S,
    panels: &Panels,
    panel: usize,
    channel: usize,
    channels: usize,
    to: &mut [f32],
    stride: usize,
    scratch: &mut Scratch,
    depth: usize,
) {
    let mut place = 0;
    let places: [&[S::f32s]; 9] = scratch.each_mut().map(|scratch| {
        let from = place * channels + channel;
        place += 1;
        S::as_simd_f32s(panels.block(panel, from..from + depth, scratch)).0
    });
    let vectors = places[0].len();
    let mut points: Vec<&mut [S::f32s]> = (to.chunks_mut(stride).take(POINTS))
        .map(|to| &mut S::as_mut_simd_f32s(&mut to[..depth * PANEL]).0[..vectors])
        .collect();
    for v in 0..vectors {
        let mut half = [[simd.splat_f32s(0.0); 3]; SIDE];
        for x in 0..3 {
            let column = weight_line(simd, array::from_fn(|y| places[3 * y + x][v]));
            for y in 0..SIDE {
                half[y][x] = column[y];
            }
        }
        for (y, row) in half.into_iter().enumerate() {
            for (x, value) in weight_line(simd, row).into_iter().enumerate() {
                points[y * SIDE + x][v] = value;
            }
        }
    }
}

#[inline(always)]
fn weight_line<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; SIDE] {
    let times = |factor: f64, x, y| simd.mul_add_e_f32s(simd.splat_f32s(factor as f32), x, y);
    let product = |factor: f64, x| simd.mul_f32s(simd.splat_f32s(factor as f32), x);
    // Values of `g0 + g1 x + g2 x^2`, divided by the product of the point's distances to the others.
    let (a, b) = (f64::from(A), f64::from(B));
    let (near, far) = (0.5 / (a * a - b * b), 0.5 / (b * b - a * a));
    let (even, odd) = (times(near / (a * a), g[0], product(near, g[2])), product(near / a, g[1]));
    let (even2, odd2) = (times(far / (b * b), g[0], product(far, g[2])), product(far / b, g[1]));
    [
        product(1.0 / (a * a * b * b), g[0]),
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        simd.add_f32s(even2, odd2),
        simd.sub_f32s(even2, odd2),
        g[2],
    ]
}

/// Takes sums at the points, `sums[point * stride + output]`, back to 4x4 pixels: `put(y, x, vector, values)`.
#[inline(always)]
fn output<S: Simd>(
    simd: S,
    sums: &[f32],
    stride: usize,
    outputs: usize,
    bias: Option<&[f32]>,
    mut put: impl FnMut(usize, usize, usize, S::f32s),
) {
    let points: [&[S::f32s]; POINTS] =
        array::from_fn(|point| S::as_simd_f32s(&sums[point * stride..][..outputs]).0);
    let bias = bias.map(|bias| S::as_simd_f32s(&bias[..outputs]).0);
    for v in 0..points[0].len() {
        let mut half = [[simd.splat_f32s(0.0); SIDE]; TILE];
        for x in 0..SIDE {
            let column = output_line(simd, array::from_fn(|y| points[y * SIDE + x][v]));
            for y in 0..TILE {
                half[y][x] = column[y];
            }
        }
        for (y, row) in half.into_iter().enumerate() {
            for (x, value) in output_line(simd, row).into_iter().enumerate() {
                put(y, x, v, bias.map_or(value, |bias| simd.add_f32s(value, bias[v])));
            }
        }
    }
}

#[inline(always)]
fn output_line<S: Simd>(simd: S, m: [S::f32s; SIDE]) -> [S::f32s; TILE] {
    let times = |factor: f32, x, y| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, y);
    let product = |factor: f32, x| simd.mul_f32s(simd.splat_f32s(factor), x);
    let (even, odd) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (even2, odd2) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(even, even2)),
        times(A, odd, product(B, odd2)),
        times(A * A, even, product(B * B, even2)),
        times(A * A * A, odd, times(B * B * B, odd2, m[5])),
    ]
}

#[cfg(test)]
mod tests {
    use edict_stable_diffusion::Conv2dGeometry;

    use super::*;
    use crate::kernels::matmul::product;
    use crate::kernels::tests::arches;

    /// Roughly normal values.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * std::f32::consts::SQRT_2).collect()
    }

    /// Root mean square and largest error of Winograd's sum with every instruction set, and last of the direct sum, against f64.
    fn errors(
        batch: usize,
        [height, width]: [usize; 2],
        channels: usize,
        outputs: usize,
        pad: usize,
        mean: f32,
    ) -> Vec<[f64; 2]> {
        let image = values(batch * height * width * channels, 1).into_iter().map(|x| x + mean);
        let image: Vec<f32> = image.collect();
        let weights: Vec<f32> =
            values(outputs * 9 * channels, 2).iter().map(|x| x / (9.0 * channels as f32).sqrt()).collect();
        let bias = values(outputs, 3);
        let geometry = Conv2dGeometry { stride: 1, padding_before: pad, padding_after: pad };
        let out = [height + 2 * pad - 2, width + 2 * pad - 2];
        let (size, shape) = ([batch, height, width, channels], [batch, out[0], out[1], outputs]);
        let windows = Windows::new(&image, size, shape, 3, geometry);
        let panels = Panels::pack(&weights, outputs, 9 * channels, |k| k);
        let rows = batch * out[0] * out[1];
        let mut found: Vec<Aligned<f32>> = (arches().into_iter())
            .map(|arch| convolve(arch, &windows, &panels, Some(&bias)).unwrap())
            .collect();
        found.push(product(rows, &windows, &panels, Some(&bias)).unwrap());
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (image, weights, bias) = (wide(&image), wide(&weights), wide(&bias));
        let windows = Windows::new(&image, size, shape, 3, geometry);
        let panels = Panels::pack(&weights, outputs, 9 * channels, |k| k);
        let exact = product(rows, &windows, &panels, Some(&bias)).unwrap();
        let each = found.iter().map(|found| {
            let errors = found.iter().zip(exact.iter()).map(|(a, b)| (f64::from(*a) - b).abs());
            let square = errors.clone().map(|e| e * e).sum::<f64>() / exact.len() as f64;
            // A NaN would be lost in the largest, and is not in the sum.
            [square.sqrt(), if square.is_nan() { square } else { errors.fold(0.0, f64::max) }]
        });
        each.collect()
    }

    #[test]
    fn errs_at_most_four_times_as_much_as_the_direct_sum() {
        // Channels as the networks have them, and others; noise, and noise of a mean as large as its deviation.
        for channels in [MIN_CHANNELS, 112, 128, 192, 256, 320, 512, 640, 960, 1280, 1920, 2560] {
            for mean in [0.0, 1.0, -0.3] {
                let mut found = errors(1, [16, 16], channels, 32, 1, mean);
                let [direct, _] = found.pop().unwrap();
                for [found, largest] in found {
                    let times = found / direct;
                    println!(
                        "{channels} channels, mean {mean}: {times:.2} times, the largest error {largest:.1e}"
                    );
                    assert!(
                        found > 0.0 && times <= 4.0,
                        "{channels} channels, mean {mean}: {times:.2} times"
                    );
                }
            }
        }
    }

    #[test]
    fn every_ragged_size_is_convolved() {
        for (batch, size, channels, outputs, pad) in [
            (1, [13, 14], 32, 32, 1),
            (2, [15, 17], 80, 112, 1),
            (3, [16, 18], 32, 48, 0),
            (2, [4, 64], 32, 32, 1),
            (1, [40, 37], 48, 32, 2),
        ] {
            for [_, largest] in errors(batch, size, channels, outputs, pad, 0.0) {
                // A wrong pixel would be off by about 1; the sums are of about unit variance.
                assert!(largest < 2e-5, "{size:?}: {largest:e}");
            }
        }
    }
}
