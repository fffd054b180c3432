//! The random numbers behind a seed.

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
///
/// An own generator rather than a crate's: a scene is known by its seed alone, so the numbers behind a seed
/// must never change with a dependency. The seed goes through the generator's mixing function once, so that
/// consecutive seeds start far apart.
///
/// # Example
///
/// ```
/// let mut rng = edict_scenes::Rng::new(1);
/// let die = 1 + rng.below(6);
/// assert!((1..=6).contains(&die));
/// ```
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// Starts a stream at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed.wrapping_add(GAMMA)) }
    }

    /// Starts the stream of a seed for one purpose, so that purposes do not disturb each other.
    #[must_use]
    pub fn for_purpose(seed: u64, purpose: u64) -> Self {
        Self { state: mix(mix(seed.wrapping_add(GAMMA)) ^ purpose.wrapping_mul(GAMMA)) }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number in [0, 1), a multiple of 2^-24, so that `f32` holds it exactly.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A number between `low` and `high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// An integer in `0..bound`; 0 where `bound` is 0.
    ///
    /// By multiplication of the high 32 bits: the bias is below `bound` / 2^32, and above 2^32 not every integer occurs.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits() >> 32) * bound as u128) >> 32) as usize
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One element of an array, each equally likely.
    pub fn pick<T: Copy, const N: usize>(&mut self, of: &[T; N]) -> T {
        const { assert!(N > 0, "nothing to pick from") };
        of[self.below(N)]
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn is_splitmix64() {
        // Golden values of the reference implementation from state 0.
        let mut rng = Rng { state: 0 };
        assert_eq!(rng.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn consecutive_seeds_are_unlike() {
        let mean: f32 = (0..4000).map(|seed| Rng::new(seed).unit()).sum::<f32>() / 4000.0;
        // Standard deviation of a mean of 4000 uniform numbers is 0.0046; five of them.
        assert!((mean - 0.5).abs() < 0.023, "mean {mean}");
    }

    #[test]
    fn stays_in_range() {
        let mut rng = Rng::new(3);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&rng.unit()));
            assert!(rng.below(7) < 7);
            assert!((2.0..=3.0).contains(&rng.between(2.0, 3.0)));
        }
        assert_eq!(rng.below(0), 0);
    }
}
