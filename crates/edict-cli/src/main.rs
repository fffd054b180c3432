//! Command line for exact diffusion inversion and image editing.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod progress;
mod session;

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Instant;

use args::{Cli, Command};
use clap::Parser;
use progress::Reporter;

fn main() -> ExitCode {
    let begun = Instant::now();
    let cli = Cli::parse();
    progress::watch_interrupts();
    let output = cli.command.output();
    let reporter = Reporter::new(output.quiet);
    let result = match cli.command {
        Command::Invert(args) => commands::invert::run(&args, &reporter),
        Command::Generate(args) => commands::generate::run(&args, &reporter),
        Command::Edit(args) => commands::edit::run(&args, &reporter),
        Command::Reconstruct(args) => commands::reconstruct::run(&args, &reporter),
        Command::Info(args) => commands::info::run(&args),
    };
    match result {
        Ok(mut report) => {
            if output.json {
                let fields = &mut report.json;
                fields.insert("seconds".to_owned(), begun.elapsed().as_secs_f64().into());
                fields.insert("warnings".to_owned(), reporter.warnings().into());
                report.text = format!("{}\n", serde_json::Value::Object(report.json));
            }
            if output.json || report.answers || !output.quiet {
                // A reader that has gone away is no failure of the work.
                let _ = stdout().write_all(report.text.as_bytes());
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            ExitCode::from(failure.status)
        }
    }
}
