//! The one shape of zip archive that a Core ML section may hold: stored
//! entries with no flags, timestamps, extra fields, comments, descriptors or
//! zip64, local headers and contents back to back in name order, then the
//! central directory in the same order, then the end record. Names and
//! contents determine every byte, so a reader compares instead of guessing.

use super::span::Span;
use crate::{Result, SquizdError};
use alloc::{format, vec::Vec};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// 1980-01-01, the earliest date a zip can state.
const DATE: u16 = 0x0021;
/// A regular file with mode 0644, in the upper half (Unix).
const ATTRIBUTES: u32 = 0o100_644 << 16;
/// Written by version 2.0 on Unix.
const MADE_BY: u16 = 0x0314;
/// Version needed for stored entries.
const NEEDED: u16 = 10;

const LOCAL_MAGIC: u32 = 0x0403_4b50;
const CENTRAL_MAGIC: u32 = 0x0201_4b50;
const END_MAGIC: u32 = 0x0605_4b50;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Local {
    magic: U32,
    needed: U16,
    flags: U16,
    method: U16,
    time: U16,
    date: U16,
    crc: U32,
    stored: U32,
    size: U32,
    name_length: U16,
    extra_length: U16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Central {
    magic: U32,
    made_by: U16,
    needed: U16,
    flags: U16,
    method: U16,
    time: U16,
    date: U16,
    crc: U32,
    stored: U32,
    size: U32,
    name_length: U16,
    extra_length: U16,
    comment_length: U16,
    disk: U16,
    internal: U16,
    external: U32,
    local_offset: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct End {
    magic: U32,
    disk: U16,
    directory_disk: U16,
    entries_here: U16,
    entries: U16,
    directory_length: U32,
    directory_offset: U32,
    comment_length: U16,
}

const LOCAL_SIZE: u64 = size_of::<Local>() as u64;
const CENTRAL_SIZE: u64 = size_of::<Central>() as u64;
const END_SIZE: u64 = size_of::<End>() as u64;
const _: () = assert!(LOCAL_SIZE == 30 && CENTRAL_SIZE == 46 && END_SIZE == 22);

impl Local {
    fn of(name: &str, size: u32, crc: u32) -> Self {
        Self {
            magic: LOCAL_MAGIC.into(),
            needed: NEEDED.into(),
            flags: 0.into(),
            method: 0.into(),
            time: 0.into(),
            date: DATE.into(),
            crc: crc.into(),
            stored: size.into(),
            size: size.into(),
            name_length: (name.len() as u16).into(),
            extra_length: 0.into(),
        }
    }
}

impl Central {
    fn of(local: &Local, local_offset: u32) -> Self {
        Self {
            magic: CENTRAL_MAGIC.into(),
            made_by: MADE_BY.into(),
            needed: local.needed,
            flags: local.flags,
            method: local.method,
            time: local.time,
            date: local.date,
            crc: local.crc,
            stored: local.stored,
            size: local.size,
            name_length: local.name_length,
            extra_length: local.extra_length,
            comment_length: 0.into(),
            disk: 0.into(),
            internal: 0.into(),
            external: ATTRIBUTES.into(),
            local_offset: local_offset.into(),
        }
    }
}

impl End {
    fn of(entries: u16, directory_offset: u32, directory_length: u32) -> Self {
        Self {
            magic: END_MAGIC.into(),
            disk: 0.into(),
            directory_disk: 0.into(),
            entries_here: entries.into(),
            entries: entries.into(),
            directory_length: directory_length.into(),
            directory_offset: directory_offset.into(),
            comment_length: 0.into(),
        }
    }
}

/// Offsets of fields, for pointing at the first byte that differs.
type Fields = &'static [(usize, &'static str)];

const LOCAL_FIELDS: Fields = &[
    (0, "signature"),
    (4, "version needed"),
    (6, "flags"),
    (8, "method"),
    (10, "time"),
    (12, "date"),
    (14, "CRC-32"),
    (18, "stored size"),
    (22, "size"),
    (26, "name length"),
    (28, "extra length"),
];
const CENTRAL_FIELDS: Fields = &[
    (0, "signature"),
    (4, "version made by"),
    (6, "version needed"),
    (8, "flags"),
    (10, "method"),
    (12, "time"),
    (14, "date"),
    (16, "CRC-32"),
    (20, "stored size"),
    (24, "size"),
    (28, "name length"),
    (30, "extra length"),
    (32, "comment length"),
    (34, "disk"),
    (36, "internal attributes"),
    (38, "external attributes"),
    (42, "local header offset"),
];
const END_FIELDS: Fields = &[
    (0, "signature"),
    (4, "disk"),
    (6, "directory disk"),
    (8, "entries on disk"),
    (10, "entries"),
    (12, "directory length"),
    (16, "directory offset"),
    (20, "comment length"),
];

/// Refuses the first field of `found` that differs from `want`.
fn agree(found: &[u8], want: &[u8], at: u64, fields: Fields, what: &str) -> Result<()> {
    let Some(i) = found.iter().zip(want).position(|(a, b)| a != b) else { return Ok(()) };
    let field = fields.iter().rev().find(|(offset, _)| *offset <= i).copied().unwrap_or((0, "name"));
    let end = fields.iter().map(|(offset, _)| *offset).find(|o| *o > i).unwrap_or(found.len());
    let hex = |bytes: &[u8]| {
        let value = bytes.get(field.0..end).unwrap_or_default().iter().rev();
        value.fold(alloc::string::String::from("0x"), |s, b| s + &format!("{b:02x}"))
    };
    Err(SquizdError::invalid(
        "zip-field",
        at + field.0 as u64,
        format!("{what}: {} is {}, must be {}", field.1, hex(found), hex(want)),
    ))
}

/// CRC-32 (IEEE 802.3, reflected), as zip uses it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |c, &b| {
        let index = (c ^ u32::from(b)) & 0xff;
        TABLE.get(index as usize).copied().unwrap_or(0) ^ (c >> 8)
    })
}

/// One entry of the archive.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) content: &'a [u8],
    /// Absolute offset of the content.
    pub(super) offset: u64,
    pub(super) crc: u32,
    /// Absolute offset of the CRC in the local header.
    pub(super) crc_offset: u64,
}

/// Reads the archive at section offset `start`, which must hold exactly
/// `expected` (name, size) and fill the section.
pub(super) fn read<'a>(span: Span<'a>, start: u64, expected: &[(&str, u64)]) -> Result<Vec<Entry<'a>>> {
    let mut entries = Vec::with_capacity(expected.len());
    let mut at = start;
    for (name, size) in expected {
        let what = format!("local header of {name:?}");
        let local: &Local = span.record(at, &what)?;
        let want = Local::of(name, fits(*size, span.at(at))?, local.crc.get());
        agree(local.as_bytes(), want.as_bytes(), span.at(at), LOCAL_FIELDS, &what)?;
        check_name(span, at + LOCAL_SIZE, name)?;
        let content_at = at + LOCAL_SIZE + name.len() as u64;
        entries.push(Entry {
            content: span.bytes(content_at, *size, name)?,
            offset: span.at(content_at),
            crc: local.crc.get(),
            crc_offset: span.at(at + 14),
        });
        at = content_at + size;
    }
    let directory_at = at;
    let mut local_at = 0;
    for ((name, size), entry) in expected.iter().zip(&entries) {
        let what = format!("central header of {name:?}");
        let central: &Central = span.record(at, &what)?;
        let local = Local::of(name, fits(*size, span.at(at))?, entry.crc);
        let want = Central::of(&local, fits(local_at, span.at(at))?);
        agree(central.as_bytes(), want.as_bytes(), span.at(at), CENTRAL_FIELDS, &what)?;
        check_name(span, at + CENTRAL_SIZE, name)?;
        at += CENTRAL_SIZE + name.len() as u64;
        local_at += LOCAL_SIZE + name.len() as u64 + size;
    }
    let end: &End = span.record(at, "end of central directory")?;
    let count = u16::try_from(expected.len()).unwrap_or(u16::MAX);
    let want =
        End::of(count, fits(directory_at - start, span.at(at))?, fits(at - directory_at, span.at(at))?);
    agree(end.as_bytes(), want.as_bytes(), span.at(at), END_FIELDS, "end of central directory")?;
    span.ends_at(at + END_SIZE, "the zip archive")?;
    Ok(entries)
}

fn check_name(span: Span<'_>, at: u64, name: &str) -> Result<()> {
    let found = span.bytes(at, name.len() as u64, "entry name")?;
    if found == name.as_bytes() {
        return Ok(());
    }
    let message = format!("entry name differs from the manifest's {name:?}");
    Err(SquizdError::invalid("zip-name", span.at(at), message))
}

/// A zip without zip64 has 32-bit sizes and offsets below the escape value.
fn fits(value: u64, at: u64) -> Result<u32> {
    u32::try_from(value).ok().filter(|v| *v != u32::MAX).ok_or_else(|| {
        SquizdError::invalid("zip-size", at, format!("{value} bytes need zip64, which is not allowed"))
    })
}

/// Appends the archive of `files` (name, content), which are in name order.
pub(super) fn write(files: &[(&str, &[u8])], out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    let mut directory: Vec<u8> = Vec::new();
    for (name, content) in files {
        let offset = fits((out.len() - start) as u64, 0)?;
        let local = Local::of(name, fits(content.len() as u64, 0)?, crc32(content));
        out.extend_from_slice(local.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(content);
        directory.extend_from_slice(Central::of(&local, offset).as_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let count = u16::try_from(files.len()).ok().filter(|n| *n != u16::MAX).ok_or_else(|| {
        SquizdError::invalid(
            "zip-size",
            0,
            format!("{} entries need zip64, which is not allowed", files.len()),
        )
    })?;
    let end = End::of(count, fits((out.len() - start) as u64, 0)?, fits(directory.len() as u64, 0)?);
    out.extend_from_slice(&directory);
    out.extend_from_slice(end.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn offsets_count_from_the_archives_start() {
        let files = [("a", &b"12"[..]), ("b", b"")];
        let (mut alone, mut after) = (Vec::new(), alloc::vec![9; 7]);
        write(&files, &mut alone).unwrap();
        write(&files, &mut after).unwrap();
        assert_eq!(after[7..], alone);
    }
}
