//! Elements that begin where a line of the cache does.
//!
//! Allocators give vectors of `f32` at multiples of 16 bytes; of large ones every vector of 64 bytes then lies across two lines, and
//! reading and writing take twice as long.

use std::ops::Deref;

use candle_core::{Device, Shape, Tensor, WithDType};

use crate::error::Result;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Elements that begin at a multiple of 64 bytes.
pub(crate) struct Aligned<T> {
    /// `start` elements to pass over, and the elements.
    all: Vec<T>,
    start: usize,
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { all: Vec::new(), start: 0 }
    }
}

impl<T: WithDType> Aligned<T> {
    pub(crate) fn zeros(length: usize) -> Self {
        let mut all = vec![T::zero(); length + spare::<T>()];
        let start = passed_over(&all);
        all.truncate(start + length);
        Self { all, start }
    }

    pub(crate) fn copied(elements: &[T]) -> Self {
        let mut aligned = Self::with_room(elements.len());
        aligned.all.extend_from_slice(elements);
        aligned
    }

    /// Without elements yet, which are to be pushed on the vector that [`Self::all_mut`] lends.
    pub(super) fn with_room(length: usize) -> Self {
        let mut all = Vec::with_capacity(length + spare::<T>());
        let start = passed_over(&all);
        all.resize(start, T::zero());
        Self { all, start }
    }

    /// The elements behind some that are passed over.
    pub(super) fn all_mut(&mut self) -> &mut Vec<T> {
        &mut self.all
    }

    /// Makes room for `length` elements at least; what they are then is not said.
    pub(crate) fn grow(&mut self, length: usize) {
        if self.len() < length {
            *self = Self::zeros(length);
        }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [T] {
        &mut self.all[self.start..]
    }

    /// Makes a tensor of the elements, without copying them.
    pub(crate) fn into_tensor(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let Self { all, start } = self;
        let length = all.len() - start;
        let all = Tensor::from_vec(all, start + length, &Device::Cpu)?;
        Ok(all.narrow(0, start, length)?.reshape(shape)?)
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all[self.start..]
    }
}

/// Elements of a line.
const fn spare<T>() -> usize {
    LINE / size_of::<T>()
}

/// How many elements lie before the next line begins.
fn passed_over<T>(all: &[T]) -> usize {
    // Where the offset cannot be told, any will do.
    all.as_ptr().align_offset(LINE).min(spare::<T>())
}
