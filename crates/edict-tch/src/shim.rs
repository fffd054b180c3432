//! The few lines of C++ behind `shim.cpp`: the only unsafe code of this crate.
#![allow(unsafe_code, reason = "calls into C++; every function is total and lets no exception out")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use tch::Tensor;

/// PyTorch's `at::Tensor`.
type Handle = *const c_void;

// SAFETY: the signatures are those of shim.cpp, which is compiled with this crate. All may be called at any time from any thread.
unsafe extern "C" {
    safe fn edict_tch_check_version() -> *const c_char;
    safe fn edict_tch_set_exact(exact: c_int) -> *const c_char;
    safe fn edict_tch_load_cuda() -> *const c_char;
    fn edict_tch_count_gpus(count: *mut c_int) -> *const c_char;
    fn edict_tch_pack_conv2d(
        weight: Handle,
        image: *const i64,
        stride: i64,
        padding: i64,
        packed: *mut *mut c_void,
    ) -> *const c_char;
    fn edict_tch_conv2d(
        image: Handle,
        packed: Handle,
        bias: Handle,
        stride: i64,
        padding: i64,
        out: *mut *mut c_void,
    ) -> *const c_char;
    fn edict_tch_linear_geglu(
        x: Handle,
        weight: Handle,
        bias: Handle,
        out: *mut *mut c_void,
    ) -> *const c_char;
    fn edict_tch_group_norm(
        image: Handle,
        weight: Handle,
        bias: Handle,
        groups: i64,
        eps: f64,
        silu: c_int,
        out: *mut *mut c_void,
    ) -> *const c_char;
}

/// Fails with the version of the libtorch that was loaded, if it is another than the one that this crate was built with.
pub(crate) fn check_version() -> Result<(), String> {
    answer(edict_tch_check_version())
}

/// Switches PyTorch's deterministic algorithms on and whatever rounds more than the element type off, or the other way round.
pub(crate) fn set_exact(exact: bool) -> Result<(), String> {
    answer(edict_tch_set_exact(exact.into()))
}

/// Loads the part of libtorch that computes on NVIDIA GPUs.
pub(crate) fn load_cuda() -> Result<(), String> {
    answer(edict_tch_load_cuda())
}

/// Counts the GPUs that PyTorch can use, once [`load_cuda`] was called.
pub(crate) fn count_gpus() -> Result<usize, String> {
    let mut count = 0;
    // SAFETY: the pointer is to an int of this frame, which the call writes and does not keep.
    answer(unsafe { edict_tch_count_gpus(&raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Lays out a convolution's weight, an f32 tensor of the processor, as [`conv2d`] takes it, for images of this shape; none where PyTorch
/// was built without oneDNN. The weight may have been laid out before.
pub(crate) fn pack_conv2d(
    weight: &Tensor,
    image: &[i64; 4],
    stride: i64,
    padding: i64,
) -> Result<Option<Tensor>, String> {
    // SAFETY: the handle is a tensor's that outlives the call, and so do the image's 4 extents.
    tensor(|out| unsafe { edict_tch_pack_conv2d(handle(weight), image.as_ptr(), stride, padding, out) })
}

/// Convolves an f32 image of the processor with a weight of [`pack_conv2d`], by the stride that it was packed for.
pub(crate) fn conv2d(
    image: &Tensor,
    packed: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: i64,
) -> Result<Tensor, String> {
    let bias = bias.map_or(ptr::null(), handle);
    // SAFETY: the handles are those of tensors that outlive the call; no bias is null.
    let out =
        tensor(|out| unsafe { edict_tch_conv2d(handle(image), handle(packed), bias, stride, padding, out) })?;
    out.ok_or_else(no_result)
}

/// Applies a linear map to the last axis of an f32 tensor of the processor and multiplies the first half of its outputs by gelu of the
/// second; none where PyTorch was built without oneDNN.
pub(crate) fn linear_geglu(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Option<Tensor>, String> {
    let bias = bias.map_or(ptr::null(), handle);
    // SAFETY: the handles are those of tensors that outlive the call, of the shapes and types that the back end has checked; no bias is
    // null.
    tensor(|out| unsafe { edict_tch_linear_geglu(handle(x), handle(weight), bias, out) })
}

/// Normalises `groups` groups of the channels of an f32 image of the processor, by a norm in f32, and applies SiLU if `silu`.
pub(crate) fn group_norm(
    image: &Tensor,
    [weight, bias]: [&Tensor; 2],
    groups: i64,
    eps: f64,
    silu: bool,
) -> Result<Tensor, String> {
    let [image, weight, bias] = [image, weight, bias].map(handle);
    // SAFETY: the handles are those of tensors that outlive the call, of the shapes and types that the back end has checked.
    let out =
        tensor(|out| unsafe { edict_tch_group_norm(image, weight, bias, groups, eps, silu.into(), out) })?;
    out.ok_or_else(no_result)
}

fn no_result() -> String {
    "no result".to_owned()
}

fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast()
}

/// Takes over the tensor that a function of the shim makes, if it makes one.
fn tensor(make: impl FnOnce(*mut *mut c_void) -> *const c_char) -> Result<Option<Tensor>, String> {
    let mut out = ptr::null_mut();
    answer(make(&raw mut out))?;
    // SAFETY: what is not null is a tensor made by `new`, as tch deletes it, and nobody else's.
    Ok((!out.is_null()).then(|| unsafe { Tensor::from_ptr(out.cast()) }))
}

/// Copies the message, if there is one.
fn answer(message: *const c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a message of the shim ends in a null byte and stays until this thread calls again.
    let message = unsafe { CStr::from_ptr(message) };
    Err(message.to_string_lossy().into_owned())
}
