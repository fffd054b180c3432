//! Tasks that build a program that measures something, and run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::{cargo, libtorch, root};

/// Runs a program of the workspace with its options.
pub(crate) fn run(package: &str, features: &[&str], options: &[String]) -> ExitCode {
    let mut arguments = vec!["run", "--release", "--quiet", "-p", package];
    arguments.extend(features.iter().flat_map(|feature| ["--features", feature]));
    arguments.push("--");
    arguments.extend(options.iter().map(String::as_str));
    match cargo(&arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // Its own code: the program tells wrong usage from failure.
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("xtask: {package} could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Times the networks beside PyTorch, which is installed under `target/` first where no other Python is named.
pub(crate) fn networks(options: &[String]) -> ExitCode {
    let mut options = options.to_vec();
    let needless = ["--python", "--help", "-h", "--version"];
    if !options.iter().any(|option| needless.contains(&option.as_str()) || option.starts_with("--python=")) {
        match python() {
            Ok(python) => options.extend(["--python".to_owned(), python.to_string_lossy().into_owned()]),
            Err(reason) => {
                eprintln!("xtask: {reason}");
                return ExitCode::FAILURE;
            }
        }
    }
    let backends = options.iter().skip_while(|option| !option.starts_with("--backends")).take(2);
    if !backends.into_iter().any(|option| option.contains("tch")) {
        return run("edict-bench", &[], &options);
    }
    if let Err(reason) = libtorch::prepare() {
        eprintln!("xtask: {reason}");
        return ExitCode::FAILURE;
    }
    run("edict-bench", &["tch"], &options)
}

/// Makes the Python environment of `benches/compare`, once.
pub(crate) fn python() -> Result<PathBuf, String> {
    let folder = root().join("target/bench-python");
    let python = folder.join("bin/python");
    let requirements = root().join("benches/compare/requirements.txt");
    // What is installed stands beside it: other requirements are installed on top.
    let (wanted, mark) = (fs::read(&requirements), folder.join("requirements.txt"));
    let wanted = wanted.map_err(|error| format!("{}: {error}", requirements.display()))?;
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("installing PyTorch into {} (some gigabytes, once)", folder.display());
    succeed(Command::new("python3").arg("-m").arg("venv").arg(&folder), "python3 -m venv")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements);
    succeed(&mut install, "pip install")?;
    fs::write(&mark, &wanted).map_err(|error| format!("{}: {error}", mark.display()))?;
    Ok(python)
}

/// Makes a model with random weights of a published shape, once.
pub(crate) fn random_model(python: &Path, shape: &str) -> Result<(), String> {
    let folder = root().join("target/bench-models").join(shape);
    if folder.join("complete").exists() {
        return Ok(());
    }
    eprintln!("making {}", folder.display());
    let script = root().join("benches/compare/models.py");
    succeed(Command::new(python).arg(script).arg(shape).arg(&folder), "models.py")
}

pub(crate) fn succeed(command: &mut Command, name: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} could not be run: {error}")),
    }
}
