//! What a conversion has finished, so that another run can go on with it.
//!
//! ```text
//! TARGET.part.journal = header | entry per finished tensor, in file order
//! header = magic | tool | source | recipe | calibration (SHA-256 each) | check
//! entry  = tensor record with payload digest | errors | check
//! check  = SHA-256 over the check before it and the bytes between
//! ```
//!
//! Nothing is flushed to the disk on the way: after a power failure the journal
//! may name payloads that never arrived. Whoever goes on reads every payload
//! again and compares digests, so that order on the disk does not matter.

use super::payload::digest_of;
use crate::{
    Error, Result,
    codec::{EncodeStats, OutputError},
};
use rustix::fs::OFlags;
use squizd_spec::{
    digest::sha256_of,
    layout::{TENSOR_ALIGN, TensorRecord},
};
use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{F64, U64},
};

const MAGIC: [u8; 8] = *b"SQZDJRN1";

/// What a conversion's bytes depend on. Work is gone on with only where all of
/// it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fingerprint {
    /// Of the program's version and the format's.
    pub tool: [u8; 32],
    /// Of the source: files' names, sizes, times and inodes; tensors, model, tokenizer, texts.
    pub source: [u8; 32],
    /// Of the recipe, and the plan made by it.
    pub recipe: [u8; 32],
    /// Of the calibration file; zero without.
    pub calibration: [u8; 32],
}

impl Fingerprint {
    /// What differs first, as a message says it.
    fn differs(&self, now: &Self) -> Option<&'static str> {
        [
            (self.tool != now.tool, "by another version of squizd"),
            (self.source != now.source, "from another source, or the source was changed since"),
            (self.recipe != now.recipe, "with other options"),
            (self.calibration != now.calibration, "with another calibration"),
        ]
        .into_iter()
        .find_map(|(differs, what)| differs.then_some(what))
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    fingerprint: Fingerprint,
    check: [u8; 32],
}

/// A finished tensor.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    record: TensorRecord,
    signal: F64,
    noise: F64,
    /// Whether the errors of outputs are known.
    guided: U64,
    output_signal: F64,
    output_noise: F64,
    check: [u8; 32],
}

impl Entry {
    fn new(record: TensorRecord, stats: EncodeStats, before: &[u8; 32]) -> Self {
        let output = stats.output.unwrap_or_default();
        let mut entry = Self {
            record,
            signal: stats.signal.into(),
            noise: stats.noise.into(),
            guided: u64::from(stats.output.is_some()).into(),
            output_signal: output.signal.into(),
            output_noise: output.noise.into(),
            check: [0; 32],
        };
        entry.check = entry.sum(before);
        entry
    }

    fn sum(&self, before: &[u8; 32]) -> [u8; 32] {
        let bare = Self { check: [0; 32], ..*self };
        sha256_of([&before[..], bare.as_bytes()])
    }

    fn stats(&self) -> EncodeStats {
        let output = OutputError { signal: self.output_signal.get(), noise: self.output_noise.get() };
        EncodeStats {
            signal: self.signal.get(),
            noise: self.noise.get(),
            output: (self.guided.get() == 1).then_some(output),
        }
    }
}

/// A tensor that an earlier run finished.
#[derive(Clone, Copy)]
pub(super) struct Done {
    /// Its record, digest included.
    pub(super) record: TensorRecord,
    /// Energy and error.
    pub(super) stats: EncodeStats,
}

/// An open journal.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    check: [u8; 32],
}

impl Journal {
    /// Where the journal of a temporary file lies.
    pub(super) fn path_of(part: &Path) -> PathBuf {
        let mut name = part.file_name().map(OsString::from).unwrap_or_default();
        name.push(".journal");
        part.with_file_name(name)
    }

    /// Starts a journal, over any that is there.
    pub(super) fn create(path: &Path, fingerprint: &Fingerprint) -> Result<Self> {
        let mut journal = Self::open(path, 0)?;
        let head = Head { magic: MAGIC, fingerprint: *fingerprint, check: head_check(fingerprint) };
        journal.write(head.as_bytes())?;
        journal.check = head.check;
        Ok(journal)
    }

    /// Opens a journal whose first `entries` entries stay.
    pub(super) fn go_on(path: &Path, found: &Found, entries: usize) -> Result<Self> {
        let kept = found.entries.get(..entries).unwrap_or_default();
        let mut journal = Self::open(path, (size_of::<Head>() + size_of_val(kept)) as u64)?;
        journal.check = kept.last().map_or(found.head.check, |e| e.check);
        Ok(journal)
    }

    fn open(path: &Path, length: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)
            .and_then(|file| file.set_len(length).map(|()| file))
            .map_err(Error::io(format!("creating {}", path.display())))?;
        Ok(Self { file, path: path.to_owned(), check: [0; 32] })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(format!("writing {}", self.path.display())))
    }

    /// Notes a finished tensor, its digest in `record`.
    pub(super) fn append(&mut self, record: &TensorRecord, stats: EncodeStats) -> Result<()> {
        let entry = Entry::new(*record, stats, &self.check);
        self.write(entry.as_bytes())?;
        self.check = entry.check;
        Ok(())
    }
}

fn head_check(fingerprint: &Fingerprint) -> [u8; 32] {
    sha256_of([&MAGIC[..], fingerprint.as_bytes()])
}

/// A journal as found beside a temporary file.
pub(super) struct Found {
    head: Head,
    entries: Vec<Entry>,
}

impl Found {
    /// Reads the journal at `path`; `None` if there is none, or none that begins
    /// as one does. Entries end at the first that is incomplete or damaged.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let is_file = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file());
        let mut file = is_file.then(|| File::open(path).ok())??;
        let mut head = [0; size_of::<Head>()];
        file.read_exact(&mut head).ok()?;
        let head = Head::read_from_bytes(&head).ok()?;
        if head.magic != MAGIC || head.check != head_check(&head.fingerprint) {
            return None;
        }
        let (mut entries, mut check) = (Vec::new(), head.check);
        let mut bytes = [0; size_of::<Entry>()];
        while file.read_exact(&mut bytes).is_ok()
            && let Ok(entry) = Entry::read_from_bytes(&bytes)
            && entry.check == entry.sum(&check)
        {
            check = entry.check;
            entries.push(entry);
        }
        Some(Self { head, entries })
    }

    /// Tensors noted as finished.
    pub(super) fn tensors(&self) -> usize {
        self.entries.len()
    }

    /// What differs from a conversion to come.
    pub(super) fn differs(&self, now: &Fingerprint) -> Option<&'static str> {
        self.head.fingerprint.differs(now)
    }

    /// The finished tensors whose payloads are in `part` as they were written:
    /// all up to the first that is not. `announced` are the records to come,
    /// `payload_at` is where the payload section begins.
    ///
    /// # Errors
    /// If reading fails, or `stop` says so.
    pub(super) fn intact(
        &self,
        part: &File,
        announced: &[TensorRecord],
        payload_at: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Done>> {
        let length = part.metadata().map_err(Error::io("reading the size of the work so far"))?.len();
        let mut buffer = vec![0; 1 << 20];
        let mut done = Vec::new();
        let mut end = 0u64;
        for (entry, record) in self.entries.iter().zip(announced) {
            let (offset, bytes) = (entry.record.payload_offset.get(), entry.record.payload_length.get());
            let within = offset.checked_add(bytes).and_then(|e| e.checked_add(payload_at));
            let placed = offset == end.next_multiple_of(TENSOR_ALIGN) && within.is_some_and(|e| e <= length);
            if !placed
                || !is_announced(&entry.record, record)
                || !is_zero(part, payload_at + end, offset - end)?
            {
                break;
            }
            if digest_of(part, payload_at + offset, bytes, &mut buffer, stop)? != entry.record.sha256 {
                break;
            }
            end = offset + bytes;
            done.push(Done { record: entry.record, stats: entry.stats() });
        }
        Ok(done)
    }
}

/// Whether a finished record is of the tensor announced in its place.
fn is_announced(finished: &TensorRecord, announced: &TensorRecord) -> bool {
    let bare = TensorRecord {
        codec: announced.codec,
        params: announced.params,
        payload_offset: announced.payload_offset,
        payload_length: announced.payload_length,
        sha256: announced.sha256,
        ..*finished
    };
    bare.as_bytes() == announced.as_bytes()
}

/// Whether the `count` bytes of alignment at `at` are zero.
fn is_zero(file: &File, at: u64, count: u64) -> Result<bool> {
    let mut bytes = [0; TENSOR_ALIGN as usize];
    let gap = bytes.get_mut(..count as usize).unwrap_or_default();
    file.read_exact_at(gap, at).map_err(Error::io("reading the work so far"))?;
    Ok(gap.iter().all(|b| *b == 0))
}
