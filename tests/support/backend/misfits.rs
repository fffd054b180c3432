//! Shapes that do not fit are errors, in every operation.

use edict_stable_diffusion::{Backend, Conv2dGeometry, DType};
use ndarray::{Array2, arr2};

use super::oracle::{raw, values};
use super::{Complaint, Error, Tensor, Tested, up};

const GEOMETRY: Conv2dGeometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };

fn backend<T: Tested>() -> T::Backend {
    T::cpu(DType::F32)
}

fn tensor<T: Tested>(shape: &[usize]) -> Tensor<T> {
    up(&backend::<T>(), &values(shape, 1))
}

#[track_caller]
fn refused<T: Tested, R: std::fmt::Debug>(result: Result<R, Error<T>>, operation: &'static str) {
    let error = result.unwrap_err();
    assert_eq!(T::complaint(&error), Complaint::Shape(operation), "{error}");
}

pub(crate) fn refuses_misfit_parameters<T: Tested>() {
    let backend = backend::<T>();
    let parameter = |shape: &[usize]| raw(&values(shape, 1));
    for weight in [&[4, 3][..], &[4, 3, 3, 1], &[4, 3, 0, 0], &[4]] {
        refused::<T, _>(backend.load_conv2d(parameter(weight), None, GEOMETRY), "load_conv2d");
    }
    refused::<T, _>(
        backend.load_conv2d(parameter(&[4, 3, 3, 3]), Some(parameter(&[3])), GEOMETRY),
        "load_conv2d",
    );
    let standing = Conv2dGeometry { stride: 0, ..GEOMETRY };
    refused::<T, _>(backend.load_conv2d(parameter(&[4, 3, 3, 3]), None, standing), "load_conv2d");
    refused::<T, _>(backend.load_linear(parameter(&[4]), None), "load_linear");
    refused::<T, _>(backend.load_linear(parameter(&[]), None), "load_linear");
    refused::<T, _>(backend.load_linear(parameter(&[4, 3]), Some(parameter(&[3]))), "load_linear");
    refused::<T, _>(backend.load_linear(parameter(&[]), Some(parameter(&[3]))), "load_linear");
    refused::<T, _>(backend.load_norm(parameter(&[4]), parameter(&[3])), "load_norm");
    refused::<T, _>(backend.load_norm(parameter(&[2, 2]), parameter(&[2, 2])), "load_norm");
}

pub(crate) fn refuses_misfit_layers<T: Tested>() {
    let backend = backend::<T>();
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, GEOMETRY).unwrap();
    refused::<T, _>(backend.conv2d(&tensor::<T>(&[1, 2, 5, 5]), &conv), "conv2d");
    refused::<T, _>(backend.conv2d(&tensor::<T>(&[3, 5, 5]), &conv), "conv2d");
    let bare = Conv2dGeometry { stride: 1, padding_before: 0, padding_after: 0 };
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, bare).unwrap();
    refused::<T, _>(backend.conv2d(&tensor::<T>(&[1, 3, 2, 5]), &conv), "conv2d");
    let linear = backend.load_linear(raw(&values(&[4, 3], 1)), None).unwrap();
    refused::<T, _>(backend.linear(&tensor::<T>(&[3, 4]), &linear), "linear");
    refused::<T, _>(backend.linear(&tensor::<T>(&[]), &linear), "linear");
    let norm = backend.load_norm(raw(&values(&[4], 1)), raw(&values(&[4], 2))).unwrap();
    refused::<T, _>(backend.group_norm(&tensor::<T>(&[1, 4, 2, 2]), &norm, 3, 1e-5), "group_norm");
    refused::<T, _>(backend.group_norm(&tensor::<T>(&[1, 4, 2, 2]), &norm, 0, 1e-5), "group_norm");
    refused::<T, _>(backend.group_norm(&tensor::<T>(&[1, 8, 2, 2]), &norm, 4, 1e-5), "group_norm");
    refused::<T, _>(backend.group_norm_silu(&tensor::<T>(&[4, 2, 2]), &norm, 2, 1e-5), "group_norm");
    refused::<T, _>(backend.layer_norm(&tensor::<T>(&[1, 4, 3]), &norm, 1e-5), "layer_norm");
    refused::<T, _>(backend.layer_norm(&tensor::<T>(&[]), &norm, 1e-5), "layer_norm");
}

pub(crate) fn refuses_misfit_attention<T: Tested>() {
    let backend = backend::<T>();
    let attend = |query: &[usize], key: &[usize], value: &[usize], heads| {
        backend.attention(
            &tensor::<T>(query),
            &tensor::<T>(key),
            &tensor::<T>(value),
            heads,
            Default::default(),
        )
    };
    assert!(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 2).is_ok());
    refused::<T, _>(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 3), "attention");
    refused::<T, _>(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 0), "attention");
    refused::<T, _>(attend(&[2, 3, 8], &[1, 5, 8], &[1, 5, 8], 2), "attention");
    refused::<T, _>(attend(&[2, 3, 8], &[2, 5, 6], &[2, 5, 6], 2), "attention");
    refused::<T, _>(attend(&[2, 3, 8], &[2, 5, 8], &[2, 4, 8], 2), "attention");
    refused::<T, _>(attend(&[2, 3, 8], &[2, 0, 8], &[2, 0, 8], 2), "attention");
    refused::<T, _>(attend(&[3, 8], &[2, 5, 8], &[2, 5, 8], 2), "attention");
}

pub(crate) fn refuses_misfit_elementwise_operations<T: Tested>() {
    let backend = backend::<T>();
    refused::<T, _>(backend.geglu(&tensor::<T>(&[2, 5])), "geglu");
    refused::<T, _>(backend.geglu(&tensor::<T>(&[])), "geglu");
    refused::<T, _>(backend.add(&tensor::<T>(&[2, 5]), &tensor::<T>(&[5, 2])), "add");
    refused::<T, _>(backend.add(&tensor::<T>(&[2, 5]), &tensor::<T>(&[1, 5])), "add");
    refused::<T, _>(backend.upsample_to(&tensor::<T>(&[3, 4, 4]), 8, 8), "upsample_to");
    refused::<T, _>(backend.upsample_to(&tensor::<T>(&[1, 3, 0, 4]), 8, 8), "upsample_to");
    refused::<T, _>(
        backend.concat_channels(&tensor::<T>(&[1, 2, 3, 3]), &tensor::<T>(&[1, 2, 3, 4])),
        "concat_channels",
    );
    refused::<T, _>(
        backend.concat_channels(&tensor::<T>(&[1, 2, 3, 3]), &tensor::<T>(&[2, 2, 3, 3])),
        "concat_channels",
    );
    refused::<T, _>(
        backend.add_channel_bias(&tensor::<T>(&[2, 4, 3, 3]), &tensor::<T>(&[2, 3])),
        "add_channel_bias",
    );
    refused::<T, _>(
        backend.add_channel_bias(&tensor::<T>(&[2, 4, 3, 3]), &tensor::<T>(&[1, 4])),
        "add_channel_bias",
    );
    refused::<T, _>(backend.image_to_tokens(&tensor::<T>(&[2, 4, 3])), "image_to_tokens");
    refused::<T, _>(backend.tokens_to_image(&tensor::<T>(&[2, 12, 3]), 5, 3), "tokens_to_image");
    refused::<T, _>(backend.tokens_to_image(&tensor::<T>(&[2, 12, 3]), usize::MAX, 3), "tokens_to_image");
    refused::<T, _>(backend.embed(&tensor::<T>(&[2, 4, 3]), Array2::zeros((1, 1)).view()), "embed");
    let error = backend.embed(&tensor::<T>(&[5, 3]), arr2(&[[0, 4], [5, 1]]).view()).unwrap_err();
    assert_eq!(T::complaint(&error), Complaint::Id { id: 5, rows: 5 }, "{error}");
}

pub(crate) fn refuses_tensors_of_another_element_type<T: Tested>() {
    let narrow = tensor::<T>(&[2, 4]);
    let wide = up(&T::cpu(DType::F64), &values(&[2, 4], 1));
    assert!(backend::<T>().add(&narrow, &wide).is_err());
    let norm = backend::<T>().load_norm(raw(&values(&[4], 1)), raw(&values(&[4], 2))).unwrap();
    assert!(backend::<T>().layer_norm(&wide, &norm, 1e-5).is_err());
    let linear = backend::<T>().load_linear(raw(&values(&[4, 4], 1)), None).unwrap();
    assert!(backend::<T>().linear(&wide, &linear).is_err());
    let conv = backend::<T>().load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, GEOMETRY).unwrap();
    let image = up(&T::cpu(DType::F64), &values(&[1, 3, 5, 6], 1));
    assert!(backend::<T>().conv2d(&image, &conv).is_err());
}

pub(crate) fn takes_empty_batches<T: Tested>() {
    let backend = backend::<T>();
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, GEOMETRY).unwrap();
    let shape = |y: Tensor<T>| backend.download(&y).unwrap().shape().to_vec();
    for batch in [0, 1, 0] {
        let image = tensor::<T>(&[batch, 3, 5, 6]);
        assert_eq!(shape(backend.conv2d(&image, &conv).unwrap()), [batch, 4, 5, 6]);
    }
    let empty = tensor::<T>(&[0, 3, 8]);
    assert_eq!(shape(backend.attention(&empty, &empty, &empty, 2, Default::default()).unwrap()), [0, 3, 8]);
    let linear = backend.load_linear(raw(&values(&[4, 8], 1)), None).unwrap();
    assert_eq!(shape(backend.linear(&empty, &linear).unwrap()), [0, 3, 4]);
    assert_eq!(shape(backend.linear_geglu(&empty, &linear).unwrap()), [0, 3, 2]);
    let norm = backend.load_norm(raw(&values(&[4], 1)), raw(&values(&[4], 2))).unwrap();
    let image = tensor::<T>(&[0, 4, 3, 2]);
    assert_eq!(shape(backend.group_norm_silu(&image, &norm, 2, 1e-5).unwrap()), [0, 4, 3, 2]);
}
