//! Command line for exact diffusion inversion and image editing.

fn main() {}
