//! Matrix products of rows with packed weights.
//!
//! `out[i][j] = sum_k left[i][k] right[k][j]`. Tiles of the result are summed in registers over a block of `k`; blocks are added up in the
//! result. The order of every sum follows from the shapes alone.

use std::mem;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Real;
use super::aligned::Aligned;
use super::memory::{self, Unwritten, written};
use super::panels::{PANEL, Panels};
use super::tile::{ABREAST, MatrixMut, Out, Start, multiply};
use crate::error::Result;

/// Terms summed in registers before they are added to the result: the second cache has room for such a block of four panels. Short
/// sums, added up, err less than one long one.
const DEPTH_BLOCK: usize = 320;

/// Rows that are done together at most, for the second cache to hold their part of a block. Divided by every tile's height.
const ROW_BLOCK: usize = 528;

/// Columns that are done together: the second cache holds their part of the result until its sums are complete.
const COLUMN_BLOCK: usize = 256;

/// The left side of a product: every row consists of `segments` slices of `length` elements.
pub(crate) trait Rows<T>: Sync {
    /// Slices of a row.
    fn segments(&self) -> usize;
    /// Elements of a slice.
    fn length(&self) -> usize;
    /// A slice of a row.
    fn slice(&self, segment: usize, row: usize) -> &[T];
}

/// A matrix in row-major order.
pub(crate) struct Matrix<'a, T> {
    pub(crate) elements: &'a [T],
    pub(crate) width: usize,
}

impl<T: Sync> Rows<T> for Matrix<'_, T> {
    fn segments(&self) -> usize {
        1
    }

    fn length(&self) -> usize {
        self.width
    }

    #[inline(always)]
    fn slice(&self, _: usize, row: usize) -> &[T] {
        &self.elements[row * self.width..][..self.width]
    }
}

/// Multiplies `rows` rows with panels and adds `bias`; the result is `[rows, outputs]`.
pub(crate) fn product<T: Real>(
    rows: usize,
    left: &impl Rows<T>,
    right: &Panels,
    bias: Option<&[T]>,
) -> Result<Aligned<T>> {
    divided(rows, right.outputs(), right, |task| {
        Arch::new().dispatch(Part { task, product: Product { left, right, bias } });
    })
}

/// As [`product`], of which each row then is two halves `u`, `g`, and returns `u gelu(g)`; halves are whole panels.
pub(crate) fn product_geglu<T: Real>(
    rows: usize,
    left: &impl Rows<T>,
    right: &Panels,
    bias: Option<&[T]>,
) -> Result<Aligned<T>> {
    divided(rows, right.outputs() / 2, right, |task| {
        Arch::new().dispatch(Geglu { task, product: Product { left, right, bias } });
    })
}

/// Makes a result task by task.
fn divided<T: Real>(
    rows: usize,
    width: usize,
    right: &Panels,
    each: impl Fn(Task<'_, T>) + Sync,
) -> Result<Aligned<T>> {
    right.check::<T>()?;
    Ok(written(rows * width, |out| {
        let tasks = tasks(out, width);
        if rows * right.outputs() * right.depth() < 1 << 18 {
            tasks.into_iter().for_each(&each);
        } else {
            tasks.into_par_iter().for_each(&each);
        }
    }))
}

/// As [`product`], into `out` and on this thread alone.
pub(super) fn fill<T: Real>(
    out: memory::Part<'_, T>,
    left: &impl Rows<T>,
    right: &Panels,
    bias: Option<&[T]>,
) {
    let out = out.chunks(right.outputs().max(1)).collect();
    let task = Task { block: 0, first_row: 0, first_column: 0, out };
    Arch::new().dispatch(Part { task, product: Product { left, right, bias } });
}

/// A rectangle of the result, of parts of its rows.
pub(super) struct Task<'a, T> {
    /// Which of the blocks of rows it lies in.
    pub(crate) block: usize,
    pub(crate) first_row: usize,
    /// A multiple of the panels' width.
    pub(crate) first_column: usize,
    pub(super) out: Vec<memory::Part<'a, T>>,
}

impl<'a, T: Real> Task<'a, T> {
    /// Columns it has.
    pub(super) fn width(&self) -> usize {
        self.out.first().map_or(0, memory::Part::len)
    }

    /// Zeroes the first `columns` columns and returns them, row by row; the others are left.
    pub(super) fn take(&mut self, columns: usize) -> Vec<&'a mut [T]> {
        let rows = self.out.len();
        let out = mem::replace(&mut self.out, Vec::with_capacity(rows));
        let split = out.into_iter().map(|row| {
            let (head, tail) = row.split_at(columns);
            self.out.push(tail);
            head.zeroed()
        });
        split.collect()
    }

    /// Writes the first `columns` columns, row by row; the others are left.
    #[inline(always)]
    pub(super) fn write<X>(
        &mut self,
        columns: usize,
        from: impl Iterator<Item = X>,
        write: impl Fn(Unwritten<'a, T>, X) -> &'a mut [T],
    ) {
        let rows = self.out.len();
        for (row, x) in mem::replace(&mut self.out, Vec::with_capacity(rows)).into_iter().zip(from) {
            let (head, tail) = row.split_at(columns);
            self.out.push(tail);
            head.write(|head| write(head, x));
        }
    }
}

/// Divides the result of a product among the threads.
fn tasks<T: Real>(out: memory::Part<'_, T>, width: usize) -> Vec<Task<'_, T>> {
    let rows = out.len().checked_div(width).unwrap_or(0);
    // Blocks of about one size, and of whole tiles.
    let block = rows.div_ceil(rows.div_ceil(ROW_BLOCK).max(1)).next_multiple_of(12);
    divide(out, width, (0..rows).step_by(block.max(1)).map(|row| block.min(rows - row)))
}

/// Divides a result of rows of `width` in blocks of rows, and in columns too where the blocks are few for the threads.
pub(super) fn divide<T: Real>(
    mut out: memory::Part<'_, T>,
    width: usize,
    blocks: impl ExactSizeIterator<Item = usize>,
) -> Vec<Task<'_, T>> {
    if out.len() == 0 {
        return Vec::new();
    }
    // Several tasks a thread, since some threads are late.
    let wanted = 4 * rayon::current_num_threads();
    let columns = wanted.div_ceil(blocks.len().max(1)).min(width.div_ceil(ABREAST * PANEL)).max(1);
    let columns = width.div_ceil(columns).next_multiple_of(ABREAST * PANEL);
    let mut tasks: Vec<Task<'_, T>> = Vec::new();
    let mut first_row = 0;
    for (number, rows) in blocks.enumerate() {
        let at = tasks.len();
        tasks.extend((0..width).step_by(columns).map(|first_column| Task {
            block: number,
            first_row,
            first_column,
            out: Vec::new(),
        }));
        let (block, rest) = out.split_at(rows * width);
        for row in block.chunks(width) {
            for (task, part) in tasks[at..].iter_mut().zip(row.chunks(columns)) {
                task.out.push(part);
            }
        }
        (out, first_row) = (rest, first_row + rows);
    }
    tasks
}

/// What is multiplied.
struct Product<'b, T, L> {
    left: &'b L,
    right: &'b Panels,
    bias: Option<&'b [T]>,
}

/// Panels, if they have to be widened.
type Scratch<T> = [Vec<T>; ABREAST];

impl<T: Real, L: Rows<T>> Product<'_, T, L> {
    /// Computes a block of [`COLUMN_BLOCK`] columns or less: `rows` rows from `first_row` on, `width` columns from the whole panel
    /// `first_column` on.
    #[inline(always)]
    fn sum<S: Simd>(
        &self,
        simd: S,
        (first_row, rows): (usize, usize),
        (first_column, width): (usize, usize),
        scratch: &mut Scratch<T>,
        out: &mut impl Out<T>,
    ) {
        let (segments, length) = (self.left.segments(), self.left.length());
        let bias = self.bias.map(|bias| &bias[first_column..][..width]);
        if segments * length == 0 {
            // An empty sum.
            for row in 0..rows {
                let out = &mut out.row(row, 0)[..width];
                match bias {
                    Some(bias) => out.copy_from_slice(bias),
                    None => out.fill(T::zero()),
                }
            }
            return;
        }
        let block = length.div_ceil(length.div_ceil(DEPTH_BLOCK));
        let mut left = Vec::with_capacity(rows);
        let pieces =
            (0..segments).flat_map(|segment| (0..length).step_by(block).map(move |from| (segment, from)));
        for (segment, from) in pieces {
            let to = (from + block).min(length);
            let depth = segment * length + from..segment * length + to;
            left.clear();
            left.extend((first_row..).take(rows).map(|row| &self.left.slice(segment, row)[from..to]));
            for column in (0..width).step_by(ABREAST * PANEL) {
                let first = (first_column + column) / PANEL;
                let count = (width - column).div_ceil(PANEL).min(ABREAST);
                let mut panels: [&[T]; ABREAST] = [&[]; ABREAST];
                for (i, (panel, scratch)) in panels.iter_mut().zip(&mut *scratch).take(count).enumerate() {
                    *panel = self.right.block(first + i, depth.clone(), scratch);
                }
                let start = match bias {
                    _ if depth.start > 0 => Start::Add,
                    Some(bias) => Start::Bias(&bias[column..]),
                    None => Start::Zero,
                };
                multiply(simd, &left, &panels[..count], start, column, out);
            }
        }
    }
}

/// One task of a product.
struct Part<'a, 'b, T, L> {
    task: Task<'a, T>,
    product: Product<'b, T, L>,
}

impl<T: Real, L: Rows<T>> WithSimd for Part<'_, '_, T, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mut task, product } = self;
        let (rows, width) = ((task.first_row, task.out.len()), task.width());
        let mut scratch = Scratch::default();
        for column in (0..width).step_by(COLUMN_BLOCK) {
            let columns = COLUMN_BLOCK.min(width - column);
            // Block by block, they are still in the cache when the first sums come.
            let mut out = task.take(columns);
            let columns = (task.first_column + column, columns);
            product.sum(simd, rows, columns, &mut scratch, &mut Rectangle(&mut out));
        }
    }
}

/// One task of a product whose columns are combined.
struct Geglu<'a, 'b, T, L> {
    task: Task<'a, T>,
    product: Product<'b, T, L>,
}

impl<T: Real, L: Rows<T>> WithSimd for Geglu<'_, '_, T, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const HALF: usize = COLUMN_BLOCK / 2;
        let Self { mut task, product } = self;
        let (rows, width) = (task.out.len(), task.width());
        let gates = product.right.outputs() / 2;
        let mut scratch = Scratch::default();
        let mut both = [(); 2].map(|()| Aligned::zeros(rows * HALF));
        for column in (0..width).step_by(HALF) {
            let width = HALF.min(width - column);
            for (half, sums) in both.iter_mut().enumerate() {
                let columns = (task.first_column + column + half * gates, width);
                let sums = &mut MatrixMut { elements: sums.as_mut(), width: HALF };
                product.sum(simd, (task.first_row, rows), columns, &mut scratch, sums);
            }
            let halves = both[0].chunks(HALF).zip(both[1].chunks(HALF));
            task.write(width, halves, |out, (u, g)| {
                let (u, g) = (&u[..width], &g[..width]);
                out.each(|j| u[j] * g[j].gelu::<S>())
            });
        }
    }
}

/// Rows of a rectangle.
struct Rectangle<'a, 'b, T>(&'a mut [&'b mut [T]]);

impl<T> Out<T> for Rectangle<'_, '_, T> {
    #[inline(always)]
    fn row(&mut self, i: usize, column: usize) -> &mut [T] {
        &mut self.0[i][column..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::arches;

    fn values(count: usize, seed: u64) -> Vec<f64> {
        let mix = |i: u64| (i + 1 + (seed << 20)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        (0..count as u64).map(|i| mix(i) as f64 / f64::from(1 << 23) - 1.0).collect()
    }

    /// Multiplies in every way that this processor offers and returns the results.
    fn products<T: Real>(rows: usize, depth: usize, outputs: usize, bias: bool) -> (Vec<Vec<f64>>, Vec<f64>) {
        let (left, right, shift) = (values(rows * depth, 1), values(outputs * depth, 2), values(outputs, 3));
        let cut = |x: &[f64]| x.iter().map(|&x| T::of(x)).collect::<Vec<T>>();
        let (left, right, shift) = (cut(&left), cut(&right), cut(&shift));
        let bias = bias.then_some(&shift[..]);
        let panels = Panels::pack(&right, outputs, depth, |k| k);
        let matrix = Matrix { elements: &left, width: depth };
        let mut found = Vec::new();
        for arch in arches() {
            let out = written(rows * outputs, |out| {
                for task in tasks(out, outputs) {
                    arch.dispatch(Part { task, product: Product { left: &matrix, right: &panels, bias } });
                }
            });
            found.push(out.iter().map(|x| x.wide()).collect());
        }
        let mut expected = Vec::new();
        for row in 0..rows {
            for column in 0..outputs {
                let terms =
                    (0..depth).map(|k| left[row * depth + k].wide() * right[column * depth + k].wide());
                expected.push(bias.map_or(0.0, |bias| bias[column].wide()) + terms.sum::<f64>());
            }
        }
        (found, expected)
    }

    #[test]
    fn multiplies_every_ragged_size_with_every_instruction_set() {
        for (rows, depth, outputs) in [
            (1, 1, 1),
            (2, 3, 15),
            (3, 16, 16),
            (11, 41, 17),
            (12, 64, 32),
            (13, 65, 33),
            (23, 320, 48),
            (29, 321, 63),
            (5, 700, 95),
            (200, 104, 40),
            (1, 0, 3),
            (0, 4, 3),
            (4, 4, 0),
        ] {
            for bias in [false, true] {
                let (found, expected) = products::<f64>(rows, depth, outputs, bias);
                // A sum of `depth` products of numbers below 1 in size, and the bias.
                let bound = |unit: f64| unit * (depth + 2) as f64 * (depth + 1) as f64;
                for found in found {
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = (found - expected).abs();
                        assert!(error <= bound(f64::EPSILON), "{rows} {depth} {outputs}: {error:e}");
                    }
                }
                let (found, expected) = products::<f32>(rows, depth, outputs, bias);
                for found in found {
                    for (found, expected) in found.iter().zip(&expected) {
                        let error = (found - expected).abs();
                        assert!(
                            error <= bound(f64::from(f32::EPSILON)),
                            "{rows} {depth} {outputs}: {error:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn half_weights_are_widened_exactly() {
        let (rows, depth, outputs) = (7, 33, 21);
        let weights: Vec<half::f16> =
            values(outputs * depth, 4).into_iter().map(|x| half::f16::from_f32(x as f32)).collect();
        let wide: Vec<f32> = weights.iter().map(|x| x.to_f32()).collect();
        let left: Vec<f32> = values(rows * depth, 5).into_iter().map(|x| x as f32).collect();
        let matrix = Matrix { elements: &left, width: depth };
        let narrow = product(rows, &matrix, &Panels::pack(&weights, outputs, depth, |k| k), None).unwrap();
        let expected = product(rows, &matrix, &Panels::pack(&wide, outputs, depth, |k| k), None).unwrap();
        assert_eq!(*narrow, *expected);
    }
}
