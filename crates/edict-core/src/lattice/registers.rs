//! Two integer registers, and the bits that have moved out of them.

use ndarray::ArrayD;

use super::Grid;
use super::integer::{Checked, Fast, Integers, OutOfRange, RANGE};
use super::single::Exceptions;
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

    /// Applies an operation to every element.
    pub(super) fn apply(&mut self, operation: impl Operation) -> Result<(), OutOfRange> {
        const NONE: [f64; BLOCK] = [0.0; BLOCK];
        blocks(&mut self.v, &mut self.w, |v, w| each(&operation, v, w, &NONE[..v.len()]))
    }

    /// Applies an operation to every element and its predicted noise.
    pub(super) fn apply_noise(
        &mut self,
        noise: &Latents,
        operation: impl Operation,
    ) -> Result<(), OutOfRange> {
        let noise = noise.as_standard_layout();
        let mut noise = noise.as_slice().unwrap_or_default().chunks(BLOCK);
        blocks(&mut self.v, &mut self.w, |v, w| each(&operation, v, w, noise.next().unwrap_or_default()))
    }

    /// Returns `v` as latents, a lattice unit being worth `scale`.
    pub(super) fn latents(&self, scale: f64) -> Latents {
        self.v.mapv(|v| v as f64 * scale)
    }

    /// Returns `v + q w` as latents, a lattice unit being worth `scale`.
    pub(super) fn sum(&self, scale: f64, q: f64) -> Result<Latents, OutOfRange> {
        let mut sums = Latents::zeros(self.v.raw_dim());
        let slices = (sums.as_slice_mut(), self.v.as_slice(), self.w.as_slice());
        if let (Some(sums), Some(v), Some(w)) = slices {
            for ((sums, v), w) in sums.chunks_mut(BLOCK).zip(v.chunks(BLOCK)).zip(w.chunks(BLOCK)) {
                fn sum<I: Integers>(integers: &mut I, v: i64, w: i64, q: f64) -> f64 {
                    let difference = difference(integers, w, q);
                    let sum = integers.add(v, difference);
                    integers.float(sum)
                }
                let mut fast = Fast::default();
                for ((out, v), w) in sums.iter_mut().zip(v).zip(w) {
                    *out = sum(&mut fast, *v, *w, q) * scale;
                }
                if !fast.passed() {
                    for ((out, v), w) in sums.iter_mut().zip(v).zip(w) {
                        let mut checked = Checked::default();
                        *out = sum(&mut checked, *v, *w, q) * scale;
                        checked.passed()?;
                    }
                }
            }
        }
        Ok(sums)
    }

    /// Moves the low bits of the difference to a new carry plane.
    pub(super) fn spill(&mut self) {
        let bits = self.grid.spill_bits();
        let mask = (1i64 << bits) - 1;
        self.carry.push(self.w.mapv(|w| (w & mask) as u8));
        self.w.mapv_inplace(|w| w >> bits);
        self.trim();
    }

    /// Takes the most recent carry plane, or zeros, back into the difference.
    pub(super) fn unspill(&mut self) -> Result<(), OutOfRange> {
        let bits = self.grid.spill_bits();
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

/// What a step does to an element's registers: `(v, w)`, given the predicted noise.
pub(super) trait Operation {
    fn of<I: Integers>(&self, integers: &mut I, v: i64, w: i64, noise: f64) -> (i64, i64);
}

/// The lattice value of a difference register.
#[inline(always)]
pub(super) fn difference<I: Integers>(integers: &mut I, w: i64, q: f64) -> i64 {
    let w = integers.float(w);
    integers.round(w * q)
}

/// Elements that are looked at together: small enough for the first-level cache.
const BLOCK: usize = 256;

fn blocks(
    v: &mut ArrayD<i64>,
    w: &mut ArrayD<i64>,
    mut operation: impl FnMut(&mut [i64], &mut [i64]) -> Result<(), OutOfRange>,
) -> Result<(), OutOfRange> {
    match (v.as_slice_mut(), w.as_slice_mut()) {
        (Some(v), Some(w)) => {
            v.chunks_mut(BLOCK).zip(w.chunks_mut(BLOCK)).try_for_each(|(v, w)| operation(v, w))
        }
        // Registers are laid out in standard order by `new`, their only maker.
        _ => Err(OutOfRange(f64::NAN)),
    }
}

fn each(operation: &impl Operation, v: &mut [i64], w: &mut [i64], noise: &[f64]) -> Result<(), OutOfRange> {
    let mut fast = Fast::default();
    let (mut new_v, mut new_w) = ([0; BLOCK], [0; BLOCK]);
    let news = new_v.iter_mut().zip(&mut new_w);
    for ((((new_v, new_w), v), w), e) in news.zip(v.iter()).zip(w.iter()).zip(noise) {
        (*new_v, *new_w) = operation.of(&mut fast, *v, *w, *e);
    }
    if fast.passed() {
        v.copy_from_slice(&new_v[..v.len()]);
        w.copy_from_slice(&new_w[..w.len()]);
        return Ok(());
    }
    for ((v, w), e) in v.iter_mut().zip(w).zip(noise) {
        let mut checked = Checked::default();
        (*v, *w) = operation.of(&mut checked, *v, *w, *e);
        checked.passed()?;
    }
    Ok(())
}
