//! Analytic noise predictors and conformance checks for edict predictors and back ends.
