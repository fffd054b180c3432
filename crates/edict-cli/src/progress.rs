//! What the user sees while a command works, and the way to stop it.

use std::cell::RefCell;
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edict_core::{Observer, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Set once Ctrl-C was pressed; commands look at it between steps.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C stop the work at the next step, and the second one at once; says so unless `quiet`.
pub(crate) fn watch_interrupts(quiet: bool) {
    // Without a handler Ctrl-C ends the program at once, which loses nothing: outputs are renamed into place when complete.
    let _ = ctrlc::set_handler(move || {
        if is_interrupted() {
            // Not in the middle of an output: its temporary file would stay.
            let _finished = writing();
            std::process::exit(1);
        }
        // A step of a large model takes a while.
        if !quiet {
            tell("stopping after this step; Ctrl-C again ends the program at once");
        }
        // Told first: the last line is then the error's.
        INTERRUPTED.store(true, Ordering::SeqCst);
    });
}

/// Held while an output is written.
pub(crate) fn writing() -> MutexGuard<'static, ()> {
    static WRITING: Mutex<()> = Mutex::new(());
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Ends a command that was interrupted where there is nothing to keep yet.
pub(crate) fn check_interrupt() -> Result<(), Failure> {
    if is_interrupted() { Err(interrupted()) } else { Ok(()) }
}

pub(crate) fn interrupted() -> Failure {
    Failure::running("interrupted; no unfinished file was left")
}

/// Writes a line to standard error; a reader that has gone away is no reason to stop.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Where progress and warnings go: standard error, and warnings into the JSON report too.
#[derive(Debug)]
pub(crate) struct Reporter {
    quiet: bool,
    warnings: RefCell<Vec<String>>,
}

impl Reporter {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, warnings: RefCell::default() }
    }

    /// Tells what is being done.
    pub(crate) fn say(&self, message: &str) {
        if !self.quiet {
            tell(message);
        }
    }

    /// Warns, once: a prompt that several pictures share is read for each of them.
    pub(crate) fn warn(&self, message: String) {
        if self.warnings.borrow().contains(&message) {
            return;
        }
        if !self.quiet {
            tell(&format!("warning: {message}"));
        }
        self.warnings.borrow_mut().push(message);
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// Begins to show a run of `steps` steps.
    pub(crate) fn run(&self, name: &str, steps: usize) -> Progress {
        let lines = !self.quiet && !stderr().is_terminal();
        let bar = if self.quiet || lines {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr())
        };
        // The template is a constant: one that does not parse falls back to indicatif's own.
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {bar:32} {pos}/{len} {elapsed} (eta {eta})")
        {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.tick();
        let now = Instant::now();
        Progress { name: name.to_owned(), bar, lines, steps, done: 0, begun: now, told: now }
    }
}

/// Shows the steps of a run: a bar on a terminal, else a line every few seconds.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: ProgressBar,
    lines: bool,
    steps: usize,
    done: usize,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn line(&mut self) {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let left = elapsed / self.done as f64 * (self.steps - self.done) as f64;
        tell(&format!("{}: step {}/{}, {elapsed:.1} s, {left:.1} s left", self.name, self.done, self.steps));
        self.told = Instant::now();
    }
}

impl<S> Observer<S> for Progress {
    fn after_step(&mut self, _: &Step, _: &S) -> ControlFlow<()> {
        self.done += 1;
        self.bar.inc(1);
        if self.lines && (self.done == self.steps || self.told.elapsed() > Duration::from_secs(5)) {
            self.line();
        }
        if INTERRUPTED.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Leaves the last state on the screen; what follows begins on a line of its own.
        self.bar.abandon();
    }
}
