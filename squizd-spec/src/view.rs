//! Borrowed, zero-copy views of a file: its tables, its sections, its tensors.

use crate::{
    ArchId, CodecId, DType, ErrorKind, Geometry, Limits, Matrix, NO_LAYER, Params, Part, Result, Role,
    SectionKind, SquizdError, check,
    digest::{self, Sha},
    layout::{Header, MAX_RANK, SectionEntry, TensorRecord},
};
use alloc::format;
use core::ops::Deref;
use zerocopy::IntoBytes;

/// Dimensions of a tensor, outermost first; dereferences to a slice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    values: [u64; MAX_RANK],
    rank: u8,
}

impl Dims {
    pub(crate) fn of(record: &TensorRecord) -> Self {
        Self { values: record.dims.map(u64::from), rank: record.rank }
    }
}

impl Deref for Dims {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        self.values.get(..usize::from(self.rank)).unwrap_or_default()
    }
}

impl core::fmt::Debug for Dims {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(&**self, f)
    }
}

/// One row of the tensor table, decoded.
#[derive(Clone, Copy, Debug)]
pub struct TensorDesc<'a> {
    /// Index in the tensor table.
    pub index: usize,
    /// Stored name.
    pub name: &'a str,
    /// What the tensor does.
    pub role: Role,
    /// Layer, for per-layer roles.
    pub layer: Option<u16>,
    /// Weight or bias.
    pub part: Part,
    /// Experts stacked along the first dimension, 0 for none.
    pub experts: u16,
    /// Element type of the source.
    pub source_dtype: DType,
    /// Dimensions, outermost first.
    pub dims: Dims,
    /// Codec of the payload.
    pub codec: CodecId,
    /// Codec parameters.
    pub params: &'a Params,
    /// Absolute offset of the payload.
    pub offset: u64,
    /// Payload bytes.
    pub length: u64,
    /// SHA-256 over the payload.
    pub sha256: &'a Sha,
}

impl<'a> TensorDesc<'a> {
    /// Decodes a checked record (the fallbacks are never taken); payload
    /// offsets count from `payload_at`.
    pub(crate) fn of(index: usize, record: &'a TensorRecord, strings: &'a str, payload_at: u64) -> Self {
        let start = record.name_offset.get() as usize;
        let end = start.saturating_add(usize::from(record.name_length.get()));
        let layer = record.layer.get();
        Self {
            index,
            name: strings.get(start..end).unwrap_or_default(),
            role: Role(record.role.get()),
            layer: (layer != NO_LAYER).then_some(layer),
            part: Part(record.part),
            experts: record.experts.get(),
            source_dtype: DType(record.source_dtype),
            dims: Dims::of(record),
            codec: CodecId(record.codec.get()),
            params: &record.params,
            offset: payload_at.saturating_add(record.payload_offset.get()),
            length: record.payload_length.get(),
            sha256: &record.sha256,
        }
    }

    /// The matrix view: all dimensions but the last, times the last.
    pub fn matrix(&self) -> Matrix {
        Matrix::of(&self.dims).unwrap_or(Matrix { rows: 0, cols: 0 })
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.matrix().elements()
    }

    /// Planes and length of the payload; fails only for a codec that this
    /// version does not know.
    pub fn geometry(&self) -> Result<Geometry> {
        self.codec.geometry(self.matrix(), self.params).map_err(|_| {
            SquizdError::new(
                ErrorKind::Unsupported,
                "tensor-codec",
                self.offset,
                format!("{} is not known to this build; update squizd to read it", self.codec),
            )
            .within(self.name)
        })
    }

    /// Stored bits per weight, alignment padding between tensors excluded.
    pub fn bits_per_weight(&self) -> f64 {
        self.length as f64 * 8.0 / self.elements() as f64
    }
}

/// A tensor with its payload.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The tensor's row of the table.
    pub desc: TensorDesc<'a>,
    /// Payload bytes, as they lie in the file.
    pub data: &'a [u8],
}

impl<'a> Deref for TensorView<'a> {
    type Target = TensorDesc<'a>;
    fn deref(&self) -> &TensorDesc<'a> {
        &self.desc
    }
}

/// A section of the file.
#[derive(Clone, Copy, Debug)]
pub struct SectionView<'a> {
    /// Directory entry.
    pub entry: &'a SectionEntry,
    /// Stored bytes (compressed where the entry says so).
    pub data: &'a [u8],
}

impl SectionView<'_> {
    /// The section's kind.
    pub fn kind(&self) -> SectionKind {
        SectionKind(self.entry.kind.get())
    }

    /// Absolute offset.
    pub fn offset(&self) -> u64 {
        self.entry.offset.get()
    }
}

/// Header and tables: everything that fits in front of the payload.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    pub(crate) header: &'a Header,
    pub(crate) directory: &'a [SectionEntry],
    pub(crate) strings: &'a str,
    pub(crate) records: &'a [TensorRecord],
    pub(crate) payload_offset: u64,
}

impl<'a> Tables<'a> {
    /// Parses the front of a file (of a remote one, say), without its payload.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] with the number of leading bytes to fetch
    /// before trying again; otherwise the first violation found. At most two
    /// retries are needed: header, then tables.
    pub fn parse_prefix(prefix: &'a [u8], limits: &Limits) -> Result<Self> {
        check::first(|sink| check::tables(prefix, limits, sink))
    }

    /// The file header.
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// The header's architecture.
    pub fn arch(&self) -> ArchId {
        ArchId(self.header.arch)
    }

    /// Section directory, in file order.
    pub fn directory(&self) -> &'a [SectionEntry] {
        self.directory
    }

    /// Directory entry of a section.
    pub fn entry(&self, kind: SectionKind) -> Option<&'a SectionEntry> {
        self.directory.iter().find(|e| e.kind.get() == kind.0)
    }

    /// Number of tensors.
    pub fn tensor_count(&self) -> usize {
        self.records.len()
    }

    /// Tensor `index` of the table.
    pub fn desc(&self, index: usize) -> Option<TensorDesc<'a>> {
        self.records.get(index).map(|record| TensorDesc::of(index, record, self.strings, self.payload_offset))
    }

    /// All tensors, in table order.
    pub fn descs(&self) -> impl ExactSizeIterator<Item = TensorDesc<'a>> + use<'a> {
        let tables = *self;
        tables
            .records
            .iter()
            .enumerate()
            .map(move |(i, record)| TensorDesc::of(i, record, tables.strings, tables.payload_offset))
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<TensorDesc<'a>> {
        self.descs().find(|t| t.name == name)
    }

    /// SHA-256 over tensor records and string table.
    pub fn weights_digest(&self) -> Sha {
        digest::weights_digest(self.records.as_bytes(), self.strings.as_bytes())
    }
}

/// A whole file, checked: every view below is in bounds.
#[derive(Clone, Copy, Debug)]
pub struct SquizdRef<'a> {
    bytes: &'a [u8],
    tables: Tables<'a>,
}

impl<'a> Deref for SquizdRef<'a> {
    type Target = Tables<'a>;
    fn deref(&self) -> &Tables<'a> {
        &self.tables
    }
}

impl<'a> SquizdRef<'a> {
    /// Parses a whole file: all structural rules of the specification, without
    /// reading a payload byte. Stops at the first violation; see
    /// [`crate::validate`] for all of them.
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        let tables = check::first(|sink| check::file(bytes, limits, sink))?;
        Ok(Self::from_checked(bytes, tables))
    }

    /// Joins a file with the tables that [`check::file`] found in it.
    pub(crate) fn from_checked(bytes: &'a [u8], tables: Tables<'a>) -> Self {
        Self { bytes, tables }
    }

    /// The whole file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Tensor `index` with its payload.
    pub fn tensor(&self, index: usize) -> Option<TensorView<'a>> {
        self.tables.desc(index).map(|desc| self.view(desc))
    }

    /// All tensors with their payloads, in table order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'a>> + use<'a> {
        let file = *self;
        self.tables.descs().map(move |desc| file.view(desc))
    }

    /// The tensor of this name, with its payload.
    pub fn tensor_named(&self, name: &str) -> Option<TensorView<'a>> {
        self.tables.find(name).map(|desc| self.view(desc))
    }

    /// The section of this kind.
    pub fn section(&self, kind: SectionKind) -> Option<SectionView<'a>> {
        let entry = self.entry(kind)?;
        Some(SectionView { entry, data: self.range(entry.offset.get(), entry.stored_length.get()) })
    }

    fn view(&self, desc: TensorDesc<'a>) -> TensorView<'a> {
        TensorView { desc, data: self.range(desc.offset, desc.length) }
    }

    /// A checked range of the file.
    pub(crate) fn range(&self, offset: u64, length: u64) -> &'a [u8] {
        let end = offset.saturating_add(length) as usize;
        self.bytes.get(offset as usize..end).unwrap_or_default()
    }
}
