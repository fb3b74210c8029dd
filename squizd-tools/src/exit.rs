//! Exit codes and the error that carries one.

use squizd::Error;
use squizd_spec::{ErrorKind, SquizdError};
use std::fmt;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, valid, identical.
    Done = 0,
    /// A verified negative: invalid file, difference found, gate failed.
    Negative = 1,
    /// Wrong usage, or no verdict because of I/O.
    Usage = 2,
    /// Well-formed input that this build does not support.
    Unsupported = 3,
    /// Interrupted.
    Interrupted = 130,
}

/// A command's failure: what to print on stderr, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What was wrong, where, and what to do.
    pub message: String,
}

impl Failure {
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// Names the file or step the failure belongs to.
    #[must_use]
    pub fn of(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<&SquizdError> for Exit {
    fn from(e: &SquizdError) -> Self {
        match e.kind() {
            ErrorKind::Invalid | ErrorKind::Limit | ErrorKind::Truncated { .. } => Self::Negative,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Io => Self::Usage,
        }
    }
}

impl From<SquizdError> for Failure {
    fn from(e: SquizdError) -> Self {
        Self { exit: (&e).into(), message: e.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let exit = match &e {
            Error::Format(e) => e.into(),
            Error::Io { .. } | Error::Occupied(_) => Exit::Usage,
            e if e.is_unsupported() => Exit::Unsupported,
            Error::Cancelled => Exit::Interrupted,
            _ => Exit::Negative,
        };
        Self { exit, message: e.to_string() }
    }
}
