//! Contents of the sections beside the weights: the tokenizer bundle and the
//! three appendices (sparsity, draft head, Core ML).
//!
//! Each has a borrowing parser that checks the structure, a `check` that
//! reports every violation in the values, and a writer whose output the parser
//! reads back identically. Constructors take the section's absolute offset, so
//! that errors name positions in the file.

pub mod bundle;
mod span;

#[cfg(feature = "zstd")]
mod inflate;

pub use bundle::{Bundle, BundleFile};
#[cfg(feature = "zstd")]
pub use inflate::inflate;

/// Largest window a compressed section's zstd frame may ask for.
pub const ZSTD_WINDOW: u64 = 8 << 20;

/// Whether `name` is safe as one path component everywhere: 1 to 255 bytes of
/// `A-Z a-z 0-9 . _ -`, neither starting nor ending with a dot.
pub fn is_plain_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && !name.ends_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
