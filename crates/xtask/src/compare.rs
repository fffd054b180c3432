//! `cargo xtask compare`: the same edit by candle, by PyTorch behind edict, and by PyTorch in Python.

use std::process::{Command, ExitCode};

use crate::{bench, cargo, libtorch, root};

/// What is compared on: name, what it is, options of the program.
const SUBJECTS: [(&str, &str, &[&str]); 3] = [
    ("tiny", "a model of the tests, 64x64", &[]),
    (
        "demo",
        "the model in the program, 64x64",
        &[
            "--model",
            "crates/edict-demo-model/model",
            "--image",
            "crates/edict-demo-model/samples/house.png",
            "--source",
            "a red house in the snow by day",
            "--target",
            "a blue house in the snow by day",
        ],
    ),
    (
        "sd15",
        "the shape of Stable Diffusion 1.5 with random weights, 512x512, two steps; longer edits are extrapolated",
        &[
            "--model",
            "target/bench-models/sd15",
            "--image",
            "tests/golden/images/chelsea-451x300.png",
            "--size",
            "512x512",
            "--steps",
            "2",
            "--strength",
            "1",
            "--fresh",
            "--extrapolate",
            "40",
        ],
    ),
];

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match compare(arguments) {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &[String]) -> Result<ExitCode, String> {
    let Some((subject, preset, options)) = subject(arguments) else {
        let all: Vec<_> = SUBJECTS.iter().map(|(name, about, _)| format!("  {name:6} {about}")).collect();
        eprintln!("usage: cargo xtask compare {} [OPTIONS]", SUBJECTS.map(|subject| subject.0).join("|"));
        eprintln!(
            "{}\nOptions are those of edict-compare: --rounds, --device, --dtype, --json, --write, ...",
            all.join("\n")
        );
        return Ok(ExitCode::from(2));
    };
    let named = bench::value(options, "--python")?;
    libtorch::prepare()?;
    let python = named.map_or_else(bench::python, |path| Ok(path.into()))?;
    if subject == "sd15" {
        bench::random_model(&python, "sd15")?;
    }
    // Of the whole workspace, so that what was built for other tasks fits.
    let features = "edict-cli/tch";
    let build = ["build", "--release", "--workspace", "--features", features, "--bin", "edict-compare"];
    bench::succeed(&mut cargo(&build), "cargo build")?;
    let mut program = Command::new(root().join("target/release/edict-compare"));
    program.current_dir(root()).args(preset).args(options);
    if named.is_none() {
        program.arg("--python").arg(python);
    }
    let status = program.status().map_err(|error| format!("edict-compare could not be run: {error}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Splits the arguments into the subject, its options, and those of the program that go on top.
fn subject(arguments: &[String]) -> Option<(&'static str, &'static [&'static str], &[String])> {
    let (first, rest) = arguments.split_first()?;
    let (name, _, preset) = SUBJECTS.into_iter().find(|(name, ..)| name == first)?;
    Some((name, preset, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_argument_names_the_subject() {
        let words: Vec<_> = ["demo", "--rounds", "7"].map(str::to_owned).into();
        let found = subject(&words).map(|(name, preset, rest)| (name, preset.len() > 2, rest.len()));
        assert_eq!(found, Some(("demo", true, 2)));
        assert!(subject(&words[1..]).is_none() && subject(&[]).is_none());
    }

    #[test]
    fn what_the_subjects_name_is_there() {
        for (name, _, preset) in SUBJECTS {
            for path in preset.iter().filter(|word| word.contains('/') && !word.starts_with("target/")) {
                assert!(root().join(path).exists(), "{name}: {path}");
            }
        }
    }
}
