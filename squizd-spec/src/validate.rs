//! Validation: every finding, not just the first.
//!
//! [`structure`] checks header and tables and their digests; [`hash_jobs`]
//! lists what else has to be hashed, as independent jobs that a caller may run
//! in parallel; [`validate`] runs everything on the calling thread.

use crate::{
    Limits, Result, SectionKind, SquizdError, SquizdRef, check,
    digest::{Sha, root_digest, sha256, sha256_of},
    layout::Header,
    view::{SectionView, TensorView},
};
use alloc::{format, vec::Vec};
use core::mem::offset_of;
use zerocopy::IntoBytes;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Header, directory, tables, root digest, padding between sections.
    Structure,
    /// Also every section's and tensor's SHA-256, all payload padding, and the
    /// contents of tokenizer, shard map and appendices.
    Hash,
    /// Also every payload's codes and scales, through [`Inspect::decode`].
    Decode,
    /// Also the decoded values of payloads without a finding so far, through
    /// [`Inspect::numerics`].
    Numerics,
}

/// Findings kept; a file with more is hopeless anyway.
pub const MAX_FINDINGS: usize = 1000;

/// What a caller with codecs adds to validation.
pub trait Inspect {
    /// Checks a payload's codes and scales. The error's offset is absolute.
    fn decode(&self, tensor: &TensorView<'_>) -> Result<()>;
    /// Checks decoded values.
    fn numerics(&self, tensor: &TensorView<'_>) -> Result<()>;
}

/// Findings of the structure level, and the file if it can be viewed at all.
pub fn structure<'a>(bytes: &'a [u8], limits: &Limits) -> (Vec<SquizdError>, Option<SquizdRef<'a>>) {
    let mut findings = Vec::new();
    let checked = check::file(bytes, limits, &mut |finding| {
        if findings.len() < MAX_FINDINGS {
            findings.push(finding);
            Ok(())
        } else {
            Err(finding)
        }
    });
    match checked {
        Ok(tables) if findings.is_empty() => {
            let file = SquizdRef::from_checked(bytes, tables);
            findings.extend(check_root(&file).err());
            (findings, Some(file))
        }
        Ok(_) => (findings, None),
        Err(fatal) => {
            findings.push(fatal);
            (findings, None)
        }
    }
}

fn check_root(file: &SquizdRef<'_>) -> Result<()> {
    let section = |kind| file.section(kind).map_or(&[][..], |s| s.data);
    let want = root_digest(
        file.header(),
        file.directory(),
        section(SectionKind::STRINGS),
        section(SectionKind::TENSORS),
    );
    compare(&file.header().root_digest, &want, "root-digest", offset_of!(Header, root_digest) as u64)
}

fn compare(stored: &Sha, actual: &Sha, code: &'static str, offset: u64) -> Result<()> {
    if stored == actual {
        return Ok(());
    }
    Err(SquizdError::invalid(
        code,
        offset,
        format!("digest is {}, the bytes give {}", Hex(stored), Hex(actual)),
    ))
}

/// Prints a digest in hexadecimal.
pub struct Hex<'a>(pub &'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// One independent piece of hash-level validation.
#[derive(Clone, Copy, Debug)]
pub enum HashJob<'a> {
    /// A tensor's payload, and the zero padding from its end to `padding_end`.
    Tensor {
        /// The tensor.
        tensor: TensorView<'a>,
        /// Bytes between the payload's end and the next tensor, or the section's end.
        padding: &'a [u8],
    },
    /// A section's stored bytes.
    Section(SectionView<'a>),
    /// The payload section's digest of its tensors' digests.
    Payload(SquizdRef<'a>),
}

/// Everything the hash level checks beyond [`structure`], in file order.
pub fn hash_jobs<'a>(file: &SquizdRef<'a>) -> Vec<HashJob<'a>> {
    let mut jobs = Vec::with_capacity(file.tensor_count() + file.directory().len());
    let payload_end =
        file.entry(SectionKind::PAYLOAD).map_or(0, |e| e.offset.get().saturating_add(e.stored_length.get()));
    for entry in file.directory() {
        if entry.kind.get() != SectionKind::PAYLOAD.0 {
            let data = file.range(entry.offset.get(), entry.stored_length.get());
            jobs.push(HashJob::Section(SectionView { entry, data }));
            continue;
        }
        jobs.push(HashJob::Payload(*file));
        let ends = file.descs().skip(1).map(|next| next.offset).chain([payload_end]);
        jobs.extend(file.tensors().zip(ends).map(|(tensor, end)| {
            let start = tensor.offset.saturating_add(tensor.length);
            HashJob::Tensor { tensor, padding: file.range(start, end.saturating_sub(start)) }
        }));
    }
    jobs
}

impl HashJob<'_> {
    /// Bytes this job reads: for progress and for balancing.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Tensor { tensor, padding } => tensor.length + padding.len() as u64,
            Self::Section(section) => section.data.len() as u64,
            Self::Payload(file) => 32 * file.tensor_count() as u64,
        }
    }

    /// Hashes and compares.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Tensor { tensor, padding } => {
                let path = |e: SquizdError| e.within(&format!("tensor '{}'", tensor.name));
                compare(tensor.sha256, &sha256(tensor.data), "tensor-digest", tensor.offset).map_err(path)?;
                match padding.iter().position(|&b| b != 0) {
                    Some(i) => {
                        let at = tensor.offset + tensor.length + i as u64;
                        let message = format!("padding byte {at} is not zero");
                        Err(path(SquizdError::invalid("padding", at, message)))
                    }
                    None => Ok(()),
                }
            }
            Self::Section(section) => {
                compare(&section.entry.sha256, &sha256(section.data), "section-digest", section.offset())
                    .map_err(|e| e.within(&format!("section {}", section.kind())))
            }
            Self::Payload(file) => {
                let Some(entry) = file.entry(SectionKind::PAYLOAD) else { return Ok(()) };
                let want = sha256_of(file.descs().map(|t| t.sha256.as_bytes()));
                compare(&entry.sha256, &want, "payload-digest", entry.offset.get())
                    .map_err(|e| e.within("section payload"))
            }
        }
    }
}

/// Validates on the calling thread, up to `level`; an empty list means valid.
pub fn validate(bytes: &[u8], limits: &Limits, level: Level, inspect: &dyn Inspect) -> Vec<SquizdError> {
    let (mut findings, file) = structure(bytes, limits);
    let Some(file) = file else { return findings };
    if level >= Level::Hash {
        findings.extend(hash_jobs(&file).iter().filter_map(|job| job.run().err()));
        findings.extend(crate::contents(&file, limits));
    }
    if level >= Level::Decode {
        let look = |t: &TensorView<'_>| {
            inspect.decode(t)?;
            if level >= Level::Numerics { inspect.numerics(t) } else { Ok(()) }
        };
        findings.extend(file.tensors().filter_map(|t| look(&t).err()));
    }
    findings.truncate(MAX_FINDINGS);
    findings
}
