//! Samplers on a lattice of integers: exact to the last bit.

mod edict;
mod grid;
mod integer;
mod pass;
mod registers;
mod single;
mod two_step;

pub use edict::{LatticeEdict, LatticePair};
pub use grid::Grid;
pub use registers::Registers;
pub use two_step::{LatticeNeighbours, LatticeTwoStep};
