//! How the program ends when there is no memory left.
#![allow(
    unsafe_code,
    reason = "on stable Rust only an allocator can say something before a lack of memory aborts the program"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{IsTerminal, Write, stderr};

/// The system's allocator, except that a request which it cannot meet ends the program with one line and status 1, instead of aborting
/// it. That goes for requests too whose sender would have had an answer to a refusal. Outputs get their names when they are complete, so
/// none is half-written under its own.
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
    let mut stderr = stderr().lock();
    // On a terminal the cursor may stand behind a line of progress.
    let fresh = if stderr.is_terminal() { "\n" } else { "" };
    let _ = writeln!(
        stderr,
        "{fresh}error: out of memory: {megabytes} MiB more cannot be had; a smaller picture or networks in a narrower format need less"
    );
    // Other threads are still computing: nothing may be taken down under them.
    #[cfg(unix)]
    // SAFETY: the call takes a number and does not return.
    unsafe {
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    std::process::exit(1)
}
