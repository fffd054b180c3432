//! How far pictures and latents are from each other.

use ndarray::{ArrayViewD, Zip};

/// What a metric cannot compare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// The arrays have different shapes.
    #[error("a metric needs arrays of one shape, found {left:?} and {right:?}")]
    Shape {
        /// Shape of the first array.
        left: Vec<usize>,
        /// Shape of the other one.
        right: Vec<usize>,
    },
    /// The arrays have no elements.
    #[error("a metric needs at least one element, found shape {shape:?}")]
    Empty {
        /// Their shape.
        shape: Vec<usize>,
    },
}

fn check(left: &ArrayViewD<'_, f64>, right: &ArrayViewD<'_, f64>) -> Result<f64, MetricError> {
    if left.shape() != right.shape() {
        return Err(MetricError::Shape { left: left.shape().to_vec(), right: right.shape().to_vec() });
    }
    if left.is_empty() {
        return Err(MetricError::Empty { shape: left.shape().to_vec() });
    }
    Ok(left.len() as f64)
}

/// Returns the mean squared difference of two images in (-1, 1), each clamped to that range and not rounded.
///
/// The measure of the EDICT paper's Table 1 (arXiv:2211.12446). In [0, 4]; a quarter of it is the error for pixels in [0, 1].
/// Not a number if an image holds such.
///
/// # Errors
/// [`MetricError`] if the shapes differ or are empty.
///
/// # Example
/// ```
/// use ndarray::array;
/// let decoded = array![[1.5, -1.0]].into_dyn(); // 1.5 counts as 1
/// let original = array![[1.0, 0.0]].into_dyn();
/// assert_eq!(edict_stable_diffusion::pixel_mse(decoded.view(), original.view())?, 0.5);
/// # Ok::<(), edict_stable_diffusion::MetricError>(())
/// ```
pub fn pixel_mse(image: ArrayViewD<'_, f64>, reference: ArrayViewD<'_, f64>) -> Result<f64, MetricError> {
    let count = check(&image, &reference)?;
    // `clamp` keeps what is not a number.
    let term = |sum, &a: &f64, &b: &f64| sum + (a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
    Ok(Zip::from(&image).and(&reference).fold(0.0, term) / count)
}

/// Converts a [`pixel_mse`] to the peak signal-to-noise ratio of pixels in [0, 1], in dB: `-10 log10(pixel_mse / 4)`.
///
/// Infinite for images that are equal.
pub fn psnr(pixel_mse: f64) -> f64 {
    -10.0 * (pixel_mse / 4.0).log10()
}

/// Returns the largest absolute difference of two latents; not a number if a difference is none.
///
/// # Errors
/// [`MetricError`] if the shapes differ or are empty.
pub fn latent_max_abs_error(
    latent: ArrayViewD<'_, f64>,
    reference: ArrayViewD<'_, f64>,
) -> Result<f64, MetricError> {
    check(&latent, &reference)?;
    // `f64::max` would drop what is not a number.
    let larger = |max: f64, &a: &f64, &b: &f64| {
        let error = (a - b).abs();
        if error > max || error.is_nan() { error } else { max }
    };
    Ok(Zip::from(&latent).and(&reference).fold(0.0, larger))
}

/// Returns the mean squared difference of two latents.
///
/// # Errors
/// [`MetricError`] if the shapes differ or are empty.
pub fn latent_mse(latent: ArrayViewD<'_, f64>, reference: ArrayViewD<'_, f64>) -> Result<f64, MetricError> {
    let count = check(&latent, &reference)?;
    Ok(Zip::from(&latent).and(&reference).fold(0.0, |sum, &a, &b| sum + (a - b).powi(2)) / count)
}

/// How many elements of a latent came back with every bit they had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitIdentical {
    /// Elements that agree.
    pub equal: usize,
    /// Elements there are.
    pub total: usize,
}

/// Counts the elements of a latent whose f64 bits are those of the reference: 0 and -0 differ.
///
/// # Errors
/// [`MetricError`] if the shapes differ or are empty.
pub fn bit_identical(
    latent: ArrayViewD<'_, f64>,
    reference: ArrayViewD<'_, f64>,
) -> Result<BitIdentical, MetricError> {
    bit_identical_pair(latent.view(), latent.view(), reference)
}

/// Counts the elements for which both latents of a pair have the f64 bits of the reference.
///
/// `total` is the number of elements of one latent.
///
/// # Errors
/// [`MetricError`] if the shapes differ or are empty.
pub fn bit_identical_pair(
    x: ArrayViewD<'_, f64>,
    y: ArrayViewD<'_, f64>,
    reference: ArrayViewD<'_, f64>,
) -> Result<BitIdentical, MetricError> {
    check(&x, &reference)?;
    check(&y, &reference)?;
    let equal = Zip::from(&x).and(&y).and(&reference).fold(0, |equal, &x, &y, &r| {
        equal + usize::from(x.to_bits() == r.to_bits() && y.to_bits() == r.to_bits())
    });
    Ok(BitIdentical { equal, total: reference.len() })
}

/// The first moments of an array's elements: 0, 1 and 3 for the noise a diffusion model starts from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, with the number of elements as divisor.
    pub std: f64,
    /// The fourth central moment over the squared variance (not reduced by 3); not a number where `std` is 0.
    pub kurtosis: f64,
}

/// Returns the mean, standard deviation and kurtosis of all elements.
///
/// # Errors
/// [`MetricError::Empty`] if there are none.
pub fn moments(values: ArrayViewD<'_, f64>) -> Result<Moments, MetricError> {
    let count = check(&values, &values)?;
    let mean = values.iter().sum::<f64>() / count;
    let central = |power| values.iter().map(|v| (v - mean).powi(power)).sum::<f64>() / count;
    let variance = central(2);
    Ok(Moments { mean, std: variance.sqrt(), kurtosis: central(4) / (variance * variance) })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array1, ArrayD, IxDyn, array};

    use super::*;

    #[test]
    fn pixels_are_clamped_before_they_are_compared() {
        let image = array![[-3.0, 0.25], [1.0, 7.0]].into_dyn();
        let reference = array![[-1.0, -0.25], [0.0, 1.0]].into_dyn();
        assert_eq!(pixel_mse(image.view(), reference.view()).unwrap(), (0.25 + 1.0) / 4.0);
        let broken = array![[f64::NAN, 0.0], [0.0, 0.0]].into_dyn();
        assert!(pixel_mse(broken.view(), reference.view()).unwrap().is_nan());
    }

    #[test]
    fn psnr_is_that_of_pixels_in_0_1() {
        // Black against white: an error of 1 in [0, 1].
        let (black, white) = (array![-1.0].into_dyn(), array![1.0].into_dyn());
        assert_eq!(psnr(pixel_mse(black.view(), white.view()).unwrap()), 0.0);
        // A tenth of the range everywhere: 20 dB.
        let (a, b) = (array![0.0, 0.4].into_dyn(), array![0.2, 0.6].into_dyn());
        let found = psnr(pixel_mse(a.view(), b.view()).unwrap());
        assert!((found - 20.0).abs() < 1e-12, "{found}");
        assert_eq!(psnr(0.0), f64::INFINITY);
    }

    #[test]
    fn latents_are_not_clamped() {
        let (a, b) = (array![10.0, -4.0, 0.0].into_dyn(), array![7.0, -4.0, 1.0].into_dyn());
        assert_eq!(latent_max_abs_error(a.view(), b.view()).unwrap(), 3.0);
        assert_eq!(latent_mse(a.view(), b.view()).unwrap(), 10.0 / 3.0);
        for at in 0..3 {
            let mut broken = a.clone();
            broken[at] = f64::NAN;
            assert!(latent_max_abs_error(broken.view(), b.view()).unwrap().is_nan());
        }
    }

    #[test]
    fn counts_bits_not_values() {
        let reference = array![0.0, 1.0, f64::NAN, 0.1 + 0.2].into_dyn();
        let x = array![-0.0, 1.0, f64::NAN, 0.3].into_dyn();
        let found = bit_identical(x.view(), reference.view()).unwrap();
        assert_eq!(found, BitIdentical { equal: 2, total: 4 });
        let y = array![0.0, 2.0, f64::NAN, 0.1 + 0.2].into_dyn();
        let found = bit_identical_pair(x.view(), y.view(), reference.view()).unwrap();
        assert_eq!(found, BitIdentical { equal: 1, total: 4 });
    }

    #[test]
    fn moments_have_their_closed_forms() {
        // Two points: the smallest kurtosis there is.
        let found = moments(array![1.0, 5.0, 1.0, 5.0].into_dyn().view()).unwrap();
        assert_eq!(found, Moments { mean: 3.0, std: 2.0, kurtosis: 1.0 });
        // A uniform grid of n points: variance (n^2 - 1)/12, kurtosis 3/5 (3 n^2 - 7)/(n^2 - 1).
        let n = 101.0_f64;
        let found = moments(Array1::from_iter((0..101).map(f64::from)).into_dyn().view()).unwrap();
        assert_eq!(found.mean, 50.0);
        assert!((found.std - ((n * n - 1.0) / 12.0).sqrt()).abs() < 1e-12);
        assert!((found.kurtosis - 0.6 * (3.0 * n * n - 7.0) / (n * n - 1.0)).abs() < 1e-12);
        assert!(moments(array![2.0, 2.0].into_dyn().view()).unwrap().kurtosis.is_nan());
    }

    #[test]
    fn refuses_other_shapes_and_nothing() {
        let (a, b) = (ArrayD::zeros(IxDyn(&[2, 3])), ArrayD::zeros(IxDyn(&[3, 2])));
        let shape = MetricError::Shape { left: vec![2, 3], right: vec![3, 2] };
        assert_eq!(pixel_mse(a.view(), b.view()), Err(shape.clone()));
        assert_eq!(latent_mse(a.view(), b.view()), Err(shape.clone()));
        assert_eq!(latent_max_abs_error(a.view(), b.view()), Err(shape.clone()));
        assert_eq!(bit_identical(a.view(), b.view()), Err(shape));
        let empty = ArrayD::zeros(IxDyn(&[0, 3]));
        assert_eq!(moments(empty.view()), Err(MetricError::Empty { shape: vec![0, 3] }));
    }
}
