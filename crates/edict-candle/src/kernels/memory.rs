//! Memory for results.
//!
//! A result's memory is first touched by the thread that computes it, part by part. Zeroed as a whole beforehand it would pass through
//! the caches once more, on one thread alone, which takes as long as an activation function.
#![allow(
    unsafe_code,
    reason = "no safe way has several threads write the elements of a vector that has none yet"
)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::WithDType;
use rayon::prelude::*;

use super::aligned::Aligned;

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Elements that nobody has written.
///
/// Methods that write them hand them back as elements.
pub(crate) struct Unwritten<'a, T> {
    elements: &'a mut [MaybeUninit<T>],
}

impl<'a, T: WithDType> Unwritten<'a, T> {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    /// Sets the elements to 0, which in a near cache costs next to nothing.
    pub(super) fn zeroed(self) -> &'a mut [T] {
        self.elements.fill(MaybeUninit::new(T::zero()));
        // SAFETY: the first line has written every element.
        unsafe { self.elements.assume_init_mut() }
    }

    /// Sets element `i` to `element(i)`.
    #[inline(always)]
    pub(super) fn each(self, element: impl Fn(usize) -> T) -> &'a mut [T] {
        // By index: with an iterator, the tests of `element`'s own indices would not be seen to be superfluous.
        for i in 0..self.elements.len() {
            self.elements[i].write(element(i));
        }
        // SAFETY: the loop has written every element.
        unsafe { self.elements.assume_init_mut() }
    }

    /// Copies elements.
    ///
    /// # Panics
    /// If they are not as many.
    #[inline(always)]
    pub(super) fn copied(self, from: &[T]) -> &'a mut [T] {
        self.elements.write_copy_of_slice(from)
    }

    /// Copies elements of two slices, one after the other.
    ///
    /// # Panics
    /// If together they are not as many.
    #[inline(always)]
    pub(super) fn joined(self, first: &[T], second: &[T]) -> &'a mut [T] {
        let (head, tail) = self.elements.split_at_mut(first.len());
        head.write_copy_of_slice(first);
        tail.write_copy_of_slice(second);
        // SAFETY: head and tail are all of the elements, and both are written.
        unsafe { self.elements.assume_init_mut() }
    }

    /// Writes row after row of `width` elements (the last may be shorter).
    ///
    /// # Panics
    /// If `write` hands back anything but the row it was given.
    #[inline(always)]
    pub(super) fn rows(
        self,
        width: usize,
        mut write: impl for<'b> FnMut(usize, Unwritten<'b, T>) -> &'b mut [T],
    ) -> &'a mut [T] {
        for (i, row) in self.elements.chunks_mut(width).enumerate() {
            let (at, length) = (row.as_ptr().cast::<T>(), row.len());
            let found = write(i, Unwritten { elements: row });
            assert!(found.as_ptr() == at && found.len() == length, "a row is not what was to be written");
        }
        // SAFETY: rows are all of the elements, and each was handed back as elements, which only what is written can be.
        unsafe { self.elements.assume_init_mut() }
    }
}

/// A part of a result, which counts itself when it is written.
pub(super) struct Part<'a, T> {
    unwritten: Unwritten<'a, T>,
    /// How many elements of the whole are written.
    written: &'a AtomicUsize,
}

impl<'a, T: WithDType> Part<'a, T> {
    pub(super) fn len(&self) -> usize {
        self.unwritten.len()
    }

    pub(super) fn split_at(self, middle: usize) -> (Self, Self) {
        let (head, tail) = self.unwritten.elements.split_at_mut(middle);
        let part = |elements| Self { unwritten: Unwritten { elements }, written: self.written };
        (part(head), part(tail))
    }

    pub(super) fn chunks(self, length: usize) -> impl Iterator<Item = Self> {
        let chunks = self.unwritten.elements.chunks_mut(length);
        chunks.map(move |elements| Self { unwritten: Unwritten { elements }, written: self.written })
    }

    /// Sets the elements to 0.
    pub(super) fn zeroed(self) -> &'a mut [T] {
        self.write(Unwritten::zeroed)
    }

    /// Writes the elements.
    ///
    /// # Panics
    /// If `write` hands back anything else.
    #[inline(always)]
    pub(super) fn write(self, write: impl FnOnce(Unwritten<'a, T>) -> &'a mut [T]) -> &'a mut [T] {
        let (at, length) = (self.unwritten.elements.as_ptr().cast::<T>(), self.len());
        let found = write(self.unwritten);
        assert!(found.as_ptr() == at && found.len() == length, "a part is not what was to be written");
        self.written.fetch_add(length, Ordering::Relaxed);
        found
    }
}

/// Makes `count` elements; `write` writes all of them, in whatever parts it divides them.
///
/// # Panics
/// If it leaves one out.
pub(super) fn written<T: WithDType>(count: usize, write: impl FnOnce(Part<'_, T>)) -> Aligned<T> {
    let mut out = Aligned::with_room(count);
    let all = out.all_mut();
    let elements = &mut all.spare_capacity_mut()[..count];
    ask_for_large_pages(elements);
    let written = AtomicUsize::new(0);
    write(Part { unwritten: Unwritten { elements }, written: &written });
    assert_eq!(written.into_inner(), count, "elements of a result were left out");
    // SAFETY: there was room for `count` elements. Parts are divided and not copied, and writing consumes them and gets them back as
    // elements, so that none was counted twice or unwritten: with `count` of them counted, each of the first `count` is written.
    unsafe { all.set_len(all.len() + count) };
    out
}

/// Makes `count` elements in parts of `part` (the last may be shorter), in parallel: `fill` writes the part with a number.
pub(super) fn made<T: WithDType>(
    count: usize,
    part: usize,
    fill: impl for<'a> Fn(usize, Unwritten<'a, T>) -> &'a mut [T] + Sync,
) -> Aligned<T> {
    written(count, |out| {
        if out.len() <= part {
            out.write(|out| fill(0, out));
        } else {
            let parts: Vec<_> = out.chunks(part).collect();
            parts.into_par_iter().enumerate().for_each(|(i, part)| {
                part.write(|part| fill(i, part));
            });
        }
    })
}

/// Asks the system to give a large result's memory in large pages: page by page of 4 KiB, giving it takes as long as a short kernel, and
/// the allocator returns what is large to the system as soon as it is free.
fn ask_for_large_pages<T>(elements: &mut [MaybeUninit<T>]) {
    // Whole pages only: what lies beside the result is none of our business.
    let start = elements.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(LARGE_PAGE);
    let length = size_of_val(elements).saturating_sub(skipped) / LARGE_PAGE * LARGE_PAGE;
    #[cfg(target_os = "linux")]
    if length > 0 {
        // SAFETY: the pages lie within memory that is borrowed for writing, and how large they are changes nothing that is in them.
        // That the system may refuse does not matter.
        unsafe { libc::madvise(start.add(skipped).cast(), length, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_element() {
        for (count, part) in [(0, 4), (3, 4), (4, 4), (5, 4), (1000, 7)] {
            let found = made(count, part, |i, out| {
                out.rows(3, |row, out| out.each(|j| (i * part + row * 3 + j) as f64))
            });
            assert_eq!(*found, (0..count).map(|i| i as f64).collect::<Vec<f64>>());
            assert!(count == 0 || found.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    #[should_panic(expected = "left out")]
    fn a_part_left_out_is_noticed() {
        written(10, |out: Part<'_, f32>| {
            let (head, _) = out.split_at(9);
            head.zeroed();
        });
    }

    #[test]
    #[should_panic(expected = "not what was to be written")]
    fn a_part_of_something_else_is_noticed() {
        made(10, 5, |_, _| vec![0f32; 5].leak());
    }

    #[test]
    #[should_panic(expected = "not what was to be written")]
    fn a_row_of_something_else_is_noticed() {
        made(10, 10, |_, out| out.rows(5, |_, _| vec![0f32; 5].leak()));
    }
}
