//! The crate's error: one word wide, carrying a stable code, the absolute byte
//! offset, a context path, and what was expected and found.

use alloc::{borrow::Cow, boxed::Box, format, string::String};
use core::fmt;

/// Most bytes of an error's message, and of its context path.
pub const MESSAGE_BYTES: usize = 1024;

/// Most bytes of a text from a file that [`Short`] shows.
const SHORT_BYTES: usize = 160;

/// Text of any length, for messages: what is longer than 160 bytes is shown
/// without its middle. Files may hold names of mebibytes.
#[derive(Clone, Copy)]
pub struct Short<'a>(pub &'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_middle(self.0, SHORT_BYTES))
    }
}

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", without_middle(self.0, SHORT_BYTES))
    }
}

/// `message` in at most [`MESSAGE_BYTES`]: its beginning says where, its end
/// what is allowed, and quoted names lie between.
pub fn shortened(message: String) -> String {
    if message.len() <= MESSAGE_BYTES {
        message
    } else {
        without_middle(&message, MESSAGE_BYTES).into_owned()
    }
}

/// `text`, or its beginning and end with a note of what was left out, in at
/// most `most` bytes.
fn without_middle(text: &str, most: usize) -> Cow<'_, str> {
    // The note takes at most 45 bytes, 20 of them digits.
    let keep = most.saturating_sub(45);
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let (head, rest) = text.split_at(text.floor_char_boundary(keep * 2 / 3));
    let (middle, tail) = rest.split_at(rest.ceil_char_boundary(rest.len() - keep / 3));
    Cow::Owned(format!("{head}... ({} bytes left out) ...{tail}", middle.len()))
}

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
            message: shortened(message.into()),
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
        let inner = &self.0.context;
        let path = if inner.is_empty() { String::from(step) } else { format!("{step} / {inner}") };
        self.0.context = shortened(path);
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
    fn long_texts_lose_their_middle() {
        let name = "\u{e9}".repeat(1 << 15);
        let shown = format!("{:?} {}", Short(&name), Short(&name));
        assert!(shown.len() <= 2 * SHORT_BYTES + 3, "{shown}");
        assert!(shown.contains(&format!("({} bytes left out)", (1 << 16) - 76 - 38)), "{shown}");
        assert_eq!(format!("{:?} {}", Short("a\n"), Short("b")), "\"a\\n\" b");
        let exact = "x".repeat(MESSAGE_BYTES);
        assert_eq!(shortened(exact.clone()), exact);
        let e =
            SquizdError::invalid("name-path", 7, format!("name {name:?} looks like a path")).within(&name);
        let e = e.within("tensors");
        assert!(e.message().starts_with("name \"\u{e9}") && e.message().ends_with("looks like a path"));
        assert!(e.context().starts_with("tensors / \u{e9}"));
        assert!(e.message().len() <= MESSAGE_BYTES && e.context().len() <= MESSAGE_BYTES);
        assert!(e.message().len() > MESSAGE_BYTES - 30, "no more is left out than has to be");
    }

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
