//! Errors of the SDK.

use squizd_spec::{Code, ErrorKind, SquizdError, shortened};

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container is malformed or uses something this build lacks.
    #[error(transparent)]
    Format(#[from] SquizdError),
    /// Reading or writing failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A source tensor holds NaN or infinity, which no quantizer can represent.
    #[error(
        "tensor {tensor}: element {index} (row {row}, column {col}) is {value}; {codec} needs finite weights: repair the source, or keep this tensor raw with --tensor-type '^{tensor}$=bf16'"
    )]
    NotFinite {
        /// Tensor name.
        tensor: String,
        /// Flat element index.
        index: u64,
        /// Row of the matrix view.
        row: u64,
        /// Column of the matrix view.
        col: u64,
        /// The offending value.
        value: f32,
        /// Codec that was asked for.
        codec: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// Well-formed input that asks for something this build cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The output's place is taken, by another process or an earlier one's work.
    #[error("{0}")]
    Occupied(String),
    /// Input that contradicts itself or the request.
    #[error("{0}")]
    Invalid(String),
    /// A file of a source, or text from a file, is not what it must be.
    #[error("{message} [{code}]")]
    Refused {
        /// Stable code, explained in `docs/findings.md`.
        code: Code,
        /// Absolute byte offset of the field at fault, where one is known.
        offset: Option<u64>,
        /// Well-formed, but not for this build.
        unsupported: bool,
        /// File, field, value found, value allowed.
        message: String,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(shortened(message.into()))
    }

    /// An [`Error::Occupied`].
    pub fn occupied(message: impl Into<String>) -> Self {
        Self::Occupied(shortened(message.into()))
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(shortened(message.into()))
    }

    /// An [`Error::Refused`] for malformed input.
    pub fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused {
            code: Code(code),
            offset: None,
            unsupported: false,
            message: shortened(message.into()),
        }
    }

    /// An [`Error::Refused`] for well-formed input that this build cannot take.
    pub fn refused_unsupported(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused {
            code: Code(code),
            offset: None,
            unsupported: true,
            message: shortened(message.into()),
        }
    }

    /// States the byte at fault, of an [`Error::Refused`].
    #[must_use]
    pub fn at(mut self, byte: u64) -> Self {
        if let Self::Refused { offset, .. } = &mut self {
            *offset = Some(byte);
        }
        self
    }

    /// Puts `place` before the message, of an [`Error::Refused`].
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        if let Self::Refused { message, .. } = &mut self {
            *message = shortened(format!("{place}: {message}"));
        }
        self
    }

    /// The finding code, of errors about a file's bytes.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Format(e) => Some(e.code()),
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Absolute byte offset of the field at fault, where one is known.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Format(e) => Some(e.offset()),
            Self::Refused { offset, .. } => *offset,
            _ => None,
        }
    }

    /// Whether the input may be fine, and only this build cannot take it.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Format(e) => e.kind() == ErrorKind::Unsupported,
            Self::Refused { unsupported, .. } => *unsupported,
            Self::Unsupported(_) => true,
            _ => false,
        }
    }
}

/// Offset in `text` at which `serde_json` stopped.
pub fn json_offset(text: &[u8], e: &serde_json::Error) -> u64 {
    let before: usize =
        text.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    (before + e.column().saturating_sub(1)) as u64
}

/// Result of the SDK.
pub type Result<T> = std::result::Result<T, Error>;
