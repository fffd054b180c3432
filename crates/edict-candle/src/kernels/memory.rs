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

use rayon::prelude::*;

use super::Real;

/// Elements that nobody has written.
pub(super) struct Unwritten<'a, T> {
    elements: &'a mut [MaybeUninit<T>],
    /// How many elements of the whole were zeroed.
    zeroed: &'a AtomicUsize,
}

impl<'a, T: Real> Unwritten<'a, T> {
    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(super) fn split_at(self, middle: usize) -> (Self, Self) {
        let zeroed = self.zeroed;
        let (head, tail) = self.elements.split_at_mut(middle);
        (Self { elements: head, zeroed }, Self { elements: tail, zeroed })
    }

    pub(super) fn chunks(self, length: usize) -> impl Iterator<Item = Self> {
        let zeroed = self.zeroed;
        self.elements.chunks_mut(length).map(move |elements| Self { elements, zeroed })
    }

    /// Sets the elements to 0, which in a near cache costs next to nothing, and lends them.
    pub(super) fn zeroed(self) -> &'a mut [T] {
        self.elements.fill(MaybeUninit::new(T::zero()));
        self.zeroed.fetch_add(self.elements.len(), Ordering::Relaxed);
        // SAFETY: the first line has written every element.
        unsafe { self.elements.assume_init_mut() }
    }
}

/// Makes `count` elements; `write` zeroes and fills all of them, in whatever parts it divides them.
///
/// # Panics
/// If it leaves one out.
pub(super) fn written<T: Real>(count: usize, write: impl FnOnce(Unwritten<'_, T>)) -> Vec<T> {
    let mut out = Vec::with_capacity(count);
    let zeroed = AtomicUsize::new(0);
    write(Unwritten { elements: &mut out.spare_capacity_mut()[..count], zeroed: &zeroed });
    assert_eq!(zeroed.into_inner(), count, "elements of a result were left out");
    // SAFETY: the capacity is `count` at least. Parts are divided and not copied, and zeroing consumes them, so that no element
    // was counted twice: with `count` of them zeroed, each of the first `count` was.
    unsafe { out.set_len(count) };
    out
}

/// Makes `count` elements in parts of `part` (the last may be shorter), in parallel: `fill` is given a part's number and its elements,
/// which are 0.
pub(super) fn made<T: Real>(count: usize, part: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    written(count, |out| {
        if out.len() <= part {
            fill(0, out.zeroed());
        } else {
            let parts: Vec<_> = out.chunks(part).collect();
            parts.into_par_iter().enumerate().for_each(|(i, part)| fill(i, part.zeroed()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_element() {
        for (count, part) in [(0, 4), (3, 4), (4, 4), (5, 4), (1000, 7)] {
            let found = made(count, part, |i, out: &mut [f64]| {
                assert!(out.iter().all(|&x| x == 0.0));
                for (j, out) in out.iter_mut().enumerate() {
                    *out = (i * part + j) as f64;
                }
            });
            assert_eq!(found, (0..count).map(|i| i as f64).collect::<Vec<f64>>());
        }
    }

    #[test]
    #[should_panic(expected = "left out")]
    fn a_part_left_out_is_noticed() {
        written(10, |out: Unwritten<'_, f32>| {
            let (head, _) = out.split_at(9);
            head.zeroed();
        });
    }
}
