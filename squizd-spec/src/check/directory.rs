//! Rules of the section directory: kinds ascend, and each section lies at the
//! first aligned offset after the one before, so every byte has one owner.

use super::{Sink, header::is_newer_minor, slice};
use crate::{
    ErrorKind, Limits, Result, SectionKind, SquizdError,
    layout::{HEADER_SIZE, Header, PAGE, SECTION_ALIGN, SectionEntry, section_flags},
};
use alloc::{format, string::String};
use core::mem::offset_of;
use zerocopy::FromBytes;

/// Alignment of a section's offset.
pub const fn alignment(kind: SectionKind) -> u64 {
    match kind {
        SectionKind::PAYLOAD | SectionKind::SPARSITY | SectionKind::DRAFT_HEAD | SectionKind::COREML => PAGE,
        _ => SECTION_ALIGN,
    }
}

/// Whether a reader must know the section to read the file.
pub const fn is_critical(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::STRINGS | SectionKind::TENSORS | SectionKind::PAYLOAD | SectionKind::SHARD_MAP
    )
}

/// Whether the section may be stored as a zstd frame.
const fn is_compressible(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::TOKENIZER | SectionKind::METADATA)
}

const REQUIRED: [SectionKind; 4] =
    [SectionKind::STRINGS, SectionKind::TENSORS, SectionKind::PAYLOAD, SectionKind::METADATA];

/// Checks the directory; the entries' content is not touched.
pub(super) fn check<'a>(
    bytes: &'a [u8],
    header: &Header,
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<&'a [SectionEntry]> {
    let offset = header.directory_offset.get();
    let count = header.section_count.get();
    if offset != HEADER_SIZE {
        return Err(SquizdError::invalid(
            "directory-offset",
            offset_of!(Header, directory_offset) as u64,
            format!("directory_offset is {offset}, must be {HEADER_SIZE}"),
        ));
    }
    if count > limits.sections {
        return Err(SquizdError::new(
            ErrorKind::Limit,
            "limit-sections",
            offset_of!(Header, section_count) as u64,
            format!("section_count is {count}, limit {}", limits.sections),
        ));
    }
    let length = u64::from(count) * size_of::<SectionEntry>() as u64;
    if HEADER_SIZE + length > header.file_length.get() {
        return Err(SquizdError::invalid(
            "directory-past-end",
            offset_of!(Header, section_count) as u64,
            format!(
                "{count} sections need {length} bytes of directory, past file_length {}",
                header.file_length
            ),
        ));
    }
    let directory = <[SectionEntry]>::ref_from_bytes(slice(bytes, HEADER_SIZE, length)?).map_err(|_| {
        SquizdError::invalid("directory-offset", HEADER_SIZE, "directory is not whole entries")
    })?;

    let mut end = HEADER_SIZE + length;
    let mut last_kind = None;
    for (i, entry) in directory.iter().enumerate() {
        let at = HEADER_SIZE + (i * size_of::<SectionEntry>()) as u64;
        let kind = SectionKind(entry.kind.get());
        let mut scope = Scope { sink: &mut *sink, path: format!("section {i} ({kind})") };
        if let Some(last) = last_kind
            && kind <= last
        {
            let code = if kind == last { "section-duplicate" } else { "section-order" };
            scope.report(SquizdError::invalid(
                code,
                at,
                format!("kind {kind} follows {last}; kinds must ascend"),
            ))?;
        }
        last_kind = Some(kind);
        check_kind(kind, entry, at, header, &mut scope)?;
        check_lengths(kind, entry, at, limits, &mut scope)?;
        end = check_place(kind, entry, at, end, header, &mut scope)?;
    }
    for kind in REQUIRED {
        if !directory.iter().any(|e| e.kind.get() == kind.0) {
            sink(SquizdError::invalid(
                "section-missing",
                HEADER_SIZE,
                format!("there is no {kind} section"),
            ))?;
        }
    }
    if end != header.file_length.get() {
        sink(SquizdError::invalid(
            "trailing-data",
            offset_of!(Header, file_length) as u64,
            format!("the last section ends at byte {end}, file_length is {}", header.file_length),
        ))?;
    }
    Ok(directory)
}

/// A sink that adds the section to each violation's path.
struct Scope<'s> {
    sink: Sink<'s>,
    path: String,
}

impl Scope<'_> {
    fn report(&mut self, violation: SquizdError) -> Result<()> {
        let violation = self.fatal(violation);
        (self.sink)(violation)
    }

    fn fatal(&self, violation: SquizdError) -> SquizdError {
        violation.within(&self.path)
    }
}

fn check_kind(
    kind: SectionKind,
    entry: &SectionEntry,
    at: u64,
    header: &Header,
    scope: &mut Scope<'_>,
) -> Result<()> {
    let flags = entry.flags.get();
    let flags_at = at + offset_of!(SectionEntry, flags) as u64;
    let critical = flags & section_flags::CRITICAL != 0;
    if kind.name().is_none() {
        let (error, code) = match (is_newer_minor(header), critical) {
            (false, _) => (ErrorKind::Invalid, "section-kind"),
            (true, true) => (ErrorKind::Unsupported, "section-critical"),
            (true, false) => return Ok(()),
        };
        return scope.report(SquizdError::new(error, code, at, format!("{kind} is not known to this build")));
    }
    if kind == SectionKind::SIGNATURE {
        return scope.report(SquizdError::invalid(
            "section-reserved",
            at,
            "signature sections are reserved; v1.0 signatures are detached files",
        ));
    }
    if flags & !section_flags::KNOWN != 0 {
        scope.report(SquizdError::invalid(
            "section-flags",
            flags_at,
            format!("flags are 0x{flags:x}, unknown bits set"),
        ))?;
    }
    if critical != is_critical(kind) {
        let want = if is_critical(kind) { "set" } else { "clear" };
        scope.report(SquizdError::invalid(
            "section-flags",
            flags_at,
            format!("critical bit must be {want} for {kind}"),
        ))?;
    }
    if flags & section_flags::ZSTD != 0 && !is_compressible(kind) {
        scope.report(SquizdError::invalid(
            "section-flags",
            flags_at,
            format!("{kind} must be stored plain"),
        ))?;
    }
    Ok(())
}

fn check_lengths(
    kind: SectionKind,
    entry: &SectionEntry,
    at: u64,
    limits: &Limits,
    scope: &mut Scope<'_>,
) -> Result<()> {
    let (stored, length) = (entry.stored_length.get(), entry.length.get());
    let stored_at = at + offset_of!(SectionEntry, stored_length) as u64;
    let length_at = at + offset_of!(SectionEntry, length) as u64;
    if stored == 0 {
        scope.report(SquizdError::invalid(
            "section-empty",
            stored_at,
            "stored_length is 0; an empty section is left out",
        ))?;
    }
    if entry.flags.get() & section_flags::ZSTD == 0 {
        if stored != length {
            scope.report(SquizdError::invalid(
                "section-length",
                length_at,
                format!("length is {length}, stored_length {stored}; they are equal for a plain section"),
            ))?;
        }
    } else if length > limits.section_inflated
        || length.saturating_sub(1 << 20) > stored.saturating_mul(limits.inflate_ratio)
    {
        scope.report(SquizdError::new(
            ErrorKind::Limit,
            "limit-inflated",
            length_at,
            format!(
                "{stored} stored bytes declare {length}; limit {} bytes and 1:{}",
                limits.section_inflated, limits.inflate_ratio
            ),
        ))?;
    }
    let cap = match kind {
        SectionKind::STRINGS => limits.strings,
        k if is_compressible(k) => limits.section_stored,
        _ => u64::MAX,
    };
    if stored > cap {
        return Err(scope.fatal(SquizdError::new(
            ErrorKind::Limit,
            "limit-section",
            stored_at,
            format!("{kind} has {stored} bytes, limit {cap}"),
        )));
    }
    if kind == SectionKind::PAYLOAD && !stored.is_multiple_of(PAGE) {
        scope.report(SquizdError::invalid(
            "payload-length",
            stored_at,
            format!("payload has {stored} bytes, must be a multiple of {PAGE}"),
        ))?;
    }
    Ok(())
}

/// Checks that the section lies at its one canonical offset; returns its end.
fn check_place(
    kind: SectionKind,
    entry: &SectionEntry,
    at: u64,
    previous_end: u64,
    header: &Header,
    scope: &mut Scope<'_>,
) -> Result<u64> {
    let (offset, stored) = (entry.offset.get(), entry.stored_length.get());
    let offset_at = at + offset_of!(SectionEntry, offset) as u64;
    let Some(end) = offset.checked_add(stored) else {
        return Err(scope.fatal(SquizdError::invalid(
            "section-overflow",
            offset_at,
            format!("offset {offset} + stored_length {stored} wraps"),
        )));
    };
    if end > header.file_length.get() {
        return Err(scope.fatal(SquizdError::invalid(
            "section-past-end",
            offset_at,
            format!("bytes {offset}..{end} reach past file_length {}", header.file_length),
        )));
    }
    let directory_end =
        HEADER_SIZE + u64::from(header.section_count.get()) * size_of::<SectionEntry>() as u64;
    let align = alignment(kind);
    let want = previous_end.next_multiple_of(align);
    let code = if offset == want {
        return Ok(end);
    } else if offset < directory_end {
        "section-in-header"
    } else if offset < previous_end {
        "section-overlap"
    } else if !offset.is_multiple_of(align) {
        "section-misaligned"
    } else {
        "section-gap"
    };
    scope.report(SquizdError::invalid(
        code,
        offset_at,
        format!(
            "offset is {offset}, must be {want} (the first multiple of {align} from byte {previous_end})"
        ),
    ))?;
    Ok(end)
}

/// The padding between sections must be zero.
pub(super) fn check_gaps(bytes: &[u8], directory: &[SectionEntry], sink: Sink<'_>) -> Result<()> {
    let mut end = HEADER_SIZE + size_of_val(directory) as u64;
    for entry in directory {
        let start = entry.offset.get();
        if start > end
            && let Some(i) = slice(bytes, end, start - end)?.iter().position(|&b| b != 0)
        {
            let at = end + i as u64;
            sink(SquizdError::invalid("padding", at, format!("padding byte {at} is not zero")))?;
        }
        end = start.saturating_add(entry.stored_length.get());
    }
    Ok(())
}
