//! What can go wrong.

/// An error of drawing or comparing pictures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// The side is outside the range that the styles are made for.
    #[error("a picture's side must be a multiple of 16 in 32..=1024, found {found}")]
    Side {
        /// The side asked for, in pixels.
        found: usize,
    },
    /// Two pictures of different sides cannot be compared.
    #[error("pictures of side {left} and {right} cannot be compared")]
    Sides {
        /// Side of the one picture.
        left: usize,
        /// Side of the other.
        right: usize,
    },
}
