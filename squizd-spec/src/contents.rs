//! What the sections beside the weights hold: decompression, and the checks of
//! the hash level.

use crate::{
    ErrorKind, Limits, Result, SectionKind, SquizdError, SquizdRef,
    appendix::{Bundle, DraftHead, Package, ShardMap, Sparsity, check_compat},
    layout::section_flags,
    view::SectionView,
};
use alloc::{borrow::Cow, format, vec::Vec};

/// The bytes of a section, decompressed if it is stored compressed; `None` if
/// the file lacks it.
///
/// # Errors
/// If the frame is damaged or exceeds the limits; [`ErrorKind::Unsupported`]
/// for a compressed section without the feature `zstd`.
pub fn section_bytes<'a>(
    file: &SquizdRef<'a>,
    kind: SectionKind,
    limits: &Limits,
) -> Result<Option<Cow<'a, [u8]>>> {
    let Some(section) = file.section(kind) else { return Ok(None) };
    if section.entry.flags.get() & section_flags::ZSTD == 0 {
        return Ok(Some(Cow::Borrowed(section.data)));
    }
    inflate(&section, limits).map(|bytes| Some(Cow::Owned(bytes))).map_err(|e| within(kind, e))
}

#[cfg(feature = "zstd")]
fn inflate(section: &SectionView<'_>, limits: &Limits) -> Result<Vec<u8>> {
    crate::appendix::inflate(section.data, section.offset(), section.entry.length.get(), limits)
}

#[cfg(not(feature = "zstd"))]
fn inflate(section: &SectionView<'_>, _: &Limits) -> Result<Vec<u8>> {
    Err(SquizdError::new(
        ErrorKind::Unsupported,
        "section-compressed",
        section.offset(),
        "the section is compressed; this build of squizd-spec lacks the feature `zstd`",
    ))
}

fn within(kind: SectionKind, e: SquizdError) -> SquizdError {
    e.within(&format!("section {kind}"))
}

/// Every violation in tokenizer, shard map and appendices, and in what goes
/// together. The metadata's JSON is left to a caller with a JSON parser.
pub fn contents(file: &SquizdRef<'_>, limits: &Limits) -> Vec<SquizdError> {
    let mut findings = Vec::new();
    let checks: [(SectionKind, Check); 5] = [
        (SectionKind::SHARD_MAP, shard_map),
        (SectionKind::SPARSITY, sparsity),
        (SectionKind::DRAFT_HEAD, draft_head),
        (SectionKind::COREML, coreml),
        (SectionKind::TOKENIZER, tokenizer),
    ];
    for (kind, check) in checks {
        let Some(section) = file.section(kind) else { continue };
        let mut report = |e: SquizdError| {
            if findings.len() >= crate::MAX_FINDINGS {
                return Err(e);
            }
            findings.push(within(kind, e));
            Ok(())
        };
        if let Err(fatal) = check(file, &section, limits, &mut report) {
            findings.push(within(kind, fatal));
        }
        findings.truncate(crate::MAX_FINDINGS);
    }
    findings
}

type Report<'r> = crate::appendix::Report<'r>;
type Check = fn(&SquizdRef<'_>, &SectionView<'_>, &Limits, Report<'_>) -> Result<()>;

fn shard_map(file: &SquizdRef<'_>, s: &SectionView<'_>, limits: &Limits, report: Report<'_>) -> Result<()> {
    ShardMap::parse(s.data, s.offset(), limits)?.check(file, report)
}

fn sparsity(file: &SquizdRef<'_>, s: &SectionView<'_>, limits: &Limits, report: Report<'_>) -> Result<()> {
    let sparsity = Sparsity::parse(s.data, s.offset(), limits)?;
    sparsity.check(file.header(), &mut *report)?;
    if file.section(SectionKind::SHARD_MAP).is_some() {
        // Its tensors may lie in other shards; the rules hold for the joined file.
        return Ok(());
    }
    check_compat(&sparsity, file.descs(), report)
}

fn draft_head(file: &SquizdRef<'_>, s: &SectionView<'_>, limits: &Limits, report: Report<'_>) -> Result<()> {
    DraftHead::parse(s.data, s.offset(), file.header(), limits)?.check(
        file.header(),
        &file.weights_digest(),
        report,
    )
}

fn coreml(file: &SquizdRef<'_>, s: &SectionView<'_>, limits: &Limits, report: Report<'_>) -> Result<()> {
    Package::parse(s.data, s.offset(), limits)?.check(&file.weights_digest(), report)
}

fn tokenizer(file: &SquizdRef<'_>, s: &SectionView<'_>, limits: &Limits, _: Report<'_>) -> Result<()> {
    match section_bytes(file, SectionKind::TOKENIZER, limits) {
        Ok(bytes) => Bundle::parse(&bytes.unwrap_or_default(), s.offset(), limits).map(|_| ()),
        // Bytes that this build cannot look into are not thereby wrong.
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
        Err(e) => Err(e),
    }
}
