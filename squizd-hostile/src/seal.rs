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
        self.seal_where(data, |_| true);
    }

    /// Recomputes the digests that changes within `places` make stale.
    pub fn seal_after(&self, data: &mut [u8], places: &[Range<usize>]) {
        self.seal_where(data, |range| places.iter().any(|p| p.start < range.end && range.start < p.end));
    }

    fn seal_where(&self, data: &mut [u8], stale: impl Fn(&Range<usize>) -> bool) {
        if self.sections.iter().any(|(_, r)| r.end > data.len()) {
            return;
        }
        let field = |i: usize| {
            let at = self.tensors.start + i * size_of::<TensorRecord>() + offset_of!(TensorRecord, sha256);
            at..at + 32
        };
        for (i, range) in self.payloads.iter().enumerate() {
            // A digest that was itself overwritten is made right, too.
            if stale(range) || stale(&field(i)) {
                let digest = sha256(&data[range.clone()]);
                data[field(i)].copy_from_slice(&digest);
            }
        }
        let payload = sha256_of((0..self.payloads.len()).map(|i| &data[field(i)]));
        for (i, (kind, range)) in self.sections.iter().enumerate() {
            let at = size_of::<Header>() + i * size_of::<SectionEntry>() + offset_of!(SectionEntry, sha256);
            let tables = range == &self.tensors || stale(&(at..at + 32));
            if *kind == SectionKind::PAYLOAD.0 {
                data[at..at + 32].copy_from_slice(&payload);
            } else if tables || stale(range) {
                let digest = sha256(&data[range.clone()]);
                data[at..at + 32].copy_from_slice(&digest);
            }
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
