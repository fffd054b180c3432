//! Development tasks of the workspace: what a script would do, without a shell. `cargo xtask help` lists them.

mod counts;
mod readme;
mod stages;
mod tests;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Name, what it does, the function that does it.
type Task = (&'static str, &'static str, fn() -> ExitCode);

const TASKS: [Task; 3] = [
    (
        "test",
        "every test, documentation example and program in examples/, with the total at the end",
        tests::run,
    ),
    (
        "ci",
        "what has to pass: format, lints, docs, package, wasm32, then the README's test command",
        stages::run,
    ),
    ("help", "this list", help),
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "help".to_owned());
    if let Some(extra) = arguments.next() {
        eprintln!("xtask: `{name}` takes no arguments, found `{extra}`");
        return ExitCode::from(2);
    }
    match TASKS.iter().find(|(task, ..)| *task == name) {
        Some((_, _, run)) => run(),
        None => {
            eprintln!("xtask: there is no task `{name}`");
            help();
            ExitCode::from(2)
        }
    }
}

fn help() -> ExitCode {
    println!("usage: cargo xtask TASK\n");
    for (name, about, _) in TASKS {
        println!("  {name:8} {about}");
    }
    ExitCode::SUCCESS
}

/// The repository's root directory.
fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let crates = PathBuf::from(manifest);
    crates.ancestors().nth(2).unwrap_or(&crates).to_owned()
}

/// The cargo that runs this program, to be started in the repository's root.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}
