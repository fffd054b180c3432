//! Resampling of one axis of an image.

use std::f64::consts::PI;
use std::ops::Range;

/// Lobes of the Lanczos kernel on either side.
const LOBES: f64 = 3.0;

/// How the pixels of an output axis are made from those of an input axis.
#[derive(Debug)]
pub(crate) struct Axis {
    /// First source pixel and the weights of it and its successors, for each output pixel.
    taps: Vec<(usize, Vec<f64>)>,
}

impl Axis {
    /// Takes the middle `to` of `from` pixels; where they cannot be centred, the half more to the left or to the top.
    pub(crate) fn crop(from: usize, to: usize) -> Self {
        let first = (from - to) / 2;
        Self { taps: (0..to).map(|i| (first + i, vec![1.0])).collect() }
    }

    /// Resamples the middle `extent` (in input pixels, not necessarily whole) of `from` pixels to `to` pixels.
    ///
    /// Pixels outside the middle, within the image, take part at its borders. When shrinking, the kernel is widened by the
    /// scale; weights are normalised to sum 1. An axis that is not scaled is cropped to whole pixels.
    pub(crate) fn centred(from: usize, extent: f64, to: usize) -> Self {
        if extent == to as f64 {
            return Self::crop(from, to);
        }
        let first = (from as f64 - extent) / 2.0;
        let scale = extent / to as f64;
        let width = scale.max(1.0);
        let taps = (0..to).map(|i| {
            let centre = first + (i as f64 + 0.5) * scale;
            let low = (centre - LOBES * width + 0.5).floor().max(0.0) as usize;
            let high = ((centre + LOBES * width + 0.5).floor() as usize).clamp(low + 1, from);
            let mut weights: Vec<f64> =
                (low..high).map(|x| lanczos((x as f64 + 0.5 - centre) / width)).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
            (low, weights)
        });
        Self { taps: taps.collect() }
    }

    /// Returns the number of output pixels.
    pub(crate) fn len(&self) -> usize {
        self.taps.len()
    }

    /// Returns the input pixels that take part.
    pub(crate) fn sources(&self) -> Range<usize> {
        let start = self.taps.iter().map(|(low, _)| *low).min().unwrap_or(0);
        let end = self.taps.iter().map(|(low, weights)| low + weights.len()).max().unwrap_or(0);
        start..end
    }

    /// Returns output pixel `i` of an axis whose input pixels are `value`.
    pub(crate) fn weigh(&self, i: usize, value: impl Fn(usize) -> f64) -> f64 {
        let (low, weights) = &self.taps[i];
        match weights.as_slice() {
            [_] => value(*low),
            weights => weights.iter().enumerate().map(|(k, weight)| weight * value(low + k)).sum(),
        }
    }
}

/// `sinc(x) sinc(x / 3)` within three of 0.
fn lanczos(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else if x.abs() < LOBES {
        LOBES * (PI * x).sin() * (PI * x / LOBES).sin() / (PI * x).powi(2)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_takes_whole_pixels() {
        let axis = Axis::crop(451, 448);
        assert_eq!((axis.len(), axis.sources()), (448, 1..449));
        assert_eq!(axis.weigh(0, |x| x as f64), 1.0);
        let same = Axis::centred(65, 64.0, 64);
        assert_eq!(same.sources(), 0..64);
    }

    #[test]
    fn keeps_constants_and_the_inside_of_ramps() {
        for (from, extent, to) in
            [(100, 100.0, 37), (37, 37.0, 100), (64, 48.5, 20), (5, 5.0, 512), (1, 1.0, 9)]
        {
            let axis = Axis::centred(from, extent, to);
            let (first, scale) = ((from as f64 - extent) / 2.0, extent / to as f64);
            for i in 0..to {
                let constant = axis.weigh(i, |_| 7.0);
                assert!((constant - 7.0).abs() < 1e-13, "{constant}");
                let centre = first + (i as f64 + 0.5) * scale;
                let reach = LOBES * scale.max(1.0) + 1.0;
                if centre > reach && centre + reach < from as f64 {
                    // A Lanczos kernel reproduces a ramp up to its ripple.
                    let ramp = axis.weigh(i, |x| x as f64 + 0.5);
                    assert!((ramp - centre).abs() < 0.02 * scale.max(1.0), "{ramp} at {centre}");
                }
            }
        }
    }

    #[test]
    fn is_symmetric() {
        let axis = Axis::centred(50, 41.0, 16);
        for i in 0..16 {
            let left = axis.weigh(i, |x| (x * x) as f64);
            let right = axis.weigh(15 - i, |x| ((49 - x) * (49 - x)) as f64);
            assert!((left - right).abs() < 1e-10, "{left} {right}");
        }
    }
}
