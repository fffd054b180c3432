//! Every operation in every element type against plain loops in f64.

use edict_stable_diffusion::{AttentionOptions, Backend, Conv2dGeometry, DType};
use ndarray::{Array1, Array2, ArrayD, Axis, Slice, concatenate};

use super::oracle::{self, check, raw, values};
use super::{Tensor, Tested, up};

pub(crate) fn convolves_with_every_window_stride_and_padding<T: Tested>() {
    // (batch, in, height, width, out, kernel, stride, padding before, after)
    let cases = [
        (1, 3, 8, 8, 5, 3, 1, 1, 1),
        (2, 4, 7, 9, 6, 3, 1, 1, 1),
        (2, 3, 9, 11, 4, 3, 2, 1, 1),
        (2, 3, 9, 8, 4, 3, 2, 0, 1),
        (1, 2, 10, 7, 3, 3, 2, 0, 1),
        (3, 5, 6, 5, 7, 1, 1, 0, 0),
        (1, 4, 7, 7, 3, 1, 2, 0, 0),
        (1, 2, 3, 3, 2, 3, 1, 0, 0),
        (1, 1, 1, 1, 1, 3, 1, 1, 1),
        (1, 2, 2, 3, 2, 3, 1, 2, 3),
        (1, 2, 1, 4, 3, 3, 2, 4, 0),
        (2, 33, 17, 19, 29, 3, 1, 1, 1),
        (1, 2, 2, 2, 3, 1, 2, 0, 1),
        // Channels enough for the quicker way of convolving.
        (2, 96, 17, 18, 48, 3, 1, 1, 1),
        (1, 96, 15, 14, 32, 3, 1, 1, 2),
    ];
    for (batch, channels, height, width, outputs, kernel, stride, padding_before, padding_after) in cases {
        let image = values(&[batch, channels, height, width], 1);
        let weight = values(&[outputs, channels, kernel, kernel], 2);
        let bias = values(&[outputs], 3);
        let geometry = Conv2dGeometry { stride, padding_before, padding_after };
        for bias in [Some(&bias), None] {
            let expected = oracle::conv2d(&image, &weight, bias, geometry);
            check::<T>(&format!("conv2d {geometry:?}"), channels * kernel * kernel, &expected, |backend| {
                let conv = backend.load_conv2d(raw(&weight), bias.map(raw), geometry).unwrap();
                backend.download(&backend.conv2d(&up(backend, &image), &conv).unwrap()).unwrap()
            });
        }
    }
}

/// What a back end prepares for images of one shape must not be taken for those of another.
pub(crate) fn convolves_images_of_one_shape_after_another<T: Tested>() {
    // Few channels fill no block of a prepared weight.
    for (channels, outputs, kernel, stride) in
        [(160, 96, 3, 1), (160, 96, 3, 2), (160, 96, 1, 1), (4, 33, 3, 1), (33, 3, 3, 1)]
    {
        let weight = values(&[outputs, channels, kernel, kernel], 2);
        let geometry = Conv2dGeometry { stride, padding_before: kernel / 2, padding_after: kernel / 2 };
        let images = [[1, 8, 8], [2, 8, 8], [2, 8, 8], [2, 8, 8], [1, 16, 40], [1, 16, 40], [1, 8, 8]]
            .map(|[batch, height, width]| values(&[batch, channels, height, width], 1));
        let joined = |parts: Vec<ArrayD<f64>>| Array1::from_iter(parts.into_iter().flatten()).into_dyn();
        let expected = images.iter().map(|image| oracle::conv2d(image, &weight, None, geometry)).collect();
        check::<T>(
            &format!("conv2d {geometry:?}"),
            channels * kernel * kernel,
            &joined(expected),
            |backend| {
                let conv = backend.load_conv2d(raw(&weight), None, geometry).unwrap();
                let convolve =
                    |image| backend.download(&backend.conv2d(&up(backend, image), &conv).unwrap()).unwrap();
                joined(images.iter().map(convolve).collect())
            },
        );
    }
}

pub(crate) fn maps_the_last_axis_of_any_rank<T: Tested>() {
    for shape in [&[5][..], &[1, 7], &[2, 13], &[2, 3, 40], &[1, 2, 3, 33], &[2, 77, 130]] {
        let inputs = *shape.last().unwrap();
        let x = values(shape, 1);
        let weight = values(&[2 * inputs - 3, inputs], 2);
        let bias = values(&[2 * inputs - 3], 3);
        for bias in [Some(&bias), None] {
            check::<T>(&format!("linear {shape:?}"), inputs, &oracle::linear(&x, &weight, bias), |backend| {
                let linear = backend.load_linear(raw(&weight), bias.map(raw)).unwrap();
                backend.download(&backend.linear(&up(backend, &x), &linear).unwrap()).unwrap()
            });
        }
    }
}

pub(crate) fn normalises_groups_of_channels<T: Tested>() {
    for (shape, groups) in [([2, 6, 3, 5], 3), ([1, 32, 7, 9], 32), ([2, 8, 1, 1], 2), ([1, 4, 33, 65], 1)] {
        let (image, weight, bias) = (values(&shape, 1), values(&shape[1..2], 2), values(&shape[1..2], 3));
        let expected = oracle::group_norm(&image, &weight, &bias, groups, 1e-5);
        let terms = shape.iter().product::<usize>() / (shape[0] * groups);
        check::<T>("group_norm", terms, &expected, |backend| {
            let norm = backend.load_norm(raw(&weight), raw(&bias)).unwrap();
            backend.download(&backend.group_norm(&up(backend, &image), &norm, groups, 1e-5).unwrap()).unwrap()
        });
        check::<T>("group_norm_silu", terms, &expected.mapv(oracle::silu), |backend| {
            let norm = backend.load_norm(raw(&weight), raw(&bias)).unwrap();
            let y = backend.group_norm_silu(&up(backend, &image), &norm, groups, 1e-5).unwrap();
            backend.download(&y).unwrap()
        });
    }
}

pub(crate) fn normalises_groups_far_from_zero<T: Tested>() {
    // A mean a thousand times the deviation: f32 sums of squares would lose six digits.
    let image = values(&[1, 4, 32, 32], 1) / 2.0 + 1000.0;
    let image = image.mapv(|x| f64::from(x as f32));
    let (weight, bias) = (values(&[4], 2), values(&[4], 3));
    let expected = oracle::group_norm(&image, &weight, &bias, 2, 1e-5);
    let backend = T::cpu(DType::F32);
    let norm = backend.load_norm(raw(&weight), raw(&bias)).unwrap();
    let found =
        backend.download(&backend.group_norm(&up(&backend, &image), &norm, 2, 1e-5).unwrap()).unwrap();
    let error = (&found - &expected).iter().fold(0.0f64, |a, b| a.max(b.abs()));
    assert!(error < 4.0 * oracle::rounding(DType::F32) * 4.0, "{error:e}");
}

pub(crate) fn normalises_the_last_axis<T: Tested>() {
    for shape in [&[7][..], &[3, 5], &[2, 77, 96], &[1, 9, 1280]] {
        let channels = &shape[shape.len() - 1..];
        let (x, weight, bias) = (values(shape, 1), values(channels, 2), values(channels, 3));
        check::<T>("layer_norm", channels[0], &oracle::layer_norm(&x, &weight, &bias, 1e-5), |backend| {
            let norm = backend.load_norm(raw(&weight), raw(&bias)).unwrap();
            backend.download(&backend.layer_norm(&up(backend, &x), &norm, 1e-5).unwrap()).unwrap()
        });
    }
}

pub(crate) fn attends<T: Tested>() {
    // (batch, n, m, channels, heads)
    for (batch, n, m, channels, heads) in
        [(1, 1, 1, 4, 1), (2, 13, 7, 12, 3), (1, 99, 99, 16, 2), (2, 20, 77, 40, 8), (1, 35, 35, 64, 1)]
    {
        let query = values(&[batch, n, channels], 1);
        let key = values(&[batch, m, channels], 2);
        let value = values(&[batch, m, channels], 3);
        for options in [
            AttentionOptions::default(),
            AttentionOptions { causal: true, upcast: false },
            AttentionOptions { causal: true, upcast: true },
            AttentionOptions { causal: false, upcast: true },
        ] {
            let expected = oracle::attention(&query, &key, &value, heads, options.causal);
            check::<T>(
                &format!("attention {n} {m} {heads} {options:?}"),
                m + channels,
                &expected,
                |backend| {
                    let [query, key, value] = [&query, &key, &value].map(|x| up(backend, x));
                    backend
                        .download(&backend.attention(&query, &key, &value, heads, options).unwrap())
                        .unwrap()
                },
            );
        }
    }
}

pub(crate) fn attends_beyond_one_block_of_keys_and_to_wide_heads<T: Tested>() {
    // Keys of several blocks, the last of them ragged; a head of more channels than are multiplied at once.
    for (n, m, channels, heads) in [(40, 600, 80, 2), (7, 257, 300, 1), (5, 300, 520, 1)] {
        let (query, key) = (values(&[1, n, channels], 1), values(&[1, m, channels], 2));
        let value = values(&[1, m, channels], 3);
        let expected = oracle::attention(&query, &key, &value, heads, false);
        check::<T>(&format!("attention {n} {m} {channels} {heads}"), m + channels, &expected, |backend| {
            let [query, key, value] = [&query, &key, &value].map(|x| up(backend, x));
            backend
                .download(&backend.attention(&query, &key, &value, heads, Default::default()).unwrap())
                .unwrap()
        });
    }
}

pub(crate) fn attends_by_scores_of_any_size<T: Tested>() {
    // Scores near +-20000, beyond exp's range: only the difference to the largest counts.
    let query = values(&[1, 12, 8], 1) * 64.0;
    let key = values(&[1, 12, 8], 2) * 64.0;
    let value = values(&[1, 12, 8], 3);
    let expected = oracle::attention(&query, &key, &value, 2, false);
    check::<T>("attention to large scores", 64, &expected, |backend| {
        let [query, key, value] = [&query, &key, &value].map(|x| up(backend, x));
        backend.download(&backend.attention(&query, &key, &value, 2, Default::default()).unwrap()).unwrap()
    });
}

pub(crate) fn passes_on_what_is_not_a_number<T: Tested>() {
    for dtype in oracle::DTYPES {
        let backend = T::cpu(dtype);
        if T::ATTENTION_KEEPS_NAN {
            let mut query = values(&[1, 3, 4], 1);
            query[[0, 1, 2]] = f64::NAN;
            let (query, key) = (up(&backend, &query), up(&backend, &values(&[1, 3, 4], 2)));
            let y = backend
                .download(&backend.attention(&query, &key, &key, 2, Default::default()).unwrap())
                .unwrap();
            assert!(y[[0, 1, 2]].is_nan() && y[[0, 1, 3]].is_nan() && y[[0, 0, 2]].is_finite(), "{y}");
        }
        let nan = up(&backend, &ArrayD::from_elem(vec![1, 2], f64::NAN));
        for y in [backend.silu(&nan), backend.gelu(&nan), backend.quick_gelu(&nan), backend.geglu(&nan)] {
            assert!(backend.download(&y.unwrap()).unwrap()[[0, 0]].is_nan());
        }
    }
}

pub(crate) fn activates<T: Tested>() {
    // Steps of 1/8 to +-12 in one row of even length.
    let x = ArrayD::from_shape_fn(vec![2, 3, 32], |at| (at[0] * 96 + at[1] * 32 + at[2]) as f64 / 8.0 - 12.0);
    type Activation<T> = (&'static str, fn(f64) -> f64, fn(&<T as Tested>::Backend, &Tensor<T>) -> Tensor<T>);
    let activations: [Activation<T>; 3] = [
        ("silu", oracle::silu, |backend, x| backend.silu(x).unwrap()),
        ("gelu", oracle::gelu, |backend, x| backend.gelu(x).unwrap()),
        ("quick_gelu", |x| x / (1.0 + (-1.702 * x).exp()), |backend, x| backend.quick_gelu(x).unwrap()),
    ];
    for (name, expected, found) in activations {
        check::<T>(name, 1, &x.mapv(expected), |backend| {
            backend.download(&found(backend, &up(backend, &x))).unwrap()
        });
    }
    let (u, g) = (
        x.slice_axis(Axis(2), Slice::from(..16)).to_owned(),
        x.slice_axis(Axis(2), Slice::from(16..)).mapv(oracle::gelu),
    );
    check::<T>("geglu", 1, &(u * g), |backend| {
        backend.download(&backend.geglu(&up(backend, &x)).unwrap()).unwrap()
    });
}

pub(crate) fn maps_and_gates_in_one<T: Tested>() {
    // Halves of whole panels and not; more columns than are computed at once.
    for (shape, outputs) in
        [([2, 13, 40], 64), ([1, 7, 33], 96), ([1, 5, 12], 6), ([1, 401, 8], 352), ([3, 1, 1], 32)]
    {
        let (x, weight, bias) = (values(&shape, 1), values(&[outputs, shape[2]], 2), values(&[outputs], 3));
        for bias in [Some(&bias), None] {
            let both = oracle::linear(&x, &weight, bias);
            let [u, g] = [Slice::from(..outputs / 2), Slice::from(outputs / 2..)]
                .map(|half| both.slice_axis(Axis(2), half).to_owned());
            check::<T>(
                &format!("linear_geglu {shape:?}"),
                shape[2] + 1,
                &(u * g.mapv(oracle::gelu)),
                |backend| {
                    let linear = backend.load_linear(raw(&weight), bias.map(raw)).unwrap();
                    backend.download(&backend.linear_geglu(&up(backend, &x), &linear).unwrap()).unwrap()
                },
            );
        }
    }
}

pub(crate) fn gelu_is_right_far_into_its_tail<T: Tested>() {
    let x = ArrayD::from_shape_fn(vec![2001], |at| (at[0] as f64 - 1500.0) / 100.0);
    let backend = T::cpu(DType::F64);
    let found = backend.download(&backend.gelu(&up(&backend, &x)).unwrap()).unwrap();
    for (&x, &found) in x.iter().zip(&found) {
        let expected = oracle::gelu(x);
        let bound = T::gelu_bound(x, expected);
        assert!((found - expected).abs() <= bound, "gelu({x}) = {found:e}, not {expected:e}");
    }
}

pub(crate) fn moves_elements<T: Tested>() {
    let (first, second) = (values(&[2, 3, 5, 4], 1), values(&[2, 2, 5, 4], 2));
    for (height, width) in [(10, 8), (5, 4), (9, 7), (11, 4), (3, 2), (1, 13)] {
        check::<T>("upsample_to", 0, &oracle::upsample(&first, height, width), |backend| {
            let y = backend.upsample_to(&up(backend, &first), height, width).unwrap();
            assert_eq!(backend.image_size(&y), [height, width]);
            backend.download(&y).unwrap()
        });
    }
    check::<T>(
        "concat_channels",
        0,
        &concatenate(Axis(1), &[first.view(), second.view()]).unwrap(),
        |backend| {
            let y = backend.concat_channels(&up(backend, &first), &up(backend, &second)).unwrap();
            backend.download(&y).unwrap()
        },
    );
    let tokens = ArrayD::from_shape_fn(vec![2, 20, 3], |at| first[[at[0], at[2], at[1] / 4, at[1] % 4]]);
    check::<T>("image_to_tokens", 0, &tokens, |backend| {
        backend.download(&backend.image_to_tokens(&up(backend, &first)).unwrap()).unwrap()
    });
    check::<T>("tokens_to_image", 0, &first, |backend| {
        backend.download(&backend.tokens_to_image(&up(backend, &tokens), 5, 4).unwrap()).unwrap()
    });
    let table = values(&[9, 4], 3);
    let ids = Array2::from_shape_fn((2, 5), |(i, j)| ((7 * i + 4 * j) % 9) as u32);
    let rows = ArrayD::from_shape_fn(vec![2, 5, 4], |at| table[[ids[[at[0], at[1]]] as usize, at[2]]]);
    check::<T>("embed", 0, &rows, |backend| {
        let table = backend.load_table(raw(&table)).unwrap();
        backend.download(&backend.embed(&table, ids.view()).unwrap()).unwrap()
    });
}

pub(crate) fn adds_and_scales<T: Tested>() {
    // Longer than one task's share of elements.
    for shape in [[2, 3, 5, 4], [2, 5, 70, 71]] {
        let (x, y, bias) = (values(&shape, 1), values(&shape, 2), values(&shape[..2], 3));
        check::<T>("add", 1, &(&x + &y), |backend| {
            backend.download(&backend.add(&up(backend, &x), &up(backend, &y)).unwrap()).unwrap()
        });
        check::<T>("scale", 1, &(&x * -0.3), |backend| {
            backend.download(&backend.scale(&up(backend, &x), -0.3).unwrap()).unwrap()
        });
        let expected = ArrayD::from_shape_fn(x.raw_dim(), |at| x[&at] + bias[[at[0], at[1]]]);
        check::<T>("add_channel_bias", 1, &expected, |backend| {
            let y = backend.add_channel_bias(&up(backend, &x), &up(backend, &bias)).unwrap();
            backend.download(&y).unwrap()
        });
    }
}

pub(crate) fn rounds_half_formats_once<T: Tested>() {
    // What f32 gives for the same arguments, rounded: no step in between is in the half format.
    let image = values(&[2, 8, 9, 7], 1);
    let weight = values(&[6, 8, 3, 3], 2);
    let channel = values(&[8], 3);
    let tokens = values(&[2, 11, 8], 4);
    let square = values(&[8, 8], 5);
    let geometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };
    let run = |dtype: DType| -> Vec<ArrayD<f64>> {
        let backend = T::cpu(dtype);
        let (image, tokens) = (up(&backend, &image), up(&backend, &tokens));
        let norm = backend.load_norm(raw(&channel), raw(&channel)).unwrap();
        let conv = backend.load_conv2d(raw(&weight), None, geometry).unwrap();
        let linear = backend.load_linear(raw(&square), Some(raw(&channel))).unwrap();
        [
            backend.conv2d(&image, &conv),
            backend.linear(&tokens, &linear),
            backend.group_norm_silu(&image, &norm, 4, 1e-5),
            backend.layer_norm(&tokens, &norm, 1e-5),
            backend.attention(&tokens, &tokens, &tokens, 2, AttentionOptions::default()),
            backend.geglu(&tokens),
            backend.gelu(&tokens),
            backend.quick_gelu(&tokens),
            backend.scale(&tokens, 0.7),
            backend.add(&tokens, &tokens),
        ]
        .map(|y| backend.download(&y.unwrap()).unwrap())
        .into()
    };
    let wide = run(DType::F32);
    for (i, (wide, narrow)) in wide.iter().zip(run(DType::F16)).enumerate() {
        assert_eq!(wide.mapv(|x| half::f16::from_f32(x as f32).to_f64()), narrow, "f16, operation {i}");
    }
    for (i, (wide, narrow)) in wide.iter().zip(run(DType::BF16)).enumerate() {
        assert_eq!(wide.mapv(|x| half::bf16::from_f32(x as f32).to_f64()), narrow, "bf16, operation {i}");
    }
}
