//! Draws scenes into files: training data, or contact sheets for a person to look at.
#![forbid(unsafe_code)]

mod program;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match program::run(&program::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edict-scenes: {error}");
            ExitCode::FAILURE
        }
    }
}
