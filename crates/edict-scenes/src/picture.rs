//! Finished pictures and what differs between two of them.

use crate::SceneError;
use crate::canvas::Canvas;

/// A square RGB picture of 8 bits a channel, rows from the top, channels interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    side: usize,
    bytes: Vec<u8>,
}

impl Picture {
    /// A change of a channel by more than this is seen as a change ([`Self::changed`]).
    pub const VISIBLE: u8 = 8;

    pub(crate) fn from_canvas(canvas: &Canvas) -> Self {
        let level = |v: &f32| (v * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
        Self { side: canvas.side, bytes: canvas.pixels.iter().flatten().map(level).collect() }
    }

    /// The side in pixels.
    #[must_use]
    pub const fn side(&self) -> usize {
        self.side
    }

    /// The bytes, `[side, side, 3]`.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Marks the pixels where a channel differs from the other picture by more than [`Self::VISIBLE`].
    ///
    /// The result is `[side, side]`, rows from the top. Between a scene and its edit this is the region that
    /// the edit should touch; the rest is to be kept.
    ///
    /// # Errors
    ///
    /// [`SceneError::Sides`] where the sides differ.
    pub fn changed(&self, other: &Self) -> Result<Vec<bool>, SceneError> {
        if self.side != other.side {
            return Err(SceneError::Sides { left: self.side, right: other.side });
        }
        let seen = |(a, b): (&u8, &u8)| a.abs_diff(*b) > Self::VISIBLE;
        let pixels = self.bytes.chunks_exact(3).zip(other.bytes.chunks_exact(3));
        Ok(pixels.map(|(a, b)| a.iter().zip(b).any(seen)).collect())
    }
}
