//! Latents of single precision, of which the lattice loses nothing.

use ndarray::ArrayD;

use super::Grid;
use super::integer::round;
use crate::Latents;

/// Values of an `f32` image that the lattice does not hold, by index: finer than its unit, or -0.
///
/// A value comes back from here if the image has come back to the lattice point that stood for it, and only then: what an edit has moved
/// is the edit's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<(usize, u32)>);

impl Exceptions {
    pub(super) fn new(values: Vec<(usize, u32)>) -> Self {
        Self(values)
    }

    pub(super) fn values(&self) -> &[(usize, u32)] {
        &self.0
    }

    /// Finds the values of an image that do not come back from the lattice by themselves.
    pub(super) fn of(image: &ArrayD<f32>, grid: Grid) -> Self {
        let lost = |value: f32| restored(on_lattice(value, grid)).to_bits() != value.to_bits();
        let found = image.iter().enumerate().filter(|(_, value)| lost(**value));
        Self(found.map(|(index, value)| (index, value.to_bits())).collect())
    }

    /// Rounds an image that has come back to `f32`, with the values the lattice does not hold.
    pub(super) fn restore(&self, image: &Latents, grid: Grid) -> ArrayD<f32> {
        let mut values: Vec<f32> = image.iter().map(|value| restored(*value)).collect();
        for (index, bits) in &self.0 {
            let value = f32::from_bits(*bits);
            if let Some(out) = values.get_mut(*index)
                && restored(on_lattice(value, grid)).to_bits() == out.to_bits()
            {
                *out = value;
            }
        }
        let mut restored = ArrayD::zeros(image.raw_dim());
        restored.iter_mut().zip(values).for_each(|(out, value)| *out = value);
        restored
    }
}

/// The lattice point that stands for a value at the image.
fn on_lattice(value: f32, grid: Grid) -> f64 {
    let units = grid.units_at_image();
    round(f64::from(value) * units).map_or(f64::NAN, |point| point as f64 / units)
}

fn restored(value: f64) -> f32 {
    value as f32
}
