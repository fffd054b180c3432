//! Seeded noise.

use edict_core::Latents;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Draws independent standard normal values; one seed gives the same values on every machine.
pub fn normal(shape: &[usize], seed: u64) -> Latents {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Latents::from_shape_simple_fn(shape, || StandardNormal.sample(&mut rng))
}
