//! How the program ends when there is no memory left.
#![allow(
    unsafe_code,
    reason = "on stable Rust only an allocator can say something before a lack of memory aborts the program"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Write, stderr};
use std::process::exit;

/// The system's allocator, except that a request which it cannot meet ends the program like any other failure: with one line and
/// status 1. Output files are renamed into place when they are complete, so none is left half-written.
pub(crate) struct OrExit;

// SAFETY: each method hands its arguments, and with them its contract, to the system's allocator. A null result does not come back.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        given(unsafe { System.realloc(block, layout, size) }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[inline]
fn given(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        end(bytes);
    }
    block
}

/// Ends the program without allocating.
#[cold]
fn end(bytes: usize) -> ! {
    let megabytes = bytes.div_ceil(1 << 20);
    let _ = writeln!(
        stderr(),
        "\nerror: out of memory: {megabytes} MiB more cannot be had; a smaller picture (`--size`) or `--weights f16` needs less"
    );
    exit(1)
}
