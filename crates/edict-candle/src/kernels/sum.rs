//! Mean and variance of rows, by sums whose order follows from the row's length and the instruction set alone.

use std::array;

use pulp::Simd;

use super::Real;

/// Elements whose sums are formed together. Sums of pieces, added up, err less than one long one.
const PIECE: usize = 256;

/// Elements that are written out at once: vector by vector they are then converted.
const AT_ONCE: usize = 64;

/// Elements that fill a number of vectors, whatever their size.
const LANES: usize = 16;

/// Finds mean and variance of a row of at least one element, in f64.
#[inline(always)]
pub(crate) fn moments<S: Simd, T: Real>(simd: S, x: &[T]) -> [f64; 2] {
    // Sums are of differences to the first element. It is one of the row, so that the square of its distance to the mean is at most the
    // variance times the length: not more digits than those of the length are lost.
    let origin = x.first().map_or(0.0, |x| x.wide());
    let (mut sum, mut square) = (0.0, 0.0);
    for x in x.chunks(PIECE) {
        // Two chains of each, which do not wait for one another.
        let (mut sums, mut squares) = ([simd.splat_f64s(0.0); 2], [simd.splat_f64s(0.0); 2]);
        let mut add = |wide: &[f64]| {
            for x in S::as_simd_f64s(wide).0.as_chunks::<2>().0 {
                for i in 0..2 {
                    sums[i] = simd.add_f64s(sums[i], x[i]);
                    squares[i] = simd.mul_add_e_f64s(x[i], x[i], squares[i]);
                }
            }
        };
        let (whole, rest) = x.as_chunks::<AT_ONCE>();
        for x in whole {
            add(&array::from_fn::<_, AT_ONCE, _>(|i| x[i].wide() - origin));
        }
        if !rest.is_empty() {
            let mut wide = [0.0; AT_ONCE];
            for (wide, x) in wide.iter_mut().zip(rest) {
                *wide = x.wide() - origin;
            }
            add(&wide[..rest.len().next_multiple_of(LANES)]);
        }
        sum += simd.reduce_sum_f64s(simd.add_f64s(sums[0], sums[1]));
        square += simd.reduce_sum_f64s(simd.add_f64s(squares[0], squares[1]));
    }
    let n = x.len() as f64;
    let distance = sum / n;
    [origin + distance, (square / n - distance * distance).max(0.0)]
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::tests::arches;

    struct Moments<'a, T>(&'a [T]);

    impl<T: Real> WithSimd for Moments<'_, T> {
        type Output = [f64; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
            moments(simd, self.0)
        }
    }

    #[test]
    fn rows_of_every_length_are_gone_through_whole() {
        for arch in arches() {
            for length in 1..700 {
                let x: Vec<f32> = (0..length).map(|i| ((7 * i + 3) % 101) as f32).collect();
                let n = f64::from(length);
                let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                let [found_mean, found_variance] = arch.dispatch(Moments(&x));
                assert!((found_mean - mean).abs() < 1e-13 * 100.0, "{length}: {found_mean}, not {mean}");
                assert!((found_variance - variance).abs() < 1e-13 * 1e4, "{length}: {found_variance}");
            }
        }
    }

    #[test]
    fn a_first_element_far_from_the_others_costs_no_more_digits_than_the_length_has() {
        let mut x: Vec<f64> = (0..1000).map(|i| f64::from(i % 2)).collect();
        x[0] = 1e9;
        let mean = (1e9 + 500.0) / 1000.0;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1000.0;
        for arch in arches() {
            let [found_mean, found_variance] = arch.dispatch(Moments(&x));
            assert!((found_mean / mean - 1.0).abs() < 1e-12, "{found_mean:e}");
            assert!((found_variance / variance - 1.0).abs() < 1e-12, "{found_variance:e}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_passed_on() {
        for arch in arches() {
            assert!(arch.dispatch(Moments(&[1.0f32, f32::NAN, 2.0]))[0].is_nan());
        }
    }
}
