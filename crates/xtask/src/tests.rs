//! `cargo xtask test`: everything that can be run to find a mistake.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use crate::counts::{Counts, stream};
use crate::{cargo, libtorch, readme, root};

/// The tests that need libtorch. Of the whole workspace, so that what was built for the others fits these.
const WITH_TCH: [&str; 14] = [
    "test",
    "--release",
    "--no-fail-fast",
    "--workspace",
    "--features",
    "edict-cli/tch",
    "--test",
    "torch",
    "--test",
    "settings",
    "--test",
    "backends",
    "--test",
    "tch",
];

/// Those within the crates that need libtorch; the filters leave out what the others' tests were run for already.
const WITHIN_TCH: [&str; 11] = [
    "test",
    "--release",
    "--no-fail-fast",
    "--workspace",
    "--features",
    "edict-cli/tch",
    "--lib",
    "--bin",
    "edict-compare",
    "--",
    "tch_tests",
];

pub(crate) fn run(options: &[String]) -> ExitCode {
    let with_tch = match options {
        [] => true,
        [option] if option == "--no-tch" => false,
        _ => {
            eprintln!("xtask: `test` takes `--no-tch` or nothing, found `{}`", options.join(" "));
            return ExitCode::from(2);
        }
    };
    // First: who has no network should hear of it now.
    if with_tch && let Err(reason) = libtorch::prepare() {
        eprintln!("xtask: {reason}");
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let mut failures = Vec::new();
    let mut counts = Counts::default();

    // Optimised: the tests walk real networks. To the end, so that the total is one of all tests.
    let mut test = |arguments: &[&str], name: &str| {
        let mut command = cargo(arguments);
        // Tests run side by side: PyTorch's threads should not spin while they wait for each other.
        command.env("OMP_WAIT_POLICY", "passive");
        let status = stream(&mut command, |line| counts += Counts::of_summary(line).unwrap_or_default());
        match status {
            Ok(status) if status.success() => {}
            Ok(_) => failures.push(name.to_owned()),
            Err(error) => failures.push(format!("{name} could not be run: {error}")),
        }
    };
    test(&["test", "--release", "--no-fail-fast"], "cargo test");
    if with_tch {
        println!("\n     With PyTorch");
        test(&WITH_TCH, "cargo test with edict-tch");
        test(&WITHIN_TCH, "cargo test within edict-tch");
    }

    match examples() {
        Ok(names) => {
            for name in names {
                println!("\n     Example {name}");
                let mut example = cargo(&["run", "--release", "--quiet", "--example", &name]);
                let passed = stream(&mut example, |_| {}).is_ok_and(|status| status.success());
                counts += Counts { passed: usize::from(passed), failed: usize::from(!passed) };
                if !passed {
                    failures.push(format!("example {name}"));
                }
            }
        }
        Err(error) => failures.push(format!("examples/ could not be read: {error}")),
    }

    println!("\n     README's first command");
    let passed = match first_command() {
        Ok(()) => true,
        Err(reason) => {
            failures.push(format!("README's first command: {reason}"));
            false
        }
    };
    counts += Counts { passed: usize::from(passed), failed: usize::from(!passed) };

    println!();
    for failure in &failures {
        println!("failed: {failure}");
    }
    if !with_tch {
        println!("edict-tch was left out (--no-tch): nothing that needs PyTorch was tested");
    }
    println!("{:.0} s, examples counted as one test each", start.elapsed().as_secs_f64());
    println!("{counts}");
    if failures.is_empty() && counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the command that newcomers paste, and looks for the pictures it promises.
fn first_command() -> Result<(), String> {
    let text = fs::read_to_string(root().join("README.md")).map_err(|error| error.to_string())?;
    let mut words = readme::first_command(&text)?;
    // Away from the checkout, which should stay as it is.
    let pictures = readme::redirect(&mut words, |name| root().join("target").join(name));
    if pictures.is_empty() {
        return Err("it names no --output".to_owned());
    }
    for picture in &pictures {
        let _ = fs::remove_file(picture);
    }
    let arguments: Vec<_> = words[1..].iter().map(String::as_str).collect();
    let status = cargo(&arguments).status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(status.to_string());
    }
    for picture in pictures {
        let bytes = fs::read(&picture).unwrap_or_default();
        if !bytes.starts_with(b"\x89PNG") {
            return Err(format!("{}: {} bytes, and no PNG", picture.display(), bytes.len()));
        }
    }
    Ok(())
}

/// Names of the programs in `examples/`, sorted.
fn examples() -> io::Result<Vec<String>> {
    let directory = root().join("examples");
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_program = path.extension().is_some_and(|extension| extension == "rs");
        if let (true, Some(name)) = (is_program, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
