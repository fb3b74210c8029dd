//! Writes a file in one pass: payloads are streamed in table order, tables and
//! header follow, then fsync, rename, fsync of the folder. Killed at any
//! moment, the target is either as it was or complete, and a journal beside the
//! temporary file says which tensors need not be encoded again.

mod atomic;
mod journal;
mod payload;
mod work;

pub use atomic::AtomicFile;
use journal::Done;
pub use journal::Fingerprint;
use payload::{FileSink, Hasher, Written};
use work::Begun;
pub use work::{Unfinished, Work, unfinished};

use crate::{
    Error, Result,
    codec::{EncodeStats, PayloadSink},
    source::TensorInfo,
};
use squizd_spec::{
    ArchId, CodecId, NO_LAYER, Params, SectionKind,
    digest::{header_checksum, root_digest, sha256, sha256_of},
    layout::{
        HEADER_SIZE, Header, MAGIC, MAX_RANK, PAGE, SectionEntry, TENSOR_ALIGN, TensorRecord, VERSION, flags,
        section_flags,
    },
    section_rules::{alignment, is_critical},
};
use std::path::Path;
use zerocopy::{FromZeros, IntoBytes};

/// What the header says about the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeaderInfo {
    /// Architecture.
    pub arch: ArchId,
    /// Transformer blocks.
    pub num_layers: u16,
    /// Residual width.
    pub hidden_dim: u32,
    /// Query heads.
    pub num_heads: u16,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Mean expected sparsity of the sparsity appendix.
    pub sparsity_ratio: f32,
    /// First 8 bytes of the calibration file's SHA-256.
    pub calibration_hash: u64,
}

impl HeaderInfo {
    /// The header fields of a model without appendices or calibration.
    pub fn of(model: &crate::model::ModelConfig) -> Self {
        Self {
            arch: model.arch(),
            num_layers: model.num_layers,
            hidden_dim: model.hidden_size,
            num_heads: model.num_heads,
            vocab_size: model.vocab_size,
            sparsity_ratio: 0.0,
            calibration_hash: 0,
        }
    }
}

/// A section after the payload.
#[derive(Clone, Debug)]
pub struct Section {
    /// Kind; sections are given in ascending order.
    pub kind: SectionKind,
    /// Bytes as stored.
    pub stored: Vec<u8>,
    /// Length before compression, for a zstd frame.
    pub inflated: Option<u64>,
}

impl Section {
    /// A section stored as it is.
    pub fn plain(kind: SectionKind, stored: Vec<u8>) -> Self {
        Self { kind, stored, inflated: None }
    }

    /// A section stored as one zstd frame with its content size.
    pub fn zstd(kind: SectionKind, content: &[u8]) -> Result<Self> {
        let stored =
            zstd::bulk::compress(content, 19).map_err(Error::io(format!("compressing section {kind}")))?;
        Ok(Self { kind, stored, inflated: Some(content.len() as u64) })
    }
}

/// Streams one file.
///
/// Tensors are announced when it is made, because the tables lie in front of
/// the payload; their payloads are then written in the same order.
pub struct Writer {
    file: AtomicFile,
    front: Front,
    later: Vec<SectionKind>,
    strings_at: u64,
    tensors_at: u64,
    payload_at: u64,
    payload_end: u64,
    written: usize,
    hasher: Hasher,
    /// Taken over from an interrupted run.
    done: Vec<Done>,
}

impl Writer {
    /// Prepares `target`; nothing is visible there before [`Writer::finish`].
    ///
    /// `later` names the sections that `finish` will be given, in ascending order.
    pub fn create(
        target: &Path,
        header: HeaderInfo,
        tensors: &[TensorInfo],
        later: &[SectionKind],
    ) -> Result<Self> {
        Self::journaled(target, header, tensors, later, None)
    }

    /// The same with a journal, going on with an interrupted run's work where
    /// `work` says so: the first tensor to write is number [`Writer::written`].
    ///
    /// # Errors
    /// [`Error::Occupied`] if the place of the temporary file is taken by work
    /// that is not to be gone on with, or that another conversion began.
    pub fn journaled(
        target: &Path,
        header: HeaderInfo,
        tensors: &[TensorInfo],
        later: &[SectionKind],
        work: Option<Work<'_>>,
    ) -> Result<Self> {
        let mut names = Vec::new();
        let mut records = tensors.iter().map(|t| record(t, &mut names)).collect::<Result<Vec<_>>>()?;
        let sections = 3 + later.len() as u64;
        let directory_end = HEADER_SIZE + sections * size_of::<SectionEntry>() as u64;
        let strings_at = directory_end.next_multiple_of(alignment(SectionKind::STRINGS));
        let tensors_at = (strings_at + names.len() as u64).next_multiple_of(alignment(SectionKind::TENSORS));
        let payload_at =
            (tensors_at + size_of_val(&*records) as u64).next_multiple_of(alignment(SectionKind::PAYLOAD));
        let Begun { file, journal, done } = work::begin(target, &records, payload_at, work)?;
        let digests = done.iter().map(|d| d.record.sha256).collect();
        let hasher = Hasher::new(file.reopen()?, journal, digests);
        for (record, done) in records.iter_mut().zip(&done) {
            *record = done.record;
        }
        let last = done.last().map(|d| d.record);
        Ok(Self {
            file,
            front: Front { header, names, records },
            later: later.to_vec(),
            strings_at,
            tensors_at,
            payload_at,
            payload_end: last.map_or(0, |r| r.payload_offset.get() + r.payload_length.get()),
            written: done.len(),
            hasher,
            done,
        })
    }

    /// Tensors written so far, those taken over included.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Codec, payload bytes and errors of the tensors taken over from an
    /// interrupted run, the first of the file.
    pub fn taken_over(&self) -> impl Iterator<Item = (CodecId, u64, EncodeStats)> {
        self.done.iter().map(|d| (CodecId(d.record.codec.get()), d.record.payload_length.get(), d.stats))
    }

    /// Writes the next tensor's payload. `encode` receives a sink whose
    /// offset 0 is the payload's start, and returns the payload's length.
    pub fn tensor(
        &mut self,
        codec: CodecId,
        params: &Params,
        encode: impl FnOnce(&dyn PayloadSink) -> Result<(u64, EncodeStats)>,
    ) -> Result<EncodeStats> {
        let offset = self.payload_end.next_multiple_of(TENSOR_ALIGN);
        let at = self.payload_at + offset;
        let record =
            self.front.records.get_mut(self.written).ok_or_else(|| {
                Error::invalid(format!("writer was announced {} tensors only", self.written))
            })?;
        let (length, stats) = encode(&FileSink::new(self.file.file(), at))?;
        // Zero bytes at the payload's end may not have been written.
        self.file.set_len(at + length)?;
        record.codec = codec.0.into();
        record.params = *params;
        record.payload_offset = offset.into();
        record.payload_length = length.into();
        self.payload_end = offset + length;
        self.hasher.push(Written { record: *record, at, stats })?;
        self.written += 1;
        Ok(stats)
    }

    /// Gives up. With `keep`, what is finished stays for another run to go on with.
    pub fn abandon(mut self, keep: bool) {
        if keep && self.written > 0 {
            // What is on its way into the journal arrives; should that fail,
            // the journal is good up to there.
            let _ = self.hasher.finish();
            self.file.keep();
        }
    }

    /// Writes the later sections, tables and header, and puts the file in place.
    /// Returns its length and root digest.
    ///
    /// # Errors
    /// If writing fails, the finished payloads stay where they have a journal.
    pub fn finish(mut self, sections: &[Section]) -> Result<Finished> {
        let finished = self.complete(sections);
        if let Err(e) = &finished {
            let keep = matches!(e, Error::Io { .. });
            self.abandon(keep);
        }
        finished
    }

    fn complete(&mut self, sections: &[Section]) -> Result<Finished> {
        let Self { file, front, hasher, .. } = self;
        if self.written != front.records.len() {
            return Err(Error::invalid(format!(
                "{} of {} tensors were written",
                self.written,
                front.records.len()
            )));
        }
        if !sections.iter().map(|s| s.kind).eq(self.later.iter().copied()) {
            return Err(Error::invalid(format!(
                "sections given do not match those announced: {:?}",
                self.later
            )));
        }
        for (record, digest) in front.records.iter_mut().zip(hasher.finish()?) {
            record.sha256 = digest;
        }
        let payload_length = self.payload_end.next_multiple_of(PAGE);
        let mut end = self.payload_at + payload_length;
        let mut directory = vec![
            entry(SectionKind::STRINGS, self.strings_at, &front.names, None),
            entry(SectionKind::TENSORS, self.tensors_at, front.records.as_bytes(), None),
            SectionEntry {
                stored_length: payload_length.into(),
                length: payload_length.into(),
                sha256: sha256_of(front.records.iter().map(|r| r.sha256.as_bytes())),
                ..entry(SectionKind::PAYLOAD, self.payload_at, &[], None)
            },
        ];
        file.set_len(end)?;
        for section in sections {
            let at = end.next_multiple_of(alignment(section.kind));
            file.write_at(at, &section.stored)?;
            directory.push(entry(section.kind, at, &section.stored, section.inflated));
            end = at + section.stored.len() as u64;
        }
        let header = front.header(&directory, end);
        file.write_at(0, header.as_bytes())?;
        file.write_at(HEADER_SIZE, directory.as_bytes())?;
        file.write_at(self.strings_at, &front.names)?;
        file.write_at(self.tensors_at, front.records.as_bytes())?;
        file.put_in_place()?;
        Ok(Finished { length: end, root_digest: header.root_digest })
    }
}

/// What lies in front of the payload.
struct Front {
    header: HeaderInfo,
    names: Vec<u8>,
    records: Vec<TensorRecord>,
}

impl Front {
    fn header(&self, directory: &[SectionEntry], file_length: u64) -> Header {
        let has = |kind: SectionKind| directory.iter().any(|e| e.kind.get() == kind.0);
        let appendices = [
            (SectionKind::SPARSITY, flags::SPARSE),
            (SectionKind::COREML, flags::ANE_COREML),
            (SectionKind::DRAFT_HEAD, flags::EAGLE_DRAFT),
        ];
        let codec_flags = self.records.iter().fold(0, |acc, r| acc | CodecId(r.codec.get()).flag());
        let all_flags =
            appendices.iter().filter(|(kind, _)| has(*kind)).fold(codec_flags, |acc, (_, bit)| acc | bit);
        let bits: u128 = self.records.iter().map(|r| u128::from(r.payload_length.get()) * 8).sum();
        let weights: u128 = self.records.iter().map(|r| u128::from(elements(r))).sum();

        let mut header = Header::new_zeroed();
        header.magic = MAGIC;
        header.version = VERSION.into();
        header.flags = all_flags.into();
        header.arch = self.header.arch.0;
        header.num_layers = self.header.num_layers.into();
        header.hidden_dim = self.header.hidden_dim.into();
        header.num_heads = self.header.num_heads.into();
        header.vocab_size = self.header.vocab_size.into();
        header.compression_bpw = ((bits as f64 / weights.max(1) as f64) as f32).into();
        header.sparsity_ratio = self.header.sparsity_ratio.into();
        header.calibration_hash = self.header.calibration_hash.into();
        header.header_size = (HEADER_SIZE as u32).into();
        header.section_count = (directory.len() as u32).into();
        header.file_length = file_length.into();
        header.directory_offset = HEADER_SIZE.into();
        header.root_digest = root_digest(&header, directory, &self.names, self.records.as_bytes());
        header.checksum = header_checksum(&header);
        header
    }
}

/// A file in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Bytes of the file.
    pub length: u64,
    /// The header's root digest.
    pub root_digest: [u8; 32],
}

fn elements(record: &TensorRecord) -> u64 {
    record.dims.iter().take(usize::from(record.rank)).map(|d| d.get()).product()
}

/// A record without its payload fields; appends the name to the string table.
fn record(tensor: &TensorInfo, names: &mut Vec<u8>) -> Result<TensorRecord> {
    let fits = |what: &str| Error::invalid(format!("tensor {}: {what}", tensor.name));
    if tensor.dims.is_empty() || tensor.dims.len() > MAX_RANK {
        return Err(fits(&format!("{} dimensions, the format holds 1..={MAX_RANK}", tensor.dims.len())));
    }
    let mut record = TensorRecord::new_zeroed();
    record.name_offset = u32::try_from(names.len()).map_err(|_| fits("string table exceeds 4 GiB"))?.into();
    record.name_length =
        u16::try_from(tensor.name.len()).map_err(|_| fits("name exceeds 65535 bytes"))?.into();
    names.extend_from_slice(tensor.name.as_bytes());
    record.role = tensor.role.0.into();
    record.layer = tensor.layer.unwrap_or(NO_LAYER).into();
    record.experts = tensor.experts.into();
    record.source_dtype = tensor.dtype.0;
    record.rank = tensor.dims.len() as u8;
    record.part = tensor.part.0;
    for (slot, &dim) in record.dims.iter_mut().zip(&tensor.dims) {
        *slot = dim.into();
    }
    Ok(record)
}

fn entry(kind: SectionKind, offset: u64, stored: &[u8], inflated: Option<u64>) -> SectionEntry {
    let critical = if is_critical(kind) { section_flags::CRITICAL } else { 0 };
    let packed = if inflated.is_some() { section_flags::ZSTD } else { 0 };
    let length = stored.len() as u64;
    SectionEntry {
        kind: kind.0.into(),
        flags: (critical | packed).into(),
        offset: offset.into(),
        stored_length: length.into(),
        length: inflated.unwrap_or(length).into(),
        sha256: sha256(stored),
    }
}
