//! One file a command, but for those that measure.

pub(crate) mod edit;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod invert;
pub(crate) mod reconstruct;
pub(crate) mod sweep;
