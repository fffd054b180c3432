//! How sure figures are: 95% intervals.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The normal law keeps 95% within so many standard deviations.
const DEVIATIONS: f64 = 1.959_964;

/// Wilson's 95% interval of a share of which `hits` of `all` were seen; NaN of nothing.
///
/// Unlike a bootstrap it does not claim to be sure where all succeed, or none.
pub(crate) fn of_share(hits: usize, all: usize) -> [f64; 2] {
    let (share, all) = (hits as f64 / all as f64, all as f64);
    let square = DEVIATIONS * DEVIATIONS / all;
    let half = DEVIATIONS * (share * (1.0 - share) / all + square / (4.0 * all)).sqrt();
    [-1.0, 1.0].map(|sign| ((share + 0.5 * square + sign * half) / (1.0 + square)).clamp(0.0, 1.0))
}

/// How often each case is drawn, when of every group as many are drawn with replacement as it has; from a fixed seed.
///
/// The cases of a group follow each other. How many cases each group has is not chance, so no draw changes it.
pub(crate) fn draws(groups: &[usize], draws: usize) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = || {
        let mut times = vec![0; groups.iter().sum()];
        let mut first = 0;
        for &size in groups {
            for _ in 0..size {
                times[first + (rng.next_u64() % size as u64) as usize] += 1;
            }
            first += size;
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
    fn shares_have_wilsons_interval() {
        let near = |found: [f64; 2], wanted: [f64; 2]| {
            assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 5e-4), "{found:?} {wanted:?}");
        };
        // Where none of n succeed, it ends at z^2 / (n + z^2).
        near(of_share(0, 35), [0.0, 3.8415 / 38.8415]);
        near(of_share(35, 35), [35.0 / 38.8415, 1.0]);
        // Half of many: a standard error of 0.025, so about 0.5 -+ 0.049.
        near(of_share(200, 400), [0.4512, 0.5488]);
        assert!(of_share(0, 0).iter().all(|end| end.is_nan()));
    }

    #[test]
    fn every_draw_has_as_many_of_each_group() {
        for times in draws(&[3, 5], 50) {
            let of = |cases: &[u32]| cases.iter().sum::<u32>();
            assert_eq!([of(&times[..3]), of(&times[3..])], [3, 5]);
        }
        // With replacement: a case is drawn in 1 - (1 - 1/n)^n of draws, about 0.63 of them.
        let drawn = draws(&[100], 400).iter().filter(|times| times[0] > 0).count();
        assert!((215..290).contains(&drawn), "{drawn}");
    }

    #[test]
    fn the_middle_of_a_hundred_leaves_out_two_on_each_side() {
        assert_eq!(middle((0..100).rev().map(f64::from).collect()), [2.0, 97.0]);
        assert!(middle(Vec::new()).iter().all(|end| end.is_nan()));
    }
}
