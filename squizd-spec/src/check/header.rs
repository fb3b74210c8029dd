//! Rules of the 256-byte header.

use super::{Sink, slice};
use crate::{
    ArchId, ErrorKind, Limits, Result, SquizdError,
    digest::header_checksum,
    layout::{HEADER_SIZE, Header, MAGIC, flags},
};
use alloc::format;
use core::mem::offset_of;
use zerocopy::FromBytes;

/// How far into a file a misplaced magic is looked for.
const JUNK_SEARCH: usize = 4096;

/// Whether the file claims a later minor version, whose reserved space and
/// unknown bits a reader passes over.
pub(crate) fn is_newer_minor(header: &Header) -> bool {
    header.version.get() & 0xff > 0
}

/// Checks everything the header alone can tell.
pub(super) fn check<'a>(bytes: &'a [u8], limits: &Limits, sink: Sink<'_>) -> Result<&'a Header> {
    check_magic(bytes)?;
    let raw = slice(bytes, 0, HEADER_SIZE)?;
    let header = Header::ref_from_bytes(raw)
        .map_err(|_| SquizdError::invalid("header-size", 0, "header is not 256 bytes"))?;
    check_version(header)?;

    let at = |code, offset: usize, message| SquizdError::invalid(code, offset as u64, message);
    let size = header.header_size.get();
    if u64::from(size) != HEADER_SIZE {
        sink(at(
            "header-size",
            offset_of!(Header, header_size),
            format!("header_size is {size}, must be {HEADER_SIZE}"),
        ))?;
    }
    let want = header_checksum(header);
    if header.checksum != want {
        sink(at(
            "header-checksum",
            offset_of!(Header, checksum),
            format!("header checksum is {:02x?}, the header's bytes give {want:02x?}", header.checksum),
        ))?;
    }
    check_reserved(header, sink)?;
    check_flags(header, sink)?;
    check_shape(header, limits, sink)?;

    let bpw = header.compression_bpw.get();
    if !(bpw.is_finite() && bpw >= 0.0) {
        sink(at(
            "header-bpw",
            offset_of!(Header, compression_bpw),
            format!("compression_bpw is {bpw}, must be finite and not negative"),
        ))?;
    }
    let sparsity = header.sparsity_ratio.get();
    if !(0.0..=1.0).contains(&sparsity) {
        sink(at(
            "header-sparsity",
            offset_of!(Header, sparsity_ratio),
            format!("sparsity_ratio is {sparsity}, allowed 0..=1"),
        ))?;
    }
    Ok(header)
}

fn check_magic(bytes: &[u8]) -> Result<()> {
    let Some(found) = bytes.first_chunk::<4>() else {
        slice(bytes, 0, HEADER_SIZE)?;
        return Ok(());
    };
    if *found == MAGIC {
        return Ok(());
    }
    let mut swapped = MAGIC;
    swapped.reverse();
    if *found == swapped {
        return Err(SquizdError::invalid(
            "endianness",
            0,
            "magic is 'DZQS': the file was written big-endian; .squizd is little-endian",
        ));
    }
    let head = bytes.get(..JUNK_SEARCH.min(bytes.len())).unwrap_or_default();
    if let Some(at) = head.windows(4).position(|w| w == MAGIC) {
        return Err(SquizdError::invalid(
            "prepended-data",
            0,
            format!("magic 'SQZD' is at byte {at}, must be at 0: {at} bytes stand before the file"),
        ));
    }
    Err(SquizdError::invalid("magic", 0, format!("magic is {found:02x?}, must be 'SQZD' (53 51 5a 44)")))
}

fn check_version(header: &Header) -> Result<()> {
    let version = header.version.get();
    let (major, minor) = (version >> 8, version & 0xff);
    let offset = offset_of!(Header, version) as u64;
    let fail = |kind, code, message| Err(SquizdError::new(kind, code, offset, message));
    match (major, minor) {
        (1, _) => Ok(()),
        (0, 0) => fail(ErrorKind::Invalid, "version", "version is 0, must be 0x0100".into()),
        (0, 1) => fail(
            ErrorKind::Invalid,
            "version-lineage",
            "version is the bare number 1: written byte-swapped (endianness), or by a tool of another lineage; \
             v1.0 is 0x0100, little-endian"
                .into(),
        ),
        (0, _) => fail(
            ErrorKind::Invalid,
            "version",
            format!("version is 0.{minor} (0x{version:04x}); this build reads 1.x"),
        ),
        _ => fail(
            ErrorKind::Unsupported,
            "version-major",
            format!("version is {major}.{minor} (0x{version:04x}); this build reads 1.x: update squizd"),
        ),
    }
}

fn check_reserved(header: &Header, sink: Sink<'_>) -> Result<()> {
    if is_newer_minor(header) {
        return Ok(());
    }
    let reserved = header.reserved.iter().position(|&b| b != 0);
    let dirty = if header.pad == 0 {
        reserved.map(|i| offset_of!(Header, reserved) + i)
    } else {
        Some(offset_of!(Header, pad))
    };
    match dirty {
        Some(offset) => sink(SquizdError::invalid(
            "header-reserved",
            offset as u64,
            format!("reserved header byte {offset} is not zero"),
        )),
        None => Ok(()),
    }
}

/// Flag bits 24..=31 are critical: a reader that does not know one must refuse.
const CRITICAL_FLAGS: u32 = 0xff00_0000;

fn check_flags(header: &Header, sink: Sink<'_>) -> Result<()> {
    let unknown = header.flags.get() & !flags::KNOWN;
    let kind = if !is_newer_minor(header) {
        ErrorKind::Invalid
    } else if unknown & CRITICAL_FLAGS != 0 {
        ErrorKind::Unsupported
    } else {
        return Ok(());
    };
    if unknown == 0 {
        return Ok(());
    }
    sink(SquizdError::new(
        kind,
        "header-flags",
        offset_of!(Header, flags) as u64,
        format!("flags have unknown bits 0x{unknown:08x}; this version defines 0x{:08x}", flags::KNOWN),
    ))
}

fn check_shape(header: &Header, limits: &Limits, sink: Sink<'_>) -> Result<()> {
    if header.arch == ArchId::OTHER.0 {
        return Ok(());
    }
    let arch = ArchId(header.arch);
    if arch.name().is_none() && !is_newer_minor(header) {
        sink(SquizdError::invalid(
            "header-arch",
            offset_of!(Header, arch) as u64,
            format!("arch is {arch}"),
        ))?;
    }
    let fields = [
        (offset_of!(Header, num_layers), "num_layers", u32::from(header.num_layers.get())),
        (offset_of!(Header, hidden_dim), "hidden_dim", header.hidden_dim.get()),
        (offset_of!(Header, num_heads), "num_heads", u32::from(header.num_heads.get())),
        (offset_of!(Header, vocab_size), "vocab_size", header.vocab_size.get()),
    ];
    for (offset, field, value) in fields {
        if value == 0 {
            sink(SquizdError::invalid(
                "header-zero",
                offset as u64,
                format!("{field} is 0, must be at least 1"),
            ))?;
        }
    }
    let layers = header.num_layers.get();
    if layers > limits.layers {
        sink(SquizdError::new(
            ErrorKind::Limit,
            "limit-layers",
            offset_of!(Header, num_layers) as u64,
            format!("num_layers is {layers}, limit {}", limits.layers),
        ))?;
    }
    Ok(())
}

/// The declared length against the real one.
pub(super) fn check_length(header: &Header, actual: u64, sink: Sink<'_>) -> Result<()> {
    let declared = header.file_length.get();
    let offset = offset_of!(Header, file_length) as u64;
    match declared.cmp(&actual) {
        core::cmp::Ordering::Equal => Ok(()),
        core::cmp::Ordering::Greater => Err(SquizdError::new(
            ErrorKind::Truncated { needed: declared },
            "file-truncated",
            offset,
            format!("file_length is {declared}, the file has {actual} bytes: it was cut short"),
        )),
        core::cmp::Ordering::Less => sink(SquizdError::invalid(
            "trailing-data",
            offset,
            format!(
                "file_length is {declared}, the file has {actual} bytes: {} follow it",
                actual - declared
            ),
        )),
    }
}
