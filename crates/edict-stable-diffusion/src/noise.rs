//! Noise from a seed.

use edict_core::Latents;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Draws independent standard normal values, the same for one seed on every machine and with every back end.
///
/// The generator is ChaCha with 12 rounds; values fill the array in row-major order.
pub fn seeded_noise(shape: &[usize], seed: u64) -> Latents {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    Latents::from_shape_simple_fn(shape, || StandardNormal.sample(&mut rng))
}
