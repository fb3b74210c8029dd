//! Contents of the sections beside the weights: the tokenizer bundle, the shard
//! map and the three appendices (sparsity, draft head, Core ML).
//!
//! Each has a borrowing parser that checks the structure, a `check` that
//! reports every violation in the values, and a writer whose output the parser
//! reads back identically. Constructors take the section's absolute offset, so
//! that errors name positions in the file.

mod bundle;
pub mod compat;
pub mod coreml;
pub mod draft_head;
#[cfg(feature = "zstd")]
mod inflate;
pub mod shard_map;
mod span;
pub mod sparsity;
mod zip;

use crate::{ErrorKind, Result, SquizdError};
use alloc::format;

pub use bundle::{Bundle, BundleFile};
pub use compat::check_compat;
pub use coreml::Package;
pub use draft_head::DraftHead;
#[cfg(feature = "zstd")]
pub use inflate::inflate;
pub use shard_map::ShardMap;
pub use sparsity::Sparsity;

/// Receives violations of a `check`; `Err` ends the check, `Ok` lets it go on.
pub type Report<'r> = &'r mut dyn FnMut(SquizdError) -> Result<()>;

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

/// Refuses every layout version but `known`; a later one may come with a later
/// minor version of the format.
fn check_version(found: u16, known: u16, offset: u64, what: &str) -> Result<()> {
    if found == known {
        return Ok(());
    }
    let kind = if found > known { ErrorKind::Unsupported } else { ErrorKind::Invalid };
    let message = format!("{what} has layout version {found}, this build reads {known}");
    Err(SquizdError::new(kind, "appendix-version", offset, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_layout_is_unknown_an_earlier_one_wrong() {
        let kind =
            |found| check_version(found, 2, 96, "appendix").map_err(|e| (e.kind(), e.code().0, e.offset()));
        assert_eq!(kind(1), Err((ErrorKind::Invalid, "appendix-version", 96)));
        assert_eq!(kind(2), Ok(()));
        assert_eq!(kind(3), Err((ErrorKind::Unsupported, "appendix-version", 96)));
    }
}
