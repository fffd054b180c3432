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
    let mean = |times: &[u32]| -> f64 {
        times.iter().zip(values).map(|(times, value)| f64::from(*times) * value).sum::<f64>()
            / values.len() as f64
    };
    middle(draws(values.len(), DRAWS).iter().map(|times| mean(times)).collect())
}

/// How often each of so many cases is drawn, when as many are drawn with replacement; from a fixed seed.
pub(crate) fn draws(cases: usize, draws: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = || {
        let mut times = vec![0; cases];
        for _ in 0..cases {
            times[(rng.next_u64() % cases as u64) as usize] += 1;
        }
        times
    };
    (0..draws).map(|_| draw()).collect()
}

/// The middle 95% of values; NaN of nothing.
pub(crate) fn middle(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 40;
    let [low, high] = [values.get(cut), values.iter().rev().nth(cut)];
    [low, high].map(|end| end.copied().unwrap_or(f64::NAN))
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
