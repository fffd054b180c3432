//! Matrix products of rows with packed weights.
//!
//! `out[i][j] = sum_k left[i][k] right[k][j]`. The right side lies in panels of 16 columns, row after row, so that a register
//! or two take a row of a panel; elements of the left side are repeated over a register. A tile of the result, some rows by
//! up to four panels, is summed in registers over a block of `k`; blocks are added up in the result. The order of every sum
//! follows from the shapes alone.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::{Unwritten, written};
use super::panels::{Aligned, PANEL, Panels};
use super::{Real, Vectored};
use crate::error::Result;

/// Terms summed in registers before they are added to the result: the second cache has room for such a block of four panels. Short
/// sums, added up, err less than one long one.
const DEPTH_BLOCK: usize = 320;

/// Rows that are done together at most, for the second cache to hold their part of a block. Divided by every tile's height.
const ROW_BLOCK: usize = 384;

/// Columns that are done together: the second cache holds their part of the result until its sums are complete.
const COLUMN_BLOCK: usize = 256;

/// Panels that are multiplied at once at most: with more, a tile would have too few rows.
pub(crate) const ABREAST: usize = 4;

/// Terms of a tile's sums between two tests of how many are left.
const UNROLL: usize = 4;

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
) -> Result<Vec<T>> {
    divided(rows, right.outputs(), right, |task| {
        let (at, out) = task.begin();
        Arch::new().dispatch(Part { at, out, product: Product { left, right, bias } });
    })
}

/// As [`product`], of which each row then is two halves `u`, `g`, and returns `u gelu(g)`; halves are whole panels.
pub(crate) fn product_geglu<T: Real>(
    rows: usize,
    left: &impl Rows<T>,
    right: &Panels,
    bias: Option<&[T]>,
) -> Result<Vec<T>> {
    divided(rows, right.outputs() / 2, right, |task| {
        let (at, out) = task.begin();
        Arch::new().dispatch(Geglu { at, out, product: Product { left, right, bias } });
    })
}

/// Makes a result task by task.
fn divided<T: Real>(
    rows: usize,
    width: usize,
    right: &Panels,
    each: impl Fn(Task<'_, T>) + Sync,
) -> Result<Vec<T>> {
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
pub(crate) fn fill<T: Real>(out: &mut [T], left: &impl Rows<T>, right: &Panels, bias: Option<&[T]>) {
    let out = out.chunks_mut(right.outputs().max(1)).collect();
    Arch::new().dispatch(Part { at: [0, 0], out, product: Product { left, right, bias } });
}

/// A rectangle of the result.
pub(super) struct Task<'a, T> {
    /// Which of the blocks of rows it lies in.
    pub(crate) block: usize,
    pub(crate) first_row: usize,
    /// A multiple of the panels' width.
    pub(crate) first_column: usize,
    pub(super) out: Vec<Unwritten<'a, T>>,
}

impl<'a, T: Real> Task<'a, T> {
    /// Returns the first row and column, and the result's rows.
    pub(crate) fn begin(self) -> ([usize; 2], Vec<&'a mut [T]>) {
        ([self.first_row, self.first_column], self.out.into_iter().map(Unwritten::zeroed).collect())
    }
}

/// Divides the result of a product among the threads.
fn tasks<T: Real>(out: Unwritten<'_, T>, width: usize) -> Vec<Task<'_, T>> {
    let rows = out.len().checked_div(width).unwrap_or(0);
    // Blocks of about one size, and of whole tiles.
    let block = rows.div_ceil(rows.div_ceil(ROW_BLOCK).max(1)).next_multiple_of(12);
    divide(out, width, (0..rows).step_by(block.max(1)).map(|row| block.min(rows - row)))
}

/// Divides a result of rows of `width` in blocks of rows, and in columns too where the blocks are few for the threads.
pub(super) fn divide<T: Real>(
    mut out: Unwritten<'_, T>,
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
    /// First row and column.
    at: [usize; 2],
    out: Vec<&'a mut [T]>,
    product: Product<'b, T, L>,
}

impl<T: Real, L: Rows<T>> WithSimd for Part<'_, '_, T, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { at: [first_row, first_column], mut out, product } = self;
        let Some(width) = out.first().map(|row| row.len()) else { return };
        let mut scratch = Scratch::default();
        for column in (0..width).step_by(COLUMN_BLOCK) {
            let columns = (first_column + column, COLUMN_BLOCK.min(width - column));
            let rows = (first_row, out.len());
            product.sum(simd, rows, columns, &mut scratch, &mut Rectangle { rows: &mut out, column });
        }
    }
}

/// One task of a product whose columns are combined.
struct Geglu<'a, 'b, T, L> {
    /// First row and column.
    at: [usize; 2],
    out: Vec<&'a mut [T]>,
    product: Product<'b, T, L>,
}

impl<T: Real, L: Rows<T>> WithSimd for Geglu<'_, '_, T, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const HALF: usize = COLUMN_BLOCK / 2;
        let Self { at: [first_row, first_column], mut out, product } = self;
        let Some(width) = out.first().map(|row| row.len()) else { return };
        let gates = product.right.outputs() / 2;
        let mut scratch = Scratch::default();
        let mut both = [(); 2].map(|()| Aligned::zeros(out.len() * HALF));
        for column in (0..width).step_by(HALF) {
            let width = HALF.min(width - column);
            for (half, sums) in both.iter_mut().enumerate() {
                let columns = (first_column + column + half * gates, width);
                let sums = &mut MatrixMut { elements: sums.as_mut(), width: HALF };
                product.sum(simd, (first_row, out.len()), columns, &mut scratch, sums);
            }
            for ((out, u), g) in out.iter_mut().zip(both[0].chunks(HALF)).zip(both[1].chunks(HALF)) {
                for ((out, &u), &g) in out[column..][..width].iter_mut().zip(u).zip(g) {
                    *out = u * g.gelu::<S>();
                }
            }
        }
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a, T> {
    Zero,
    /// A row, repeated.
    Bias(&'a [T]),
    /// What the result holds.
    Add,
}

impl<T> Start<'_, T> {
    /// The same, for a rectangle that begins `columns` columns on.
    #[inline(always)]
    fn skip(self, columns: usize) -> Self {
        match self {
            Self::Bias(bias) => Self::Bias(&bias[columns.min(bias.len())..]),
            other => other,
        }
    }
}

/// Where a product goes.
pub(crate) trait Out<T> {
    /// Row `i` from the product's column `column` on; it may end before the panel does.
    fn row(&mut self, i: usize, column: usize) -> &mut [T];
}

/// Rows of a rectangle, from a column on.
struct Rectangle<'a, 'b, T> {
    rows: &'a mut [&'b mut [T]],
    column: usize,
}

impl<T> Out<T> for Rectangle<'_, '_, T> {
    #[inline(always)]
    fn row(&mut self, i: usize, column: usize) -> &mut [T] {
        &mut self.rows[i][self.column + column..]
    }
}

/// A matrix in row-major order.
pub(crate) struct MatrixMut<'a, T> {
    pub(crate) elements: &'a mut [T],
    pub(crate) width: usize,
}

impl<T> Out<T> for MatrixMut<'_, T> {
    #[inline(always)]
    fn row(&mut self, i: usize, column: usize) -> &mut [T] {
        &mut self.elements[i * self.width..][..self.width][column..]
    }
}

/// Multiplies rows with up to [`ABREAST`] panels.
///
/// Rows have as many elements as the panels have rows. The product goes to `out` from column `to` on.
#[inline(always)]
pub(crate) fn multiply<S: Simd, T: Real>(
    simd: S,
    rows: &[&[T]],
    panels: &[&[T]],
    start: Start<'_, T>,
    to: usize,
    out: &mut impl Out<T>,
) {
    // About as many sums as there are registers, less those for a row of the panels and an element of the left side. Few rows
    // and many columns take the fewest loads. The conditions are constants of the instruction set, so that only its own tiles
    // are compiled.
    if const { many::<S>() && vectors::<S, T>() == 1 } {
        match *panels {
            [a, b, c, d] => tiles::<S, T, 6, 2, 4, 1>(simd, rows, [a, b, c, d], start, to, out),
            [a, b, c] => tiles::<S, T, 6, 2, 3, 1>(simd, rows, [a, b, c], start, to, out),
            [a, b] => tiles::<S, T, 6, 2, 2, 1>(simd, rows, [a, b], start, to, out),
            [a] => tiles::<S, T, 6, 2, 1, 1>(simd, rows, [a], start, to, out),
            _ => {}
        }
        return;
    }
    if const { many::<S>() && vectors::<S, T>() == 2 } {
        for (i, panels) in panels.chunks(2).enumerate() {
            let start = start.skip(2 * i * PANEL);
            let column = to + 2 * i * PANEL;
            match *panels {
                [a, b] => tiles::<S, T, 6, 2, 2, 2>(simd, rows, [a, b], start, column, out),
                [a] => tiles::<S, T, 6, 2, 1, 2>(simd, rows, [a], start, column, out),
                _ => {}
            }
        }
        return;
    }
    for (i, &panel) in panels.iter().enumerate() {
        let start = start.skip(i * PANEL);
        let (panel, column) = ([panel], to + i * PANEL);
        if const { many::<S>() && vectors::<S, T>() == 4 } {
            tiles::<S, T, 6, 2, 1, 4>(simd, rows, panel, start, column, out);
        } else if const { many::<S>() && vectors::<S, T>() == 8 } {
            tiles::<S, T, 3, 1, 1, 8>(simd, rows, panel, start, column, out);
        } else if const { vectors::<S, T>() == 2 } {
            tiles::<S, T, 6, 2, 1, 2>(simd, rows, panel, start, column, out);
        } else if const { vectors::<S, T>() == 4 } {
            tiles::<S, T, 3, 1, 1, 4>(simd, rows, panel, start, column, out);
        } else {
            tiles::<S, T, 4, 2, 1, PANEL>(simd, rows, panel, start, column, out);
        }
    }
}

/// The most columns of [`wide`].
pub(crate) const WIDEST: usize = 4 * PANEL;

/// Columns that rows are multiplied with in one go by [`multiply_wide`].
pub(crate) const fn wide<S: Simd, T: Vectored>() -> usize {
    PANEL * if many::<S>() && vectors::<S, T>() <= 2 { 4 / vectors::<S, T>() } else { 1 }
}

/// As [`multiply`], with a single panel of [`wide`] columns, all of which `out` has room for.
#[inline(always)]
pub(crate) fn multiply_wide<S: Simd, T: Real>(
    simd: S,
    rows: &[&[T]],
    panel: &[T],
    start: Start<'_, T>,
    out: &mut impl Out<T>,
) {
    if const { many::<S>() && vectors::<S, T>() <= 4 } {
        tiles::<S, T, 6, 2, 1, 4>(simd, rows, [panel], start, 0, out);
    } else {
        multiply(simd, rows, &[panel], start, 0, out);
    }
}

/// Columns that `v` vectors hold.
const fn columns<S: Simd, T: Vectored>(v: usize) -> usize {
    v * size_of::<T::Vector<S>>() / size_of::<T>()
}

/// Whether there are 32 registers rather than 16.
const fn many<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

/// Vectors to a row of a panel.
const fn vectors<S: Simd, T: Vectored>() -> usize {
    PANEL * size_of::<T>() / size_of::<T::Vector<S>>()
}

/// Multiplies all rows with `P` panels of `V` vectors: tiles of `R` rows, and lower ones for what is left.
#[inline(always)]
fn tiles<S: Simd, T: Real, const R: usize, const R2: usize, const P: usize, const V: usize>(
    simd: S,
    rows: &[&[T]],
    panels: [&[T]; P],
    start: Start<'_, T>,
    column: usize,
    out: &mut impl Out<T>,
) {
    let mut b: [&[[T::Vector<S>; V]]; P] = [&[]; P];
    for p in 0..P {
        b[p] = T::vectors::<S>(panels[p]).as_chunks::<V>().0;
    }
    let mut row = 0;
    let (high, rest) = rows.as_chunks::<R>();
    for rows in high {
        tile::<S, T, R, P, V>(simd, row, rows, &b, start, column, out);
        row += R;
    }
    let (low, rest) = rest.as_chunks::<R2>();
    for rows in low {
        tile::<S, T, R2, P, V>(simd, row, rows, &b, start, column, out);
        row += R2;
    }
    if const { R2 > 1 } {
        for &one in rest {
            tile::<S, T, 1, P, V>(simd, row, &[one], &b, start, column, out);
            row += 1;
        }
    }
}

/// `N` rows in pieces of terms.
type Pieces<'a, E, const N: usize> = [&'a [[E; UNROLL]]; N];

/// Sums `R` rows and stores them.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops over constants are sure to be unrolled")]
fn tile<S: Simd, T: Real, const R: usize, const P: usize, const V: usize>(
    simd: S,
    row: usize,
    rows: &[&[T]; R],
    panels: &[&[[T::Vector<S>; V]]; P],
    start: Start<'_, T>,
    column: usize,
    out: &mut impl Out<T>,
) {
    let depth = panels[0].len();
    let whole = depth / UNROLL;
    // Said to be of one length, slices are indexed without a test. (Plain loops: what closures make of arrays is not always
    // inlined here, and the sums would have to wait in memory.)
    let (mut a, mut b) = (*rows, *panels);
    let mut pieces_a: Pieces<'_, T, R> = [&[]; R];
    let mut pieces_b: Pieces<'_, [T::Vector<S>; V], P> = [&[]; P];
    for r in 0..R {
        a[r] = &a[r][..depth];
        pieces_a[r] = &a[r].as_chunks().0[..whole];
    }
    for p in 0..P {
        b[p] = &b[p][..depth];
        pieces_b[p] = &b[p].as_chunks().0[..whole];
    }
    let mut sums = [[[T::splat(simd, T::zero()); V]; P]; R];
    for i in 0..whole {
        for u in 0..UNROLL {
            for r in 0..R {
                let x = T::splat(simd, pieces_a[r][i][u]);
                for p in 0..P {
                    for v in 0..V {
                        sums[r][p][v] = T::mul_add(simd, x, pieces_b[p][i][u][v], sums[r][p][v]);
                    }
                }
            }
        }
    }
    for i in whole * UNROLL..depth {
        for r in 0..R {
            let x = T::splat(simd, a[r][i]);
            for p in 0..P {
                for v in 0..V {
                    sums[r][p][v] = T::mul_add(simd, x, b[p][i][v], sums[r][p][v]);
                }
            }
        }
    }
    // Sums stay in registers only if every loop over them is unrolled. So there is a short loop for each of the cases.
    if out.row(row, column).len() < P * columns::<S, T>(V) {
        for r in 0..R {
            let mut values = [[T::zero(); PANEL]; P];
            for p in 0..P {
                let vectors = T::vectors_mut::<S>(&mut values[p]);
                let count = V.min(vectors.len());
                vectors[..count].copy_from_slice(&sums[r][p][..count]);
            }
            store_some(values.as_flattened(), start, out.row(row + r, column));
        }
        return;
    }
    match start {
        Start::Zero => {
            for r in 0..R {
                let out = &mut T::vectors_mut::<S>(&mut out.row(row + r, column)[..P * columns::<S, T>(V)])
                    [..P * V];
                for p in 0..P {
                    for v in 0..V {
                        out[p * V + v] = sums[r][p][v];
                    }
                }
            }
        }
        Start::Bias(bias) => {
            let bias = &T::vectors::<S>(&bias[..P * columns::<S, T>(V)])[..P * V];
            for r in 0..R {
                let out = &mut T::vectors_mut::<S>(&mut out.row(row + r, column)[..P * columns::<S, T>(V)])
                    [..P * V];
                for p in 0..P {
                    for v in 0..V {
                        out[p * V + v] = T::add_each(simd, bias[p * V + v], sums[r][p][v]);
                    }
                }
            }
        }
        Start::Add => {
            for r in 0..R {
                let out = &mut T::vectors_mut::<S>(&mut out.row(row + r, column)[..P * columns::<S, T>(V)])
                    [..P * V];
                for p in 0..P {
                    for v in 0..V {
                        out[p * V + v] = T::add_each(simd, out[p * V + v], sums[r][p][v]);
                    }
                }
            }
        }
    }
}

/// Stores as many sums of a row as `out` has room for.
#[inline(never)]
fn store_some<T: Real>(sums: &[T], start: Start<'_, T>, out: &mut [T]) {
    for (i, (out, &sum)) in out.iter_mut().zip(sums).enumerate() {
        *out = match start {
            Start::Zero => sum,
            Start::Bias(bias) => bias[i] + sum,
            Start::Add => *out + sum,
        };
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
                    let (at, out) = task.begin();
                    arch.dispatch(Part { at, out, product: Product { left: &matrix, right: &panels, bias } });
                }
            });
            found.push(out.into_iter().map(Real::wide).collect());
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
        assert_eq!(
            narrow,
            product(rows, &matrix, &Panels::pack(&wide, outputs, depth, |k| k), None).unwrap()
        );
    }
}
