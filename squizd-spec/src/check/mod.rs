//! The structural rules, each written once. `parse` runs them with a sink that
//! stops at the first violation, `validate` with one that collects them all.

mod directory;
mod header;
mod names;
pub(crate) mod records;

/// Alignment and criticality of each section kind, for writers.
pub mod section_rules {
    pub use super::directory::{alignment, is_critical};
}

use crate::{
    ErrorKind, Limits, Result, SquizdError,
    layout::{Header, SectionEntry},
    view::Tables,
};
use alloc::format;

/// Receives violations; `Err` ends the checks, `Ok` lets them go on.
pub(crate) type Sink<'s> = &'s mut dyn FnMut(SquizdError) -> Result<()>;

/// Runs `checks` up to the first violation.
pub(crate) fn first<T>(checks: impl FnOnce(Sink<'_>) -> Result<T>) -> Result<T> {
    checks(&mut |violation| Err(violation))
}

/// `bytes[offset..offset + length]`, or what a prefix parser has to fetch.
fn slice(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8]> {
    let end = offset.saturating_add(length);
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        SquizdError::new(
            ErrorKind::Truncated { needed: end },
            "file-truncated",
            bytes.len() as u64,
            format!("input ends at byte {}, bytes {offset}..{end} are needed", bytes.len()),
        )
    })
}

/// Checks the header and the tables, which a prefix of the file holds.
pub(crate) fn tables<'a>(bytes: &'a [u8], limits: &Limits, sink: Sink<'_>) -> Result<Tables<'a>> {
    let header: &Header = header::check(bytes, limits, sink)?;
    let directory: &[SectionEntry] = directory::check(bytes, header, limits, sink)?;
    records::check(bytes, header, directory, limits, sink)
}

/// Checks a whole file.
pub(crate) fn file<'a>(bytes: &'a [u8], limits: &Limits, sink: Sink<'_>) -> Result<Tables<'a>> {
    let header: &Header = header::check(bytes, limits, sink)?;
    header::check_length(header, bytes.len() as u64, sink)?;
    let directory: &[SectionEntry] = directory::check(bytes, header, limits, sink)?;
    let tables = records::check(bytes, header, directory, limits, sink)?;
    directory::check_gaps(bytes, directory, sink)?;
    Ok(tables)
}
