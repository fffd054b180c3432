//! The pair on the lattice: two integer registers, and the bits that have moved out of them.

use ndarray::ArrayD;

use super::integer::{self, OutOfRange, RANGE};
use crate::{Latents, StateError};

/// The state of [`LatticeEdict`](super::LatticeEdict): the pair of latents as integers.
///
/// `v` is `y` in units of `2^-k`, scaled so that the image has scale 1; `w` is `x - y`, in units that shrink with every mixing, so
/// that contracting the difference loses nothing: what is too fine for `w` stands in carry planes, a byte an element.
/// [`LatticeEdict::leave`](super::LatticeEdict::leave) turns it into latents. Coming back to the same bits needs this state, not those
/// latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatticePair {
    v: ArrayD<i64>,
    w: ArrayD<i64>,
    /// Bytes moved out of `w`, the most recent last. Planes of zeros at the bottom are left out.
    carry: Vec<ArrayD<u8>>,
    pub(super) level: usize,
}

impl LatticePair {
    /// Makes a state from its parts, as [`Self::registers`], [`Self::carry`] and [`Self::level`] return them.
    ///
    /// # Errors
    /// [`StateError::Registers`] if shapes differ or a register leaves the range `|value| < 2^62`.
    pub fn from_parts(
        [v, w]: [ArrayD<i64>; 2],
        carry: Vec<ArrayD<u8>>,
        level: usize,
    ) -> Result<Self, StateError> {
        let in_range = |values: &ArrayD<i64>| values.iter().all(|value| -RANGE < *value && *value < RANGE);
        let fits = v.shape() == w.shape() && carry.iter().all(|plane| plane.shape() == v.shape());
        if !fits || !in_range(&v) || !in_range(&w) {
            return Err(StateError::Registers);
        }
        Ok(Self::new(v, w, carry, level))
    }

    pub(super) fn new(v: ArrayD<i64>, w: ArrayD<i64>, carry: Vec<ArrayD<u8>>, level: usize) -> Self {
        let mut pair = Self { v, w, carry, level };
        pair.trim();
        pair
    }

    /// Returns the registers `[v, w]`: the lattice values of `y` and of the difference.
    pub fn registers(&self) -> [&ArrayD<i64>; 2] {
        [&self.v, &self.w]
    }

    /// Returns the carry planes, the most recent last, a byte an element.
    pub fn carry(&self) -> &[ArrayD<u8>] {
        &self.carry
    }

    /// Returns the level the state stands at: 0 at the noisy end of the run.
    pub fn level(&self) -> usize {
        self.level
    }

    /// Returns `y` as latents, a lattice unit being worth `scale`.
    pub(super) fn y(&self, scale: f64) -> Latents {
        self.v.mapv(|v| v as f64 * scale)
    }

    /// Returns `x` as latents; `q` is what a unit of `w` is worth in lattice units.
    pub(super) fn x(&self, scale: f64, q: f64) -> Result<Latents, OutOfRange> {
        let mut latents = self.y(scale);
        for ((z, v), w) in latents.iter_mut().zip(&self.v).zip(&self.w) {
            *z = integer::add(*v, difference(*w, q)?)? as f64 * scale;
        }
        Ok(latents)
    }

    /// Moves `x` by `factor e` difference units and leaves `y` where it is.
    pub(super) fn move_x(&mut self, e: &Latents, factor: f64, back: bool) -> Result<(), OutOfRange> {
        for (w, e) in self.w.iter_mut().zip(e) {
            let by = integer::round(e * factor)?;
            *w = integer::add(*w, if back { -by } else { by })?;
        }
        Ok(())
    }

    /// Moves `y` by `factor e` difference units and leaves `x` where it is.
    pub(super) fn move_y(&mut self, e: &Latents, factor: f64, back: bool, q: f64) -> Result<(), OutOfRange> {
        for ((v, w), e) in self.v.iter_mut().zip(self.w.iter_mut()).zip(e) {
            let x = integer::add(*v, difference(*w, q)?)?;
            let by = integer::round(e * factor)?;
            *w = integer::add(*w, if back { by } else { -by })?;
            *v = integer::add(x, -difference(*w, q)?)?;
        }
        Ok(())
    }

    /// Mixes: `y` gains its share of the difference, whose register stays and is worth less from now on.
    pub(super) fn mix(&mut self, mixing: f64, back: bool) -> Result<(), OutOfRange> {
        for (v, w) in self.v.iter_mut().zip(&self.w) {
            let by = integer::round(*w as f64 * mixing)?;
            *v = integer::add(*v, if back { -by } else { by })?;
        }
        Ok(())
    }

    /// Moves the low bits of the difference to a new carry plane.
    pub(super) fn spill(&mut self, bits: u32) {
        let mask = (1i64 << bits) - 1;
        self.carry.push(self.w.mapv(|w| (w & mask) as u8));
        self.w.mapv_inplace(|w| w >> bits);
        self.trim();
    }

    /// Takes the most recent carry plane, or zeros, back into the difference.
    pub(super) fn unspill(&mut self, bits: u32) -> Result<(), OutOfRange> {
        let limit = RANGE >> bits;
        let shift = |w: &mut i64, low: u8| {
            if *w <= -limit || *w >= limit {
                return Err(OutOfRange(*w as f64 * f64::from(1u32 << bits)));
            }
            *w = (*w << bits) | i64::from(low);
            Ok(())
        };
        match self.carry.pop() {
            Some(plane) => self.w.iter_mut().zip(&plane).try_for_each(|(w, low)| shift(w, *low)),
            None => self.w.iter_mut().try_for_each(|w| shift(w, 0)),
        }
    }

    /// A bottom plane of zeros says no more than no plane: without this an image's carry would depend on its history.
    fn trim(&mut self) {
        let zeros = self.carry.iter().take_while(|plane| plane.iter().all(|byte| *byte == 0)).count();
        self.carry.drain(..zeros);
    }
}

/// The lattice value of a difference register: `G(w)`.
#[inline(always)]
fn difference(w: i64, q: f64) -> Result<i64, OutOfRange> {
    integer::round(w as f64 * q)
}
