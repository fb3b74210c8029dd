//! Errors of the SDK.

use squizd_spec::SquizdError;

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
    /// Input that contradicts itself or the request.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::Unsupported(message.into())
    }
}

/// Result of the SDK.
pub type Result<T> = std::result::Result<T, Error>;
