//! PyTorch in a process of its own, asked line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::Fault;

/// A process that runs `benches/compare/twin.py`.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Where the Python programs lie.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/compare")
}

impl Peer {
    pub(crate) fn start(python: &Path, threads: usize) -> Result<Self, Fault> {
        let mut child = Command::new(python)
            .arg(scripts().join("twin.py"))
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", python.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("PyTorch cannot be talked to".into());
        };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Asks for something to be done and waits for the answer.
    pub(crate) fn ask(&mut self, what: &Value) -> Result<Value, Fault> {
        writeln!(self.input, "{what}")?;
        self.input.flush()?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("PyTorch has ended when asked for {what}").into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Asks for something to be timed.
    pub(crate) fn seconds(&mut self, what: &Value) -> Result<f64, Fault> {
        let answer = self.ask(what)?;
        answer["seconds"].as_f64().ok_or_else(|| format!("PyTorch answers {answer} to {what}").into())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
