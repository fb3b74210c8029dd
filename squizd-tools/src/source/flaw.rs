//! What is wrong with a file, and at which byte; and checks that containers share.

use squizd::Error;
use squizd_spec::Short;
use std::fmt::Display;

/// A refusal, before the path is added.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Stable code, explained in `docs/findings.md`.
    pub(super) code: &'static str,
    /// Absolute offset of the field at fault.
    pub(super) byte: u64,
    /// Well-formed, but not for this build.
    pub(super) unsupported: bool,
    /// Field, value found, value allowed.
    pub(super) message: String,
}

impl Flaw {
    pub(super) fn invalid(code: &'static str, byte: u64, message: impl Into<String>) -> Self {
        Self { code, byte, unsupported: false, message: message.into() }
    }

    pub(super) fn unsupported(code: &'static str, byte: u64, message: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::invalid(code, byte, message) }
    }

    /// `FILE: byte N: message [code]`.
    pub(super) fn in_file(self, file: impl Display) -> Error {
        let Self { code, byte, unsupported, message } = self;
        let text = format!("{file}: byte {byte}: {message}");
        let refuse = if unsupported { Error::refused_unsupported } else { Error::refused };
        refuse(code, text).at(byte)
    }
}

/// What makes `name` unfit to name a tensor, if anything: names end up in
/// terminals, in other files and, in careless hands, in paths.
pub(super) fn bad_name(name: &str, cap: usize) -> Option<String> {
    if name.is_empty() {
        Some("is empty".to_owned())
    } else if name.len() > cap {
        Some(format!("has {} bytes, allowed at most {cap}", name.len()))
    } else if name.chars().any(char::is_control) {
        Some(format!("{:?} has control characters", Short(name)))
    } else if name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..") {
        Some(format!("{:?} looks like a path", Short(name)))
    } else {
        None
    }
}
