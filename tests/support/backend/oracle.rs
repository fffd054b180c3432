//! The operations again, as plain loops in f64, and what the tests share.

use std::borrow::Cow;

use edict_stable_diffusion::{Conv2dGeometry, DType, RawTensor};
use ndarray::{ArrayD, Dimension, IxDyn};

use super::Tested;

pub(crate) const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// Values that every element type has: multiples of 1/64 below 2 in magnitude.
pub(crate) fn values(shape: &[usize], seed: u64) -> ArrayD<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 33) % 255) as f64 / 64.0 - 127.0 / 64.0
    })
}

pub(crate) fn raw(values: &ArrayD<f64>) -> RawTensor<'static> {
    let data: Vec<u8> = values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
    RawTensor { dtype: DType::F32, shape: values.shape().to_vec(), data: Cow::Owned(data) }
}

/// Half the distance from 1 to the next number: the relative error of one rounding.
pub(crate) fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(-53),
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
    }
}

/// Bound for the error of a result relative to its largest element.
///
/// One rounding of the result, and those of a sum of `terms` terms in the precision computed in (f32 for half formats),
/// which accumulate as a random walk; 8 stands for the few operations around the sum and for the walk's spread.
pub(crate) fn tolerance(dtype: DType, terms: usize) -> f64 {
    let inner = rounding(dtype).min(rounding(DType::F32));
    rounding(dtype) + 8.0 * (terms as f64).sqrt() * inner
}

/// Runs an operation in every element type and compares it with the expected result.
pub(crate) fn check<T: Tested>(
    what: &str,
    terms: usize,
    expected: &ArrayD<f64>,
    operation: impl Fn(&T::Backend) -> ArrayD<f64>,
) {
    let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for dtype in DTYPES {
        let found = operation(&T::cpu(dtype));
        assert_eq!(found.shape(), expected.shape(), "{what}, {dtype}");
        let error = (&found - expected)
            .iter()
            .fold(0.0f64, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b.abs()) });
        let bound = tolerance(dtype, terms) * largest;
        assert!(
            error <= bound,
            "{what}, {dtype}: error {error:e} exceeds {bound:e} (largest element {largest:e})"
        );
    }
}

pub(crate) fn conv2d(
    image: &ArrayD<f64>,
    weight: &ArrayD<f64>,
    bias: Option<&ArrayD<f64>>,
    geometry: Conv2dGeometry,
) -> ArrayD<f64> {
    let (&[batch, channels, height, width], &[outputs, _, kernel, _]) = (image.shape(), weight.shape())
    else {
        unreachable!()
    };
    let Conv2dGeometry { stride, padding_before, padding_after } = geometry;
    let extent = |n: usize| (n + padding_before + padding_after - kernel) / stride + 1;
    ArrayD::from_shape_fn(IxDyn(&[batch, outputs, extent(height), extent(width)]), |at| {
        let mut sum = bias.map_or(0.0, |bias| bias[[at[1]]]);
        for c in 0..channels {
            for dy in 0..kernel {
                for dx in 0..kernel {
                    let y = (at[2] * stride + dy).wrapping_sub(padding_before);
                    let x = (at[3] * stride + dx).wrapping_sub(padding_before);
                    if y < height && x < width {
                        sum += image[[at[0], c, y, x]] * weight[[at[1], c, dy, dx]];
                    }
                }
            }
        }
        sum
    })
}

pub(crate) fn linear(x: &ArrayD<f64>, weight: &ArrayD<f64>, bias: Option<&ArrayD<f64>>) -> ArrayD<f64> {
    let mut shape = x.shape().to_vec();
    *shape.last_mut().unwrap() = weight.shape()[0];
    ArrayD::from_shape_fn(IxDyn(&shape), |at| {
        let mut from = at.clone();
        let last = at.ndim() - 1;
        let mut sum = bias.map_or(0.0, |bias| bias[[at[last]]]);
        for i in 0..weight.shape()[1] {
            from[last] = i;
            sum += x[&from] * weight[[at[last], i]];
        }
        sum
    })
}

pub(crate) fn group_norm(
    image: &ArrayD<f64>,
    weight: &ArrayD<f64>,
    bias: &ArrayD<f64>,
    groups: usize,
    eps: f64,
) -> ArrayD<f64> {
    let &[_, channels, height, width] = image.shape() else { unreachable!() };
    let size = channels / groups;
    ArrayD::from_shape_fn(image.raw_dim(), |at| {
        let first = at[1] / size * size;
        let mut group = Vec::new();
        for c in first..first + size {
            for y in 0..height {
                for x in 0..width {
                    group.push(image[[at[0], c, y, x]]);
                }
            }
        }
        (image[&at] - mean(&group)) / (variance(&group) + eps).sqrt() * weight[[at[1]]] + bias[[at[1]]]
    })
}

pub(crate) fn layer_norm(x: &ArrayD<f64>, weight: &ArrayD<f64>, bias: &ArrayD<f64>, eps: f64) -> ArrayD<f64> {
    let last = x.ndim() - 1;
    ArrayD::from_shape_fn(x.raw_dim(), |at| {
        let mut from = at.clone();
        let row: Vec<f64> = (0..x.shape()[last])
            .map(|i| {
                from[last] = i;
                x[&from]
            })
            .collect();
        (x[&at] - mean(&row)) / (variance(&row) + eps).sqrt() * weight[[at[last]]] + bias[[at[last]]]
    })
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn variance(x: &[f64]) -> f64 {
    let mean = mean(x);
    x.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / x.len() as f64
}

pub(crate) fn attention(
    query: &ArrayD<f64>,
    key: &ArrayD<f64>,
    value: &ArrayD<f64>,
    heads: usize,
    causal: bool,
) -> ArrayD<f64> {
    let m = key.shape()[1];
    let depth = query.shape()[2] / heads;
    ArrayD::from_shape_fn(query.raw_dim(), |at| {
        let (item, row, head) = (at[0], at[1], at[2] / depth * depth);
        let seen = if causal { m.min(row + 1) } else { m };
        let scores: Vec<f64> = (0..seen)
            .map(|j| {
                let product: f64 =
                    (head..head + depth).map(|c| query[[item, row, c]] * key[[item, j, c]]).sum();
                product / (depth as f64).sqrt()
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let mixed: f64 = weights.iter().enumerate().map(|(j, w)| w * value[[item, j, at[2]]]).sum();
        mixed / weights.iter().sum::<f64>()
    })
}

pub(crate) fn upsample(image: &ArrayD<f64>, height: usize, width: usize) -> ArrayD<f64> {
    let &[batch, channels, rows, columns] = image.shape() else { unreachable!() };
    ArrayD::from_shape_fn(IxDyn(&[batch, channels, height, width]), |at| {
        image[[at[0], at[1], at[2] * rows / height, at[3] * columns / width]]
    })
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `x Phi(x)` with Phi integrated from its series and continued fraction, which share nothing with a library's erf.
pub(crate) fn gelu(x: f64) -> f64 {
    let z = x.abs();
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // The share of the normal distribution above z.
    let above = if z < 3.0 {
        // Phi(z) - 1/2 = density (z + z^3/3 + z^5/15 + ...)
        let (mut term, mut sum, mut n) = (z, z, 1.0);
        while term > 1e-18 * sum {
            n += 2.0;
            term *= z * z / n;
            sum += term;
        }
        0.5 - density * sum
    } else {
        // density / (z + 1/(z + 2/(z + 3/(z + ...))))
        density / (1..200).rev().fold(z, |tail, k| z + f64::from(k) / tail)
    };
    x * if x > 0.0 { 1.0 - above } else { above }
}
