//! Development tasks of the workspace: what a script would do, without a shell. `cargo xtask help` lists them.

mod bench;
mod compare;
mod counts;
mod gallery;
mod libtorch;
mod readme;
mod stages;
mod tests;
mod trip;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Name, what it does, how it is run.
type Task = (&'static str, &'static str, Run);

#[derive(Clone, Copy)]
enum Run {
    /// It takes no arguments.
    Alone(fn() -> ExitCode),
    /// It takes whatever follows its name.
    With(fn(&[String]) -> ExitCode),
}

const TASKS: [Task; 9] = [
    (
        "test",
        "every test, documentation example and program in examples/, with the total at the end; --no-tch leaves PyTorch out",
        Run::With(tests::run),
    ),
    (
        "libtorch",
        "the C++ half of PyTorch, which edict-tch needs: that of LIBTORCH, of Python, or fetched into target/",
        Run::Alone(libtorch::run),
    ),
    (
        "ci",
        "what has to pass: format, lints, docs, package, wasm32, then the README's test command",
        Run::Alone(stages::run),
    ),
    ("gallery", "the pictures that README.md and docs/gallery.md show, made anew", Run::Alone(gallery::run)),
    (
        "edit-bench",
        "measures edits whose right outcome is known; options go to the program",
        Run::With(|options| bench::run("edict-edit-bench", &[], options)),
    ),
    (
        "bench-unet",
        "the networks at the size of Stable Diffusion, timed beside PyTorch; options go to the program",
        Run::With(bench::networks),
    ),
    (
        "compare",
        "one edit by candle, by tch and by Python, side by side: tiny, demo or sd15; options go to the program",
        Run::With(compare::run),
    ),
    (
        "python-trip",
        "inversion files from edict to Python and back; needs PyTorch in Python, which is installed into target/",
        Run::With(trip::run),
    ),
    ("help", "this list", Run::Alone(help)),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match find(&arguments) {
        Ok((Run::Alone(run), _)) => run(),
        Ok((Run::With(run), rest)) => run(rest),
        Err(reason) => {
            eprintln!("xtask: {reason}; see `cargo xtask help`");
            ExitCode::from(2)
        }
    }
}

/// Finds the task that the first argument names (help where there is none), and its own arguments.
fn find(arguments: &[String]) -> Result<(Run, &[String]), String> {
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", arguments),
    };
    let Some((.., run)) = TASKS.into_iter().find(|(task, ..)| *task == name) else {
        return Err(format!("there is no task `{name}`"));
    };
    match (run, rest) {
        (Run::Alone(_), [extra, ..]) => Err(format!("`{name}` takes no arguments, found `{extra}`")),
        _ => Ok((run, rest)),
    }
}

fn help() -> ExitCode {
    println!("usage: cargo xtask TASK [ARGUMENTS]\n");
    for (name, about, _) in TASKS {
        println!("  {name:11} {about}");
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

#[cfg(test)]
mod argument_tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_passed_on_to_the_task_that_takes_them() {
        let arguments = words("edit-bench --cases 3 --steps 10,20");
        let (run, rest) = find(&arguments).unwrap_or_else(|reason| panic!("{reason}"));
        assert!(matches!(run, Run::With(_)));
        assert_eq!(rest, words("--cases 3 --steps 10,20"));
    }

    #[test]
    fn tasks_that_take_no_arguments_refuse_them() {
        for name in ["libtorch", "ci", "gallery", "help"] {
            assert!(matches!(find(&words(name)), Ok((Run::Alone(_), []))), "{name}");
            let reason = find(&words(&format!("{name} --fast"))).err().unwrap_or_default();
            assert!(reason.contains(name) && reason.contains("--fast"), "{reason}");
        }
    }

    #[test]
    fn an_unknown_task_is_named_and_none_is_help() {
        assert_eq!(find(&words("tests")).err().as_deref(), Some("there is no task `tests`"));
        assert!(matches!(find(&[]), Ok((Run::Alone(_), []))));
    }
}
