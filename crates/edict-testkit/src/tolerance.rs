//! How large rounding errors may be, as functions of precision, step count and mixing weight.

/// Unit round-off of `f64`.
pub const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;

/// Bounds the error of image -> noise -> image by EDICT without guidance: `100 n u` times the largest latent reached.
///
/// Each of the `n` steps rounds a handful of times in either direction, at the size of the latents then; generation, which
/// comes last, contracts. Measured on smooth predictors the error is 0.5 to 2.7 `n u` times the largest latent, so a factor
/// of 100 leaves room for predictors of larger slope and nothing else.
pub fn image_round_trip(steps: usize, largest: f64) -> f64 {
    100.0 * steps as f64 * UNIT_ROUNDOFF * largest
}

/// Bounds the error of noise -> image -> noise by EDICT without guidance: `10 n u p^(-2n)` times the largest latent reached.
///
/// Generation multiplies the pair's difference by `p^2` a step and so loses its low bits; inversion blows the rounding errors
/// up again. Measured: 0.006 to 0.08 of `n u p^(-2n)`.
pub fn noise_round_trip(steps: usize, mixing_weight: f64, largest: f64) -> f64 {
    10.0 * steps as f64 * UNIT_ROUNDOFF * mixing_weight.powi(-2 * steps as i32) * largest
}

/// Bounds the accumulated rounding of `operations` roundings at size `largest`: each errs by at most `u largest`, and twice
/// that is allowed because errors are themselves carried through steps whose coefficients are near 1.
pub fn accumulated(operations: usize, largest: f64) -> f64 {
    2.0 * operations as f64 * UNIT_ROUNDOFF * largest
}
