//! Making a damaged file's digests right again, so that rules behind them are reached.

use squizd_spec::{
    Limits, SectionKind, SquizdRef,
    digest::{header_checksum, root_digest, sha256, sha256_of},
    layout::{Header, SectionEntry, TensorRecord},
};
use std::{mem::offset_of, ops::Range};
use zerocopy::{FromBytes, IntoBytes};

/// Where a valid file's parts lie.
#[derive(Clone, Debug)]
pub struct Layout {
    strings: Range<usize>,
    tensors: Range<usize>,
    sections: Vec<(u32, Range<usize>)>,
    payloads: Vec<Range<usize>>,
}

impl Layout {
    /// The layout of a valid file.
    ///
    /// # Errors
    /// If `bytes` is no valid file.
    pub fn of(bytes: &[u8]) -> squizd_spec::Result<Self> {
        let file = SquizdRef::parse(bytes, &Limits::DEFAULT)?;
        let range = |at: u64, n: u64| at as usize..(at + n) as usize;
        let sections: Vec<_> = file
            .directory()
            .iter()
            .map(|e| (e.kind.get(), range(e.offset.get(), e.stored_length.get())))
            .collect();
        let of = |kind: SectionKind| {
            sections.iter().find(|(k, _)| *k == kind.0).map_or(0..0, |(_, range)| range.clone())
        };
        Ok(Self {
            strings: of(SectionKind::STRINGS),
            tensors: of(SectionKind::TENSORS),
            payloads: file.descs().map(|t| range(t.offset, t.length)).collect(),
            sections,
        })
    }

    /// Recomputes every digest of `data`, which is laid out like the file of
    /// this layout (nothing happens if it is shorter).
    pub fn seal(&self, data: &mut [u8]) {
        if self.sections.iter().any(|(_, r)| r.end > data.len()) {
            return;
        }
        let mut digests = Vec::with_capacity(self.payloads.len());
        for (i, range) in self.payloads.iter().enumerate() {
            let digest = sha256(&data[range.clone()]);
            let at = self.tensors.start + i * size_of::<TensorRecord>() + offset_of!(TensorRecord, sha256);
            data[at..at + 32].copy_from_slice(&digest);
            digests.push(digest);
        }
        let payload = sha256_of(digests.iter().map(<[u8; 32]>::as_slice));
        for (i, (kind, range)) in self.sections.iter().enumerate() {
            let digest = if *kind == SectionKind::PAYLOAD.0 { payload } else { sha256(&data[range.clone()]) };
            let at = size_of::<Header>() + i * size_of::<SectionEntry>() + offset_of!(SectionEntry, sha256);
            data[at..at + 32].copy_from_slice(&digest);
        }
        self.seal_front(data);
    }

    /// Recomputes root digest and checksum alone.
    pub fn seal_front(&self, data: &mut [u8]) {
        let Ok((mut header, rest)) = Header::read_from_prefix(data) else { return };
        let directory = rest.get(..self.sections.len() * size_of::<SectionEntry>()).unwrap_or_default();
        let Ok(directory) = <[SectionEntry]>::ref_from_bytes(directory) else { return };
        let (Some(strings), Some(tensors)) = (data.get(self.strings.clone()), data.get(self.tensors.clone()))
        else {
            return;
        };
        header.root_digest = root_digest(&header, directory, strings, tensors);
        header.checksum = header_checksum(&header);
        data[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    }
}
