//! `cargo xtask ci`: what has to pass before a change is taken.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::counts::{Counts, stream};
use crate::{cargo, readme, root};

const WASM: &str = "wasm32-unknown-unknown";

/// How a stage ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

type Stage = fn(&mut Counts) -> Outcome;

/// In the order of what they cost. Clippy and rustdoc check the release profile, so that proc macros and build scripts are
/// built once for them and for the tests.
const STAGES: [(&str, Stage); 7] = [
    ("rustfmt", |_| succeeds(cargo(&["fmt", "--all", "--check"]))),
    ("clippy", |_| succeeds(cargo(&["clippy", "--release", "--all-targets", "--", "-D", "warnings"]))),
    // What PyTorch is in, without PyTorch.
    ("clippy tch", |_| {
        let features = "edict-bench/tch,edict-cli/tch,edict-diffusion/tch,edict-tch/doc-only";
        let lint = ["clippy", "--release", "--all-targets", "--workspace", "--features", features];
        let mut lint = cargo(&lint);
        lint.args(["--", "-D", "warnings"]);
        succeeds(lint)
    }),
    ("docs", |_| {
        let mut docs =
            cargo(&["doc", "--release", "--no-deps", "--workspace", "--features", "edict-tch/doc-only"]);
        docs.env("RUSTDOCFLAGS", "-D warnings");
        succeeds(docs)
    }),
    ("wasm32", |_| wasm()),
    ("package", |_| package()),
    ("tests", test),
];

pub(crate) fn run() -> ExitCode {
    let mut report = Vec::new();
    let mut counts = Counts::default();
    let mut failed = false;
    for (name, stage) in STAGES {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = stage(&mut counts);
        let seconds = start.elapsed().as_secs_f64();
        let (word, reason) = match outcome {
            Outcome::Passed => ("ok", String::new()),
            Outcome::Skipped(reason) => ("skipped", reason),
            Outcome::Failed(reason) => {
                failed = true;
                ("FAILED", reason)
            }
        };
        let line = format!("{name:10} {word:8} {seconds:7.1} s  {reason}");
        println!("== {}", line.trim_end());
        report.push(line);
    }
    println!();
    for line in report {
        println!("{}", line.trim_end());
    }
    println!("{counts}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn succeeds(mut command: Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(status.to_string()),
        Err(error) => Outcome::Failed(format!("could not be run: {error}")),
    }
}

/// Packages the core and builds what comes out; then, unbuilt, the demo model with the crates it needs, which resolve against each
/// other while none of them is published.
fn package() -> Outcome {
    // The working tree may differ from the last commit while a change is being made.
    match succeeds(cargo(&["package", "-p", "edict-core", "--allow-dirty"])) {
        Outcome::Passed => {}
        other => return other,
    }
    let crates = ["-p", "edict-core", "-p", "edict-stable-diffusion", "-p", "edict-demo-model"];
    let mut together = cargo(&["package", "--no-verify", "--allow-dirty"]);
    together.args(crates);
    succeeds(together)
}

/// Builds the core where there is no operating system, if the toolchain can.
fn wasm() -> Outcome {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libraries = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", WASM])
        .current_dir(root())
        .stderr(Stdio::null())
        .output();
    let installed = libraries.is_ok_and(|output| {
        output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    });
    if installed {
        succeeds(cargo(&["build", "--release", "-p", "edict-core", "--target", WASM]))
    } else {
        Outcome::Skipped(format!("{WASM} is not installed: rustup target add {WASM}"))
    }
}

/// Runs the command that the README gives its readers.
fn test(counts: &mut Counts) -> Outcome {
    let words = fs::read_to_string(root().join("README.md"))
        .map_err(|error| format!("README.md cannot be read: {error}"))
        .and_then(|text| readme::test_command(&text));
    let words = match words {
        Ok(words) => words,
        Err(reason) => return Outcome::Failed(reason),
    };
    println!("{}", words.join(" "));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(root());
    let status = stream(&mut command, |line| *counts = Counts::of_total(line).unwrap_or(*counts));
    match status {
        Ok(status) if !status.success() => Outcome::Failed(status.to_string()),
        Ok(_) if counts.passed == 0 => Outcome::Failed("no test was counted".to_owned()),
        Ok(_) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("could not be run: {error}")),
    }
}
