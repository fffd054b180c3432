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
    match prepared(options) {
        Ok((features, options)) => run("edict-bench", features, &options),
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Prepares what the options ask for; returns features to build with, and the options with what was left out.
fn prepared(options: &[String]) -> Result<(&'static [&'static str], Vec<String>), String> {
    let mut options = options.to_vec();
    if options.iter().any(|option| ["--help", "-h", "--version", "-V"].contains(&option.as_str())) {
        return Ok((&[], options));
    }
    if value(&options, "--python")?.is_none() {
        options.extend(["--python".to_owned(), python()?.to_string_lossy().into_owned()]);
    }
    let tch = value(&options, "--backends")?.is_some_and(|names| names.split(',').any(|name| name == "tch"));
    if tch {
        libtorch::prepare()?;
    }
    Ok((if tch { &["tch"] } else { &[] }, options))
}

/// Finds what an option was given, as `NAME VALUE` or `NAME=VALUE`.
pub(crate) fn value<'a>(options: &'a [String], name: &str) -> Result<Option<&'a str>, String> {
    for (i, option) in options.iter().enumerate() {
        let value = match option.strip_prefix(name) {
            Some("") => options.get(i + 1).map(String::as_str),
            Some(rest) if rest.starts_with('=') => rest.get(1..),
            _ => continue,
        };
        return value.map(Some).ok_or_else(|| format!("{name} needs a value"));
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_written_in_either_way() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(value(&words("--rounds 5"), "--python"), Ok(None));
        assert_eq!(value(&words("--rounds 5 --python py"), "--python"), Ok(Some("py")));
        assert_eq!(value(&words("--python=py --json"), "--python"), Ok(Some("py")));
        assert_eq!(value(&words("--pythonic py"), "--python"), Ok(None));
        assert!(value(&words("--json --python"), "--python").is_err());
    }
}
