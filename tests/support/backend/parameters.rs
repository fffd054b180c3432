//! Bytes of weight files to tensors.

use std::borrow::Cow;

use edict_stable_diffusion::{Backend, Conv2dGeometry, DType, RawTensor};
use half::{bf16, f16};
use ndarray::{ArrayD, arr1};

use super::oracle::{self, DTYPES};
use super::{Complaint, Tested};

/// Numbers that decide about rounding: exact ones, ties, near ties, ends of ranges, signed zeros, subnormals.
fn hard_numbers() -> Vec<f64> {
    let mut numbers = vec![0.0, 1.0, 0.1, 1.0 / 3.0, 65504.0, 65519.0, 65519.999, 65520.0, 1e-7, 3e38, 1e-45];
    // Ties of f16, bf16 and f32, even and odd, and their neighbours in f64 on both sides.
    for bits in [11, 8, 24] {
        for last in [0.0, 1.0] {
            let tie = 1.0 + (last + 0.5) * 2f64.powi(1 - bits);
            let near = 2f64.powi(-45);
            numbers.extend([tie, tie + near, tie - near, tie + f64::EPSILON, tie - f64::EPSILON / 2.0]);
        }
    }
    // Around the subnormals of f16 (2^-24) and bf16 (2^-133).
    for power in [-24, -133] {
        let smallest = 2f64.powi(power);
        numbers.extend([0.5, 0.5 + 1e-9, 1.5, 1.5 - 1e-9, 2.5].map(|n| n * smallest));
    }
    numbers.extend([1e300, 1e-300, f64::INFINITY]);
    numbers.iter().flat_map(|&x| [x, -x]).collect()
}

/// Rounds to nearest, ties to even, to `bits` significant bits with exponents from `lowest` and values up to `largest`.
fn nearest(x: f64, bits: i32, lowest: i32, largest: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    // The power of two at or below |x|, from its bits; subnormal f64 is far below every format tried.
    let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(lowest);
    let unit = 2f64.powi(exponent - bits + 1);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
}

fn rounded(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => x,
        DType::F32 => nearest(x, 24, -126, f32::MAX.into()),
        DType::F16 => nearest(x, 11, -14, 65504.0),
        DType::BF16 => nearest(x, 8, -126, bf16::MAX.to_f64()),
    }
}

/// The bytes of numbers that `dtype` has.
fn bytes(numbers: &[f64], dtype: DType) -> Vec<u8> {
    let bytes = |&x: &f64| match dtype {
        DType::F64 => x.to_le_bytes().to_vec(),
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(bytes).collect()
}

pub(crate) fn rounds_uploaded_values_once<T: Tested>() {
    let numbers = hard_numbers();
    for dtype in DTYPES {
        let backend = T::cpu(dtype);
        let found = backend.download(&backend.upload(arr1(&numbers).into_dyn().view()).unwrap()).unwrap();
        for (&x, &found) in numbers.iter().zip(&found) {
            let expected = rounded(x, dtype);
            assert_eq!(found.to_bits(), expected.to_bits(), "{x:e} in {dtype}: {found:e}, not {expected:e}");
        }
        let nan = backend.upload(arr1(&[f64::NAN]).into_dyn().view()).unwrap();
        assert!(backend.download(&nan).unwrap()[[0]].is_nan());
    }
}

pub(crate) fn reads_every_format_into_every_other_at_any_alignment<T: Tested>() {
    for stored in DTYPES {
        // What the file can hold.
        let numbers: Vec<f64> = hard_numbers().iter().map(|&x| rounded(x, stored)).collect();
        for dtype in DTYPES {
            for offset in [0, 1, 3] {
                let mut data = vec![0xff; offset];
                data.extend(bytes(&numbers, stored));
                let raw = RawTensor {
                    dtype: stored,
                    shape: vec![numbers.len() / 2, 2],
                    data: Cow::Borrowed(&data[offset..]),
                };
                let backend = T::cpu(dtype);
                let found = backend.download(&backend.load_table(raw).unwrap()).unwrap();
                assert_eq!(found.shape(), [numbers.len() / 2, 2]);
                for (&x, &found) in numbers.iter().zip(&found) {
                    assert_eq!(found.to_bits(), rounded(x, dtype).to_bits(), "{x:e}: {stored} to {dtype}");
                }
            }
        }
    }
}

pub(crate) fn parameters_are_debugged_without_their_elements<T: Tested>() {
    let backend = T::cpu(DType::F32);
    let conv = backend
        .load_conv2d(
            oracle::raw(&oracle::values(&[40, 30, 3, 3], 1)),
            None,
            Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 },
        )
        .unwrap();
    let linear = backend.load_linear(oracle::raw(&oracle::values(&[90, 80], 2)), None).unwrap();
    for text in [format!("{conv:?}"), format!("{linear:?}")] {
        assert!(text.to_lowercase().contains("f32") && text.len() < 400, "{text}");
    }
}

pub(crate) fn uploads_and_downloads_in_row_major_order_whatever_the_layout<T: Tested>() {
    let x = oracle::values(&[3, 4, 5], 1);
    let transposed = x.view().permuted_axes(vec![2, 0, 1]);
    let backend = T::cpu(DType::F64);
    let found = backend.download(&backend.upload(transposed.view()).unwrap()).unwrap();
    assert_eq!(found, transposed);
}

pub(crate) fn refuses_bytes_that_do_not_fill_the_shape<T: Tested>() {
    let backend = T::cpu(DType::F32);
    for (shape, length) in [(vec![2, 3], 23), (vec![2, 3], 25), (vec![usize::MAX, 8], 16), (vec![0, 3], 4)] {
        let raw = RawTensor { dtype: DType::F32, shape, data: Cow::Owned(vec![0; length]) };
        let error = backend.load_table(raw).unwrap_err();
        assert_eq!(T::complaint(&error), Complaint::DataLength(length), "{error}");
    }
}

pub(crate) fn changes_the_element_type_and_nothing_else<T: Tested>() {
    let backend = T::with_threads(DType::F32, 3);
    let other = backend.with_dtype(DType::BF16);
    assert_eq!((other.dtype(), backend.dtype(), T::threads(&other)), (DType::BF16, DType::F32, 3));
    let third = other.upload(ArrayD::from_elem(vec![1], 1.0 / 3.0).view()).unwrap();
    assert_eq!(other.download(&third).unwrap()[[0]], 0.333984375);
}
