//! A section's bytes with their place in the file, read by offset and never
//! indexed raw.

use crate::{Result, SquizdError};
use alloc::format;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes of one section; `base` is the absolute offset of the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    bytes: &'a [u8],
    base: u64,
}

impl<'a> Span<'a> {
    pub(super) fn new(bytes: &'a [u8], base: u64) -> Self {
        Self { bytes, base }
    }

    /// Bytes in the section.
    pub(super) fn len(self) -> u64 {
        self.bytes.len() as u64
    }

    /// Absolute offset of section offset `at`.
    pub(super) fn at(self, at: u64) -> u64 {
        self.base.saturating_add(at)
    }

    /// `length` bytes from section offset `at`.
    pub(super) fn bytes(self, at: u64, length: u64, what: &str) -> Result<&'a [u8]> {
        let range = || {
            let start = usize::try_from(at).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            self.bytes.get(start..end)
        };
        range().ok_or_else(|| {
            SquizdError::invalid(
                "appendix-truncated",
                self.at(at),
                format!("{what} needs {length} bytes at section offset {at}, the section has {}", self.len()),
            )
        })
    }

    /// `count` records of type `T` from section offset `at`, in place.
    pub(super) fn slice<T>(self, at: u64, count: u64, what: &str) -> Result<&'a [T]>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let length = count.saturating_mul(size_of::<T>() as u64);
        let bytes = self.bytes(at, length, what)?;
        <[T]>::ref_from_bytes(bytes).map_err(|_| {
            SquizdError::invalid(
                "appendix-truncated",
                self.at(at),
                format!("{what} is not a whole number of records"),
            )
        })
    }

    /// One record of type `T` at section offset `at`, in place.
    pub(super) fn record<T>(self, at: u64, what: &str) -> Result<&'a T>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        match self.slice(at, 1, what)? {
            [one] => Ok(one),
            _ => Err(SquizdError::invalid("appendix-truncated", self.at(at), format!("{what} is missing"))),
        }
    }

    /// Refuses a non-zero byte in the padding `from..to`.
    pub(super) fn padding(self, from: u64, to: u64) -> Result<()> {
        let bytes = self.bytes(from, to.saturating_sub(from), "padding")?;
        self.zero(from, bytes, "appendix-padding", "padding")
    }

    /// Refuses a non-zero byte in `bytes`, which start at section offset `at`.
    pub(super) fn zero(self, at: u64, bytes: &[u8], code: &'static str, what: &str) -> Result<()> {
        match bytes.iter().position(|b| *b != 0) {
            Some(i) => Err(SquizdError::invalid(
                code,
                self.at(at + i as u64),
                format!("{what} holds {:#04x}, must be 0", bytes.get(i).copied().unwrap_or(0)),
            )),
            None => Ok(()),
        }
    }

    /// Refuses bytes after `end`.
    pub(super) fn ends_at(self, end: u64, what: &str) -> Result<()> {
        if self.len() == end {
            return Ok(());
        }
        Err(SquizdError::invalid(
            "appendix-trailing",
            self.at(end.min(self.len())),
            format!("{what} ends at section offset {end}, the section has {} bytes", self.len()),
        ))
    }
}
