//! Tiles of a matrix product: some rows by up to four panels, summed in registers.
//!
//! The right side lies in panels of 16 columns, row after row, so that a register or two take a row of a panel; elements of the left side are
//! repeated over a register.

use pulp::Simd;

use super::panels::PANEL;
use super::{Real, Vectored};

/// Panels that are multiplied at once at most: with more, a tile would have too few rows.
pub(crate) const ABREAST: usize = 4;

/// Terms of a tile's sums between two tests of how many are left.
const UNROLL: usize = 4;

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
