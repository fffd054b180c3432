//! Matrix products of rows with packed weights.
//!
//! `out[i][j] = sum_k left[i][k] right[k][j]`. The right side lies in panels of 16 columns, row after row, so that a register
//! or two take a row of a panel; elements of the left side are repeated over a register. A tile of the result, some rows by
//! a panel or two, is summed in registers over a block of `k`; blocks are added up in the result. The order of every sum
//! follows from the shapes alone.

use std::array;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::panels::{PANEL, Panels};
use super::{Real, Vectored};
use crate::error::Result;

/// Terms summed in registers before they are added to the result: a block of two panels of f32 is 40 KiB, about a first cache. Short
/// sums, added up, err less than one long one.
const DEPTH_BLOCK: usize = 320;

/// Rows that are done together, for the second cache to hold their part of a block. Divided by every tile's height.
const ROW_BLOCK: usize = 192;

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
) -> Result<Vec<T>> {
    right.check::<T>()?;
    let outputs = right.outputs();
    let mut out = vec![T::zero(); rows * outputs];
    let tasks = tasks(&mut out, outputs);
    let each = |task: Task<'_, T>| Arch::new().dispatch(Part { task, left, right, bias });
    if rows * outputs * right.depth() < 1 << 18 {
        tasks.into_iter().for_each(each);
    } else {
        tasks.into_par_iter().for_each(each);
    }
    Ok(out)
}

/// A rectangle of the result.
pub(crate) struct Task<'a, T> {
    /// Which of the blocks of rows it lies in.
    pub(crate) block: usize,
    pub(crate) first_row: usize,
    /// A multiple of the panels' width.
    pub(crate) first_column: usize,
    pub(crate) out: Vec<&'a mut [T]>,
}

/// Divides the result of a product among the threads.
fn tasks<T>(out: &mut [T], width: usize) -> Vec<Task<'_, T>> {
    let rows = out.len().checked_div(width).unwrap_or(0);
    divide(out, width, (0..rows).step_by(ROW_BLOCK).map(|row| ROW_BLOCK.min(rows - row)))
}

/// Divides a result of rows of `width` in blocks of rows, and in columns too where the blocks are few for the threads.
pub(crate) fn divide<T>(
    mut out: &mut [T],
    width: usize,
    blocks: impl ExactSizeIterator<Item = usize>,
) -> Vec<Task<'_, T>> {
    if out.is_empty() {
        return Vec::new();
    }
    // Several tasks a thread, since some threads are late.
    let wanted = 4 * rayon::current_num_threads();
    let columns = wanted.div_ceil(blocks.len().max(1)).min(width.div_ceil(2 * PANEL)).max(1);
    let columns = width.div_ceil(columns).next_multiple_of(2 * PANEL);
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
        let (block, rest) = out.split_at_mut(rows * width);
        for row in block.chunks_mut(width) {
            for (task, part) in tasks[at..].iter_mut().zip(row.chunks_mut(columns)) {
                task.out.push(part);
            }
        }
        (out, first_row) = (rest, first_row + rows);
    }
    tasks
}

/// One task of a product.
struct Part<'a, 'b, T, L> {
    task: Task<'a, T>,
    left: &'b L,
    right: &'b Panels,
    bias: Option<&'b [T]>,
}

impl<T: Real, L: Rows<T>> WithSimd for Part<'_, '_, T, L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { task: Task { first_row, first_column, mut out, .. }, left, right, bias } = self;
        let Some(width) = out.first().map(|row| row.len()) else { return };
        let (segments, length) = (left.segments(), left.length());
        if segments * length == 0 {
            // An empty sum.
            for row in &mut out {
                match bias {
                    Some(bias) => row.copy_from_slice(&bias[first_column..][..width]),
                    None => row.fill(T::zero()),
                }
            }
            return;
        }
        let block = length.div_ceil(length.div_ceil(DEPTH_BLOCK));
        let mut scratch = [Vec::new(), Vec::new()];
        for columns in (0..width).step_by(COLUMN_BLOCK) {
            let pieces =
                (0..segments).flat_map(|segment| (0..length).step_by(block).map(move |from| (segment, from)));
            for (segment, from) in pieces {
                let to = (from + block).min(length);
                let depth = segment * length + from..segment * length + to;
                let first = depth.start == 0;
                for column in (columns..width.min(columns + COLUMN_BLOCK)).step_by(2 * PANEL) {
                    let panel = (first_column + column) / PANEL;
                    let [one, two] = &mut scratch;
                    let one = right.block::<T>(panel, depth.clone(), one);
                    let two =
                        if column + PANEL < width { right.block(panel + 1, depth.clone(), two) } else { &[] };
                    let start = match bias {
                        _ if !first => Start::Add,
                        Some(bias) => Start::Bias(&bias[first_column + column..]),
                        None => Start::Zero,
                    };
                    let a = |row: usize| &left.slice(segment, first_row + row)[from..to];
                    let out = &mut Rectangle { rows: &mut out, column };
                    multiply(simd, out.rows.len(), a, [one, two], start, out);
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

/// A matrix in row-major order, from a column on.
pub(crate) struct MatrixMut<'a, T> {
    pub(crate) elements: &'a mut [T],
    pub(crate) width: usize,
    pub(crate) column: usize,
}

impl<T> Out<T> for MatrixMut<'_, T> {
    #[inline(always)]
    fn row(&mut self, i: usize, column: usize) -> &mut [T] {
        &mut self.elements[i * self.width..][..self.width][self.column + column..]
    }
}

/// Multiplies rows with a block of two panels, or of one where the second is empty.
///
/// `a(i)` has as many elements as the block has rows.
#[inline(always)]
pub(crate) fn multiply<'a, S: Simd, T: Real>(
    simd: S,
    rows: usize,
    a: impl Fn(usize) -> &'a [T],
    panels: [&[T]; 2],
    start: Start<'_, T>,
    out: &mut impl Out<T>,
) {
    // As many sums as there are registers, less those for a row of the panels and an element of the left side. The conditions are
    // constants of the instruction set, so that only its own tiles are compiled.
    if const { many::<S>() && vectors::<S, T>() == 1 } {
        if panels[1].is_empty() {
            tiles::<S, T, 12, 6, 3, 1, 1>(simd, rows, a, [panels[0]], start, 0, out);
        } else {
            tiles::<S, T, 12, 6, 3, 2, 1>(simd, rows, a, panels, start, 0, out);
        }
        return;
    }
    for (i, &panel) in panels.iter().enumerate().filter(|(_, panel)| !panel.is_empty()) {
        let (panel, column) = ([panel], i * PANEL);
        let start = start.skip(column);
        if const { many::<S>() && vectors::<S, T>() == 2 } {
            tiles::<S, T, 12, 6, 3, 1, 2>(simd, rows, &a, panel, start, column, out);
        } else if const { many::<S>() && vectors::<S, T>() == 4 } {
            tiles::<S, T, 6, 3, 2, 1, 4>(simd, rows, &a, panel, start, column, out);
        } else if const { vectors::<S, T>() == 2 } {
            tiles::<S, T, 6, 3, 2, 1, 2>(simd, rows, &a, panel, start, column, out);
        } else if const { vectors::<S, T>() == 4 } {
            tiles::<S, T, 3, 2, 1, 1, 4>(simd, rows, &a, panel, start, column, out);
        } else if const { vectors::<S, T>() == 8 } {
            tiles::<S, T, 2, 1, 1, 1, 8>(simd, rows, &a, panel, start, column, out);
        } else {
            tiles::<S, T, 4, 2, 1, 1, PANEL>(simd, rows, &a, panel, start, column, out);
        }
    }
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
fn tiles<
    'a,
    S: Simd,
    T: Real,
    const R: usize,
    const R2: usize,
    const R4: usize,
    const P: usize,
    const V: usize,
>(
    simd: S,
    rows: usize,
    a: impl Fn(usize) -> &'a [T],
    panels: [&[T]; P],
    start: Start<'_, T>,
    column: usize,
    out: &mut impl Out<T>,
) {
    let mut row = 0;
    while rows - row >= R {
        tile::<S, T, R, P, V>(simd, row, &a, panels, start, column, out);
        row += R;
    }
    while rows - row >= R2 {
        tile::<S, T, R2, P, V>(simd, row, &a, panels, start, column, out);
        row += R2;
    }
    while rows - row >= R4 {
        tile::<S, T, R4, P, V>(simd, row, &a, panels, start, column, out);
        row += R4;
    }
    while row < rows {
        tile::<S, T, 1, P, V>(simd, row, &a, panels, start, column, out);
        row += 1;
    }
}

/// Sums of a tile, by row, panel and vector.
type Sums<S, T, const R: usize, const P: usize, const V: usize> = [[[<T as Vectored>::Vector<S>; V]; P]; R];

/// Sums `R` rows and stores them.
#[inline(always)]
fn tile<'a, S: Simd, T: Real, const R: usize, const P: usize, const V: usize>(
    simd: S,
    row: usize,
    a: impl Fn(usize) -> &'a [T],
    panels: [&[T]; P],
    start: Start<'_, T>,
    column: usize,
    out: &mut impl Out<T>,
) {
    let a: [&[T]; R] = array::from_fn(|r| a(row + r));
    let b: [&[[T::Vector<S>; V]]; P] = panels.map(|panel| T::vectors::<S>(panel).as_chunks::<V>().0);
    let depth = b[0].len();
    let mut sums = [[[T::splat(simd, T::zero()); V]; P]; R];
    // Pieces of constant length: no bound is checked in them, and the sums stay in registers.
    let mut done = 0;
    while depth - done >= 64 {
        sums = piece::<S, T, R, P, V, 64>(simd, a, b, done, sums);
        done += 64;
    }
    if depth - done >= 40 {
        sums = piece::<S, T, R, P, V, 40>(simd, a, b, done, sums);
        done += 40;
    }
    while depth - done >= 16 {
        sums = piece::<S, T, R, P, V, 16>(simd, a, b, done, sums);
        done += 16;
    }
    while done < depth {
        sums = piece::<S, T, R, P, V, 1>(simd, a, b, done, sums);
        done += 1;
    }
    for (r, sums) in sums.iter().enumerate() {
        for (p, sums) in sums.iter().enumerate() {
            store(simd, sums, start.skip(p * PANEL), out.row(row + r, column + p * PANEL));
        }
    }
}

/// Adds `U` terms, from term `from` on.
#[inline(always)]
fn piece<S: Simd, T: Real, const R: usize, const P: usize, const V: usize, const U: usize>(
    simd: S,
    a: [&[T]; R],
    b: [&[[T::Vector<S>; V]]; P],
    from: usize,
    mut sums: Sums<S, T, R, P, V>,
) -> Sums<S, T, R, P, V> {
    let a: [&[T; U]; R] = a.map(|a| &a[from..].as_chunks().0[0]);
    let b: [&[[T::Vector<S>; V]; U]; P] = b.map(|b| &b[from..].as_chunks().0[0]);
    for u in 0..U {
        for r in 0..R {
            let x = T::splat(simd, a[r][u]);
            for p in 0..P {
                for v in 0..V {
                    sums[r][p][v] = T::mul_add(simd, x, b[p][u][v], sums[r][p][v]);
                }
            }
        }
    }
    sums
}

/// Stores a row of a panel's sums, or as many of them as `out` has room for.
#[inline(always)]
fn store<S: Simd, T: Real, const V: usize>(
    simd: S,
    sums: &[T::Vector<S>; V],
    start: Start<'_, T>,
    out: &mut [T],
) {
    if out.len() < PANEL {
        let mut values = [T::zero(); PANEL];
        T::vectors_mut::<S>(&mut values).copy_from_slice(sums);
        for (i, (out, value)) in out.iter_mut().zip(values).enumerate() {
            *out = match start {
                Start::Zero => value,
                Start::Bias(bias) => bias[i] + value,
                Start::Add => *out + value,
            };
        }
        return;
    }
    let out = &mut T::vectors_mut::<S>(&mut out[..PANEL])[..V];
    match start {
        Start::Zero => out.copy_from_slice(sums),
        Start::Bias(bias) => {
            let bias = &T::vectors::<S>(&bias[..PANEL])[..V];
            for v in 0..V {
                out[v] = T::add_each(simd, bias[v], sums[v]);
            }
        }
        Start::Add => {
            for v in 0..V {
                out[v] = T::add_each(simd, out[v], sums[v]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let mut out = vec![T::of(f64::NAN); rows * outputs];
            for task in tasks(&mut out, outputs) {
                arch.dispatch(Part { task, left: &matrix, right: &panels, bias });
            }
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

    fn arches() -> Vec<Arch> {
        let mut arches = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            arches.extend(pulp::x86::V3::try_new().map(Arch::V3));
            arches.extend(pulp::x86::V4::try_new().map(Arch::V4));
        }
        arches
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
