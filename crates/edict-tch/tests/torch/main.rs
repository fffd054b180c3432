//! The back end on PyTorch: every operation, the networks, what is refused, and which bits may change.

mod conformance;
mod determinism;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../../tests/support/golden.rs"]
mod golden;
mod misfits;
mod networks;
mod operations;
mod oracle;
mod parameters;
