//! The arrays samplers work on.

use ndarray::{ArrayD, ArrayViewD};
use num_traits::AsPrimitive;

/// Latents on the host, `[batch, ...]`.
///
/// Samplers always compute in `f64`, whatever the network's precision: inversion multiplies rounding errors by up to
/// `p^(-2n)`, which half or single precision does not survive.
pub type Latents = ArrayD<f64>;

/// Converts an array of any float or integer type to [`Latents`].
///
/// ```
/// let z = edict_core::widen(ndarray::arr1(&[0.5f32, 1.0]).into_dyn().view());
/// assert_eq!(z.as_slice(), Some(&[0.5, 1.0][..]));
/// ```
pub fn widen<T: AsPrimitive<f64>>(values: ArrayViewD<'_, T>) -> Latents {
    values.mapv(T::as_)
}

/// Rounds latents to another type, as a model of lower precision does with its input.
///
/// Rounds to nearest; values beyond the range of a float type become infinite.
pub fn narrow<T: Copy + 'static>(latents: ArrayViewD<'_, f64>) -> ArrayD<T>
where
    f64: AsPrimitive<T>,
{
    latents.mapv(AsPrimitive::as_)
}
