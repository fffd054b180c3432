//! How sure a mean is.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws of the bootstrap.
const DRAWS: usize = 1000;

/// A 95% bootstrap interval of a mean: percentiles over 1000 draws with replacement, from a fixed seed; NaN of nothing.
pub(crate) fn interval(values: &[f64]) -> [f64; 2] {
    if values.is_empty() {
        return [f64::NAN; 2];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut mean = || {
        let drawn = (0..values.len()).map(|_| values[(rng.next_u64() % values.len() as u64) as usize]);
        drawn.sum::<f64>() / values.len() as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| mean()).collect();
    means.sort_by(f64::total_cmp);
    [means[DRAWS / 40], means[DRAWS - 1 - DRAWS / 40]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_a_normal_law_for_many_values() {
        assert_eq!(interval(&[0.25; 9]), [0.25; 2]);
        // Half of 400 ones: a standard error of 0.025, so 0.5 -+ 0.049.
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let [low, high] = interval(&values);
        assert!((low - 0.451).abs() < 0.008 && (high - 0.549).abs() < 0.008, "{low} {high}");
        assert!(interval(&[]).iter().all(|end| end.is_nan()));
    }
}
