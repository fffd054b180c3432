//! EDICT on a lattice of integers: exact to the last bit.

mod edict;
mod integer;
mod pair;
mod step;

pub use edict::LatticeEdict;
pub use pair::LatticePair;
