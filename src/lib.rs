//! Exact inversion of diffusion models.
