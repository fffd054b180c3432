//! Command line for exact diffusion inversion and image editing.
#![deny(unsafe_code)]

mod args;
mod backends;
mod commands;
mod defaults;
mod failure;
mod files;
mod input;
mod measure;
mod memory;
mod plot;
mod progress;
mod report;
mod run;
mod session;
mod settings;
mod sheet;
mod witness;

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Instant;

use args::{BackendName, Cli, Command};
use backends::Offered;
use clap::Parser;
use clap::error::ErrorKind;
use edict_candle::CandleBackend;
use failure::Failure;
use progress::Reporter;
use report::Report;

#[global_allocator]
static ALLOCATOR: memory::OrExit = memory::OrExit;

fn main() -> ExitCode {
    let begun = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = cli.command.output();
    progress::watch_interrupts(output.quiet);
    let reporter = Reporter::new(output.quiet);
    let result = match backends::chosen(&cli.command) {
        BackendName::Candle => run_on::<CandleBackend>(&cli.command, &reporter),
        #[cfg(feature = "tch")]
        BackendName::Tch => run_on::<edict_tch::TchBackend>(&cli.command, &reporter),
        #[cfg(not(feature = "tch"))]
        BackendName::Tch => Err(backends::not_built(&cli.command)),
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
            progress::tell(&format!("error: {}", failure.message));
            ExitCode::from(failure.status)
        }
    }
}

/// Runs a command on a back end.
fn run_on<B: Offered>(command: &Command, reporter: &Reporter) -> Result<Report, Failure> {
    match command {
        Command::Invert(args) => commands::invert::run::<B>(args, reporter),
        Command::Generate(args) => commands::generate::run::<B>(args, reporter),
        Command::Edit(args) => commands::edit::run::<B>(args, reporter),
        Command::Reconstruct(args) => commands::reconstruct::run::<B>(args, reporter),
        Command::Compare(args) => commands::reconstruct::compare::<B>(args, reporter),
        Command::Sweep(args) => commands::sweep::run::<B>(args, reporter),
        Command::Info(args) => commands::info::run(args, reporter),
    }
}

/// Answers a command line that is wrong, in one line, or one that asks for help.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    // clap's own text goes on with usage and a hint, after an empty line.
    let text = error.render().to_string();
    let message: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    progress::tell(&format!("{} (see --help)", message.join(" ")));
    ExitCode::from(2)
}
