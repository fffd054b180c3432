//! The few lines of C++ behind `shim.cpp`: the only unsafe code of this crate.
#![allow(unsafe_code, reason = "calls into C++; every function is total and lets no exception out")]

use std::ffi::{CStr, c_char, c_int};

// SAFETY: the signatures are those of shim.cpp, which is compiled with this crate. All three may be called at any time from any thread.
unsafe extern "C" {
    safe fn edict_tch_set_exact(exact: c_int) -> *const c_char;
    safe fn edict_tch_load_cuda() -> *const c_char;
    fn edict_tch_count_gpus(count: *mut c_int) -> *const c_char;
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

/// Copies the message, if there is one.
fn answer(message: *const c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a message of the shim ends in a null byte and stays until this thread calls again.
    let message = unsafe { CStr::from_ptr(message) };
    Err(message.to_string_lossy().into_owned())
}
