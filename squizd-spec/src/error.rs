//! The crate's error: one word wide, carrying a stable code, the absolute byte
//! offset, a context path, and what was expected and found.

use alloc::{boxed::Box, string::String};
use core::fmt;

/// Stable finding code, shared by parse errors and validation findings.
///
/// The kebab-case text is what `--json` prints and `docs/findings.md` explains.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Code(pub &'static str);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a caller should do about an error; decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The bytes violate the format.
    Invalid,
    /// The bytes may be fine, but this build does not know the feature.
    Unsupported,
    /// A cap of [`crate::Limits`] was exceeded.
    Limit,
    /// The input ended early; a prefix parser wants at least `needed` bytes.
    Truncated {
        /// Absolute end offset that must be available.
        needed: u64,
    },
    /// The operating system failed to open, map or read.
    Io,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: Code,
    offset: u64,
    context: String,
    message: String,
}

/// Error of the parser: one pointer wide, so that `Result<T, SquizdError>` stays small.
#[derive(Debug)]
pub struct SquizdError(Box<Inner>);

impl SquizdError {
    /// Builds an error; `message` names the field, the value found and the value allowed.
    #[cold]
    #[inline(never)]
    pub fn new(kind: ErrorKind, code: &'static str, offset: u64, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code: Code(code),
            offset,
            context: String::new(),
            message: message.into(),
        }))
    }

    /// An [`ErrorKind::Invalid`] error.
    #[cold]
    pub fn invalid(code: &'static str, offset: u64, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, offset, message)
    }

    /// Prepends a step of the path, outermost last: `tensor blk.0.attn_q / scales`.
    #[cold]
    #[must_use]
    pub fn within(mut self, step: &str) -> Self {
        if self.0.context.is_empty() {
            self.0.context.push_str(step);
        } else {
            self.0.context = alloc::format!("{step} / {}", self.0.context);
        }
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Absolute byte offset of the offending field.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Context path, `""` for the file itself.
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// Field, value found, value allowed.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for SquizdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { code, offset, context, message, .. } = &*self.0;
        write!(f, "{message} [{code} at byte {offset}")?;
        if !context.is_empty() {
            write!(f, ", in {context}")?;
        }
        f.write_str("]")
    }
}

impl core::error::Error for SquizdError {}

/// Result of this crate.
pub type Result<T> = core::result::Result<T, SquizdError>;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn one_word_and_full_text() {
        assert_eq!(size_of::<SquizdError>(), size_of::<usize>());
        let e = SquizdError::invalid("tensor-rank", 4096, "rank is 9, allowed 1..=6")
            .within("record 3")
            .within("tensors");
        assert_eq!(
            e.to_string(),
            "rank is 9, allowed 1..=6 [tensor-rank at byte 4096, in tensors / record 3]"
        );
    }
}
