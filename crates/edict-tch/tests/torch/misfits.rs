//! Shapes that do not fit are errors, in every operation.

use crate::oracle::{raw, values};
use edict_stable_diffusion::{Backend, Conv2dGeometry, DType};
use edict_tch::{TchBackend, TchError, Tensor};
use ndarray::{Array2, arr2};

const GEOMETRY: Conv2dGeometry = Conv2dGeometry { stride: 1, padding_before: 1, padding_after: 1 };

fn backend() -> TchBackend {
    TchBackend::cpu(DType::F32).unwrap()
}

fn tensor(shape: &[usize]) -> Tensor {
    backend().upload(values(shape, 1).view()).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, TchError>, operation: &str) {
    match result.unwrap_err() {
        TchError::Shape { operation: found, .. } => assert_eq!(found, operation),
        other => panic!("{operation}: {other}"),
    }
}

#[test]
fn refuses_misfit_parameters() {
    let backend = backend();
    let parameter = |shape: &[usize]| raw(&values(shape, 1));
    for weight in [&[4, 3][..], &[4, 3, 3, 1], &[4, 3, 0, 0], &[4]] {
        refused(backend.load_conv2d(parameter(weight), None, GEOMETRY), "load_conv2d");
    }
    refused(backend.load_conv2d(parameter(&[4, 3, 3, 3]), Some(parameter(&[3])), GEOMETRY), "load_conv2d");
    let standing = Conv2dGeometry { stride: 0, ..GEOMETRY };
    refused(backend.load_conv2d(parameter(&[4, 3, 3, 3]), None, standing), "load_conv2d");
    refused(backend.load_linear(parameter(&[4]), None), "load_linear");
    refused(backend.load_linear(parameter(&[]), None), "load_linear");
    refused(backend.load_linear(parameter(&[4, 3]), Some(parameter(&[3]))), "load_linear");
    refused(backend.load_linear(parameter(&[]), Some(parameter(&[3]))), "load_linear");
    refused(backend.load_norm(parameter(&[4]), parameter(&[3])), "load_norm");
    refused(backend.load_norm(parameter(&[2, 2]), parameter(&[2, 2])), "load_norm");
}

#[test]
fn refuses_misfit_layers() {
    let backend = backend();
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, GEOMETRY).unwrap();
    refused(backend.conv2d(&tensor(&[1, 2, 5, 5]), &conv), "conv2d");
    refused(backend.conv2d(&tensor(&[3, 5, 5]), &conv), "conv2d");
    let bare = Conv2dGeometry { stride: 1, padding_before: 0, padding_after: 0 };
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, bare).unwrap();
    refused(backend.conv2d(&tensor(&[1, 3, 2, 5]), &conv), "conv2d");
    let linear = backend.load_linear(raw(&values(&[4, 3], 1)), None).unwrap();
    refused(backend.linear(&tensor(&[3, 4]), &linear), "linear");
    refused(backend.linear(&tensor(&[]), &linear), "linear");
    let norm = backend.load_norm(raw(&values(&[4], 1)), raw(&values(&[4], 2))).unwrap();
    refused(backend.group_norm(&tensor(&[1, 4, 2, 2]), &norm, 3, 1e-5), "group_norm");
    refused(backend.group_norm(&tensor(&[1, 4, 2, 2]), &norm, 0, 1e-5), "group_norm");
    refused(backend.group_norm(&tensor(&[1, 8, 2, 2]), &norm, 4, 1e-5), "group_norm");
    refused(backend.group_norm_silu(&tensor(&[4, 2, 2]), &norm, 2, 1e-5), "group_norm");
    refused(backend.layer_norm(&tensor(&[1, 4, 3]), &norm, 1e-5), "layer_norm");
    refused(backend.layer_norm(&tensor(&[]), &norm, 1e-5), "layer_norm");
}

#[test]
fn refuses_misfit_attention() {
    let backend = backend();
    let attend = |query: &[usize], key: &[usize], value: &[usize], heads| {
        backend.attention(&tensor(query), &tensor(key), &tensor(value), heads, Default::default())
    };
    assert!(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 2).is_ok());
    refused(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 3), "attention");
    refused(attend(&[2, 3, 8], &[2, 5, 8], &[2, 5, 8], 0), "attention");
    refused(attend(&[2, 3, 8], &[1, 5, 8], &[1, 5, 8], 2), "attention");
    refused(attend(&[2, 3, 8], &[2, 5, 6], &[2, 5, 6], 2), "attention");
    refused(attend(&[2, 3, 8], &[2, 5, 8], &[2, 4, 8], 2), "attention");
    refused(attend(&[2, 3, 8], &[2, 0, 8], &[2, 0, 8], 2), "attention");
    refused(attend(&[3, 8], &[2, 5, 8], &[2, 5, 8], 2), "attention");
}

#[test]
fn refuses_misfit_elementwise_operations() {
    let backend = backend();
    refused(backend.geglu(&tensor(&[2, 5])), "geglu");
    refused(backend.geglu(&tensor(&[])), "geglu");
    refused(backend.add(&tensor(&[2, 5]), &tensor(&[5, 2])), "add");
    refused(backend.add(&tensor(&[2, 5]), &tensor(&[1, 5])), "add");
    refused(backend.upsample_to(&tensor(&[3, 4, 4]), 8, 8), "upsample_to");
    refused(backend.upsample_to(&tensor(&[1, 3, 0, 4]), 8, 8), "upsample_to");
    refused(backend.concat_channels(&tensor(&[1, 2, 3, 3]), &tensor(&[1, 2, 3, 4])), "concat_channels");
    refused(backend.concat_channels(&tensor(&[1, 2, 3, 3]), &tensor(&[2, 2, 3, 3])), "concat_channels");
    refused(backend.add_channel_bias(&tensor(&[2, 4, 3, 3]), &tensor(&[2, 3])), "add_channel_bias");
    refused(backend.add_channel_bias(&tensor(&[2, 4, 3, 3]), &tensor(&[1, 4])), "add_channel_bias");
    refused(backend.image_to_tokens(&tensor(&[2, 4, 3])), "image_to_tokens");
    refused(backend.tokens_to_image(&tensor(&[2, 12, 3]), 5, 3), "tokens_to_image");
    refused(backend.tokens_to_image(&tensor(&[2, 12, 3]), usize::MAX, 3), "tokens_to_image");
    refused(backend.embed(&tensor(&[2, 4, 3]), Array2::zeros((1, 1)).view()), "embed");
    let error = backend.embed(&tensor(&[5, 3]), arr2(&[[0, 4], [5, 1]]).view()).unwrap_err();
    assert!(matches!(error, TchError::IdOutOfRange { id: 5, rows: 5 }), "{error}");
}

#[test]
fn refuses_tensors_of_another_element_type() {
    let narrow = tensor(&[2, 4]);
    let wide = TchBackend::cpu(DType::F64).unwrap().upload(values(&[2, 4], 1).view()).unwrap();
    assert!(backend().add(&narrow, &wide).is_err());
    let norm = backend().load_norm(raw(&values(&[4], 1)), raw(&values(&[4], 2))).unwrap();
    assert!(backend().layer_norm(&wide, &norm, 1e-5).is_err());
    let linear = backend().load_linear(raw(&values(&[4, 4], 1)), None).unwrap();
    assert!(backend().linear(&wide, &linear).is_err());
}

#[test]
fn takes_empty_batches() {
    let backend = backend();
    let conv = backend.load_conv2d(raw(&values(&[4, 3, 3, 3], 1)), None, GEOMETRY).unwrap();
    assert_eq!(backend.conv2d(&tensor(&[0, 3, 5, 6]), &conv).unwrap().dims(), [0, 4, 5, 6]);
    let empty = tensor(&[0, 3, 8]);
    assert_eq!(backend.attention(&empty, &empty, &empty, 2, Default::default()).unwrap().dims(), [0, 3, 8]);
}
