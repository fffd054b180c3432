//! Backend-agnostic exact inversion of diffusion models: trajectories, predictors and coupled samplers (EDICT).
