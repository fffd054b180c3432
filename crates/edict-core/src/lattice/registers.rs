//! Two integer registers, and the bits that have moved out of them.

use ndarray::{ArrayD, Zip};

use super::Grid;
use super::integer::{OutOfRange, RANGE};
use super::pass::{Element, Operation, checked, pass};
use super::single::Exceptions;
use crate::update::FiniteCheck;
use crate::{Latents, StateError};

/// The integers behind the state of a lattice sampler.
///
/// `v` is a latent in units of `2^-k`, scaled so that the image has scale 1; `w` is a difference of latents, in units that shrink
/// where the sampler contracts it, so that contracting loses nothing: what is too fine for `w` stands in carry planes, a
/// byte an element. Coming back to the same bits needs these, not the latents they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    pub(super) v: ArrayD<i64>,
    pub(super) w: ArrayD<i64>,
    /// Bytes moved out of `w`, the most recent last. Planes of zeros at the bottom are left out.
    carry: Vec<ArrayD<u8>>,
    grid: Grid,
    pub(super) exceptions: Exceptions,
}

impl Registers {
    /// Puts registers together from what [`Self::values`], [`Self::carry`] and [`Self::grid`] return.
    ///
    /// # Errors
    /// [`StateError::Registers`] if shapes differ, a register leaves the range `|value| < 2^62` or a carry plane holds more bits than
    /// the lattice spills.
    pub fn from_parts(
        [v, w]: [ArrayD<i64>; 2],
        carry: Vec<ArrayD<u8>>,
        grid: Grid,
    ) -> Result<Self, StateError> {
        let in_range = |values: &ArrayD<i64>| values.iter().all(|value| -RANGE < *value && *value < RANGE);
        // A larger byte would overlap the register when it is taken back, and not come out again.
        let spilled =
            |plane: &ArrayD<u8>| plane.iter().all(|byte| u32::from(*byte) >> grid.spill_bits() == 0);
        let fits =
            v.shape() == w.shape() && carry.iter().all(|plane| plane.shape() == v.shape() && spilled(plane));
        if !fits || !in_range(&v) || !in_range(&w) {
            return Err(StateError::Registers);
        }
        Ok(Self::new(v, w, carry, grid))
    }

    pub(super) fn new(v: ArrayD<i64>, w: ArrayD<i64>, carry: Vec<ArrayD<u8>>, grid: Grid) -> Self {
        let [v, w] = [v, w].map(|values| values.as_standard_layout().into_owned());
        let mut registers = Self { v, w, carry, grid, exceptions: Exceptions::default() };
        registers.trim();
        registers
    }

    /// Returns the registers `[v, w]`: the lattice values of a latent and of a difference.
    pub fn values(&self) -> [&ArrayD<i64>; 2] {
        [&self.v, &self.w]
    }

    /// Returns the carry planes, the most recent last, a byte an element.
    pub fn carry(&self) -> &[ArrayD<u8>] {
        &self.carry
    }

    /// Returns the lattice the integers stand on.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Returns the values of an `f32` image that the lattice does not hold, by index and bits.
    pub fn exceptions(&self) -> &[(usize, u32)] {
        self.exceptions.values()
    }

    /// Gives registers the exceptions that [`Self::exceptions`] returned.
    ///
    /// # Errors
    /// [`StateError::Registers`] if an index lies outside.
    pub fn with_exceptions(self, exceptions: Vec<(usize, u32)>) -> Result<Self, StateError> {
        if exceptions.iter().any(|(index, _)| *index >= self.v.len()) {
            return Err(StateError::Registers);
        }
        Ok(Self { exceptions: Exceptions::new(exceptions), ..self })
    }

    /// Applies an operation to every element and its predicted noise; returns the latents that the operation read, if it did.
    ///
    /// The predictions' memory is that of the latents. `OutOfRange(NaN)` says that a prediction was not finite.
    pub(super) fn update(
        &mut self,
        noise: Latents,
        operation: impl Operation,
    ) -> Result<Latents, OutOfRange> {
        let standard = noise.is_standard_layout();
        let mut z = if standard { noise } else { noise.as_standard_layout().into_owned() };
        match self.pass(&mut z, true, &operation) {
            Err(_) if !FiniteCheck::of(&z).passed() => Err(OutOfRange(f64::NAN)),
            done => done.map(|()| z),
        }
    }

    /// Applies an operation that takes no noise to every element; returns the latents that it read, if it did.
    pub(super) fn apply(&mut self, operation: impl Operation) -> Result<Latents, OutOfRange> {
        let mut z = Latents::zeros(self.v.raw_dim());
        self.pass(&mut z, false, &operation)?;
        Ok(z)
    }

    fn pass(&mut self, z: &mut Latents, noise: bool, operation: &impl Operation) -> Result<(), OutOfRange> {
        match (self.v.as_slice_mut(), self.w.as_slice_mut(), z.as_slice_mut()) {
            (Some(v), Some(w), Some(z)) => pass(operation, (v, w, z), noise),
            // Registers are laid out in standard order by `new`, their only maker.
            _ => Err(OutOfRange(f64::NAN)),
        }
    }

    /// Returns the latents that an operation reads.
    pub(super) fn read(&self, operation: impl Operation) -> Result<Latents, OutOfRange> {
        let mut latents = Latents::zeros(self.v.raw_dim());
        for ((z, v), w) in latents.iter_mut().zip(&self.v).zip(&self.w) {
            *z = checked(&operation, Element { v: *v, w: *w, z: 0.0 })?.z;
        }
        Ok(latents)
    }

    /// Moves the low bits of the difference to a new carry plane.
    pub(super) fn spill(&mut self) {
        let bits = self.grid.spill_bits();
        let mask = u8::MAX >> (8 - bits);
        let plane = Zip::from(&mut self.w).map_collect(|w| {
            let low = *w as u8 & mask;
            *w >>= bits;
            low
        });
        if !self.carry.is_empty() || !is_zero(&plane) {
            self.carry.push(plane);
        }
    }

    /// Takes the most recent carry plane, or zeros, back into the difference.
    pub(super) fn unspill(&mut self) -> Result<(), OutOfRange> {
        let bits = self.grid.spill_bits();
        let limit = RANGE >> bits;
        if let Some(w) = self.w.iter().find(|w| **w <= -limit || **w >= limit) {
            return Err(OutOfRange(*w as f64 * f64::from(1u32 << bits)));
        }
        match self.carry.pop() {
            Some(plane) => {
                Zip::from(&mut self.w).and(&plane).for_each(|w, low| *w = (*w << bits) | i64::from(*low));
            }
            None => self.w.mapv_inplace(|w| w << bits),
        }
        Ok(())
    }

    /// A bottom plane of zeros says no more than no plane: without this an image's carry would depend on its history.
    fn trim(&mut self) {
        let zeros = self.carry.iter().take_while(|plane| is_zero(plane)).count();
        self.carry.drain(..zeros);
    }
}

fn is_zero(plane: &ArrayD<u8>) -> bool {
    plane.fold(0, |bits, byte| bits | byte) == 0
}
