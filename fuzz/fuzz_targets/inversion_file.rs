//! Any bytes as an inversion file and as a checkpoint.
#![no_main]

#[path = "../body/inversion_file.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    body::check(bytes);
});
