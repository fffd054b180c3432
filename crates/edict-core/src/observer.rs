//! Watching a run, and stopping it.

use std::ops::ControlFlow;

use crate::Step;

/// Sees the state after every step and may stop the run.
///
/// `()` watches nothing, and any `FnMut(&Step, &S) -> ControlFlow<()>` is an observer.
pub trait Observer<S: ?Sized> {
    /// Looks at the state that `step` led to. `Break` ends the run with
    /// [`SampleError::Stopped`](crate::SampleError::Stopped), unless this was its last step.
    fn after_step(&mut self, step: &Step, state: &S) -> ControlFlow<()>;
}

impl<S: ?Sized> Observer<S> for () {
    fn after_step(&mut self, _: &Step, _: &S) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<S: ?Sized, F: FnMut(&Step, &S) -> ControlFlow<()>> Observer<S> for F {
    fn after_step(&mut self, step: &Step, state: &S) -> ControlFlow<()> {
        self(step, state)
    }
}
