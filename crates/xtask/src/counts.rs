//! How many tests passed, read from what test programs print.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::ops::AddAssign;
use std::process::{Command, ExitStatus, Stdio};

/// Passed and failed tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Counts {
    /// Reads the summary that a test program ends with: `test result: ok. 7 passed; 0 failed; 0 ignored; ...`.
    pub(crate) fn of_summary(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let number = |name: &str| {
            let part = counts.split(';').map(str::trim).find_map(|part| part.strip_suffix(name))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")? })
    }

    /// Reads a total as [`fmt::Display`] writes it.
    pub(crate) fn of_total(line: &str) -> Option<Self> {
        let (passed, failed) = line.trim().split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.strip_suffix(" failed")?.parse().ok()? })
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs a program, passing its output on line by line as it comes and showing each line to `watch`.
///
/// # Errors
/// If it cannot be started or its output not be read.
pub(crate) fn stream(command: &mut Command, mut watch: impl FnMut(&str)) -> io::Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            io::stdout().write_all(&line)?;
            io::stdout().flush()?;
            watch(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_test_programs_print() {
        let line = "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.04s\n";
        assert_eq!(Counts::of_summary(line), Some(Counts { passed: 12, failed: 0 }));
        let line = "test result: FAILED. 6 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.53s";
        assert_eq!(Counts::of_summary(line), Some(Counts { passed: 6, failed: 1 }));
        for line in [
            "",
            "test reads ... ok",
            "running 3 tests",
            "test result: ok",
            "test result: ok. many passed; 0 failed",
        ] {
            assert_eq!(Counts::of_summary(line), None, "{line}");
        }
    }

    #[test]
    fn reads_its_own_total() {
        let counts = Counts { passed: 431, failed: 2 };
        assert_eq!(Counts::of_total(&format!("{counts}\n")), Some(counts));
        assert_eq!(Counts::of_total("12 passed; 0 failed"), None);
    }

    #[test]
    fn streams_lines_and_the_exit_code() {
        let mut lines = 0;
        let status = stream(crate::cargo(&["--version"]).stderr(Stdio::null()), |line| {
            assert!(line.starts_with("cargo "));
            lines += 1;
        });
        assert!(status.is_ok_and(|status| status.success()));
        assert_eq!(lines, 1);
    }
}
