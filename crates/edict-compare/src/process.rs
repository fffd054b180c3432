//! A contestant at work in a process of its own, asked line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::contestant::{Contestant, Program};
use crate::{Fault, Options};

/// A process that edits; it ends with this value.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a contestant and waits until its model is loaded.
    pub(crate) fn start(one: &Contestant, options: &Options) -> Result<Self, Fault> {
        let mut command = match (one.program, &options.python) {
            (Program::Edict(backend), _) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["worker", "--backend", backend]);
                command
            }
            (Program::Python, Some(python)) => {
                // Where this program was built says nothing of where it runs.
                let script = Path::new("benches/compare/peer.py");
                if !script.exists() {
                    return Err(format!(
                        "{} is not here: run this in the repository's root",
                        script.display()
                    )
                    .into());
                }
                let mut command = Command::new(python);
                command.arg(script);
                command
            }
            (Program::Python, None) => return Err(format!("{} needs --python", one.name).into()),
        };
        let load = &options.load;
        command.arg("--model").arg(&load.model).args(["--device", &load.device]);
        command.args(["--dtype", one.dtype.unwrap_or(&load.dtype), "--threads", &load.threads.to_string()]);
        if !options.fresh {
            // Threads that spin while they wait would slow whoever is timed by turns with this.
            command.env("OMP_WAIT_POLICY", "passive");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{} cannot be talked to", one.name).into());
        };
        let mut process = Self { name: one.name, child, input, output: BufReader::new(output) };
        process.read()?;
        Ok(process)
    }

    /// Asks for an edit and waits for the answer.
    pub(crate) fn ask(&mut self, what: &Value) -> Result<Value, Fault> {
        writeln!(self.input, "{what}")?;
        self.input.flush()?;
        self.read()
    }

    fn read(&mut self) -> Result<Value, Fault> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("{} has ended without an answer", self.name).into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
