//! How a command ends when it cannot do its work.

use std::error::Error;

/// A message for the user and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

impl Failure {
    /// Something failed while running: exit status 1.
    pub(crate) fn running(message: impl Into<String>) -> Self {
        Self { status: 1, message: message.into() }
    }

    /// The command was asked for something it cannot do: exit status 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { status: 2, message: message.into() }
    }
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Many errors repeat their source in their own message.
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        source = error.source();
    }
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::running(chain(&error))
    }
}
