//! Rules of the string table and the tensor table: names contiguous in record
//! order, payloads at the first 256-byte multiple after the one before,
//! lengths as the codec's geometry says.

use super::{
    Sink,
    header::is_newer_minor,
    names::{check_unique, is_canonical},
    slice,
};
use crate::{
    CodecId, DType, ErrorKind, GeometryError, Limits, Matrix, NO_LAYER, Part, PayloadLength, Result, Role,
    SectionKind, SquizdError,
    layout::{Header, MAX_RANK, PAGE, SectionEntry, TENSOR_ALIGN, TensorRecord, flags},
    view::Tables,
};
use alloc::{format, string::String};
use core::mem::offset_of;
use zerocopy::FromBytes;

/// Absolute offset of a record's field.
macro_rules! field {
    ($at:expr, $field:ident) => {
        $at + offset_of!(TensorRecord, $field) as u64
    };
}

/// Checks strings and records and builds the tables' view.
pub(super) fn check<'a>(
    bytes: &'a [u8],
    header: &'a Header,
    directory: &'a [SectionEntry],
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<Tables<'a>> {
    let entry = |kind: SectionKind| {
        directory.iter().find(|e| e.kind.get() == kind.0).ok_or_else(|| {
            SquizdError::invalid(
                "section-missing",
                crate::layout::HEADER_SIZE,
                format!("there is no {kind} section"),
            )
        })
    };
    let (strings, tensors, payload) =
        (entry(SectionKind::STRINGS)?, entry(SectionKind::TENSORS)?, entry(SectionKind::PAYLOAD)?);

    let table_at = tensors.offset.get();
    let table_bytes = tensors.stored_length.get();
    let count = table_bytes / size_of::<TensorRecord>() as u64;
    if count > u64::from(limits.tensors) {
        return Err(SquizdError::new(
            ErrorKind::Limit,
            "limit-tensors",
            table_at,
            format!("{count} tensors, limit {}", limits.tensors),
        ));
    }
    let names = slice(bytes, strings.offset.get(), strings.stored_length.get())?;
    let records = <[TensorRecord]>::ref_from_bytes(slice(bytes, table_at, table_bytes)?).map_err(|_| {
        SquizdError::invalid(
            "tensors-length",
            table_at,
            format!(
                "tensor table has {table_bytes} bytes, must be a multiple of {}",
                size_of::<TensorRecord>()
            ),
        )
    })?;
    let scope = Scope {
        limits,
        newer: is_newer_minor(header),
        draft: false,
        layers: header.num_layers.get(),
        room: header.file_length.get(),
        names_at: strings.offset.get(),
        table_at,
    };
    let (names, totals) = table(scope, names, records, sink)?;
    check_totals(&totals, header, payload, directory, sink)?;
    Ok(Tables { header, directory, strings: names, records, payload_offset: payload.offset.get() })
}

/// What the rules of a tensor table depend on besides its own bytes; the file
/// and a draft head each have one table.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// Caps.
    pub(crate) limits: &'a Limits,
    /// The file is of a later minor version: unknown ids pass.
    pub(crate) newer: bool,
    /// The table is a draft head's, which alone has [`Role::DRAFT_FC`].
    pub(crate) draft: bool,
    /// Layers that records may name.
    pub(crate) layers: u16,
    /// No payload reaches past this many bytes.
    pub(crate) room: u64,
    /// Absolute offset of the string table.
    pub(crate) names_at: u64,
    /// Absolute offset of the first record.
    pub(crate) table_at: u64,
}

/// What a table's records add up to.
#[derive(Default)]
pub(crate) struct Totals {
    /// End of the last payload.
    pub(crate) payload_end: u64,
    name_end: usize,
    flags: u32,
    bits: u128,
    elements: u128,
}

/// Checks a string table and the records that name it.
pub(crate) fn table<'a>(
    scope: Scope<'_>,
    names: &'a [u8],
    records: &[TensorRecord],
    sink: Sink<'_>,
) -> Result<(&'a str, Totals)> {
    let names = core::str::from_utf8(names).map_err(|e| {
        let at = scope.names_at + e.valid_up_to() as u64;
        SquizdError::invalid("name-utf8", at, format!("string table is not UTF-8 at byte {at}"))
    })?;
    let mut walk = Walk { scope, names, totals: Totals::default() };
    for (i, record) in records.iter().enumerate() {
        let at = scope.table_at + (i * size_of::<TensorRecord>()) as u64;
        let name = walk.check_name(record, at).map_err(|e| e.within(&format!("tensor {i}")))?;
        walk.check_record(record, at, name, &mut |e| sink(e.within(&format!("tensor {i} '{name}'"))))?;
    }
    let totals = walk.totals;
    if totals.name_end != names.len() {
        let at = scope.names_at + totals.name_end as u64;
        sink(SquizdError::invalid("name-trailing", at, "string table goes on after the last tensor's name"))?;
    }
    check_unique(records, names, scope.table_at, sink)?;
    Ok((names, totals))
}

/// Running state over the records.
struct Walk<'s, 'a> {
    scope: Scope<'s>,
    names: &'a str,
    totals: Totals,
}

impl<'a> Walk<'_, 'a> {
    /// The record's name, which must begin where the one before ended.
    fn check_name(&mut self, record: &TensorRecord, at: u64) -> Result<&'a str> {
        let start = record.name_offset.get() as usize;
        let length = record.name_length.get();
        let at_offset = field!(at, name_offset);
        if start != self.totals.name_end {
            return Err(SquizdError::invalid(
                "name-offset",
                at_offset,
                format!(
                    "name_offset is {start}, must be {} (names lie in record order without gaps)",
                    self.totals.name_end
                ),
            ));
        }
        if length == 0 || length > self.scope.limits.name {
            return Err(SquizdError::invalid(
                "name-length",
                field!(at, name_length),
                format!("name_length is {length}, allowed 1..={}", self.scope.limits.name),
            ));
        }
        let end = start + usize::from(length);
        let name = self.names.get(start..end).ok_or_else(|| {
            SquizdError::invalid(
                "name-range",
                at_offset,
                format!(
                    "name bytes {start}..{end} leave the string table of {} or split a character",
                    self.names.len()
                ),
            )
        })?;
        self.totals.name_end = end;
        if let Some((i, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
            let at = self.scope.names_at + (start + i) as u64;
            return Err(SquizdError::invalid(
                "name-control",
                at,
                format!("name has the control character {c:?}"),
            ));
        }
        if name.contains(['/', '\\']) || name == "." || name == ".." {
            let at = self.scope.names_at + start as u64;
            return Err(SquizdError::invalid("name-path", at, format!("name {name:?} looks like a path")));
        }
        Ok(name)
    }

    fn check_record(&mut self, record: &TensorRecord, at: u64, name: &str, sink: Sink<'_>) -> Result<()> {
        self.check_meaning(record, at, name, sink)?;
        let matrix = self.check_dims(record, at, sink)?;
        self.check_payload(record, at, matrix, sink)
    }

    /// Role, layer, part, experts, dtype, reserved bytes.
    fn check_meaning(&self, record: &TensorRecord, at: u64, name: &str, sink: Sink<'_>) -> Result<()> {
        let newer = self.scope.newer;
        let role = Role(record.role.get());
        let part = Part(record.part);
        let dtype = DType(record.source_dtype);
        let layer = record.layer.get();
        let named = role.name().is_some() && part.name().is_some();
        if !named && !newer {
            sink(SquizdError::invalid(
                "tensor-role",
                field!(at, role),
                format!("role is {role}, part {part}"),
            ))?;
        }
        if dtype.name().is_none() && !newer {
            sink(SquizdError::invalid(
                "tensor-dtype",
                field!(at, source_dtype),
                format!("source_dtype is {dtype}"),
            ))?;
        }
        if role == Role::DRAFT_FC && !self.scope.draft {
            let at = field!(at, role);
            sink(SquizdError::invalid("tensor-role", at, format!("role {role} belongs to draft heads")))?;
        }
        let layers = self.scope.layers;
        if role.is_per_layer() != (layer != NO_LAYER) || (layer != NO_LAYER && layer >= layers) {
            let want =
                if role.is_per_layer() { format!("0..{layers}") } else { format!("{NO_LAYER} (none)") };
            sink(SquizdError::invalid(
                "tensor-layer",
                field!(at, layer),
                format!("layer is {layer}, must be {want} for role {role}"),
            ))?;
        }
        if named && role != Role::OTHER && !is_canonical(name, role, layer, part) {
            let want = crate::canonical_name(role, (layer != NO_LAYER).then_some(layer), part);
            sink(SquizdError::invalid(
                "tensor-name",
                field!(at, name_offset),
                format!("name is {name:?}, must be {want:?} for its role"),
            ))?;
        }
        let experts = u64::from(record.experts.get());
        let leads = record.rank >= 2 && record.dims.first().is_some_and(|d| d.get() == experts);
        let fits = match role {
            Role::MOE_GATE | Role::MOE_UP | Role::MOE_DOWN => experts != 0 && leads,
            Role::OTHER => experts == 0 || leads,
            _ => experts == 0 || !named,
        };
        if !fits {
            sink(SquizdError::invalid(
                "tensor-experts",
                field!(at, experts),
                format!(
                    "experts is {experts}; it is the first of at least two dimensions where experts are stacked \
                     (moe_gate, moe_up, moe_down), else 0"
                ),
            ))?;
        }
        if !newer && let Some(i) = record.reserved.iter().position(|&b| b != 0) {
            let at = field!(at, reserved) + i as u64;
            sink(SquizdError::invalid("tensor-reserved", at, "reserved byte is not zero"))?;
        }
        Ok(())
    }

    fn check_dims(&self, record: &TensorRecord, at: u64, sink: Sink<'_>) -> Result<Option<Matrix>> {
        let rank = usize::from(record.rank);
        if rank == 0 || rank > MAX_RANK {
            sink(SquizdError::invalid(
                "tensor-rank",
                field!(at, rank),
                format!("rank is {rank}, allowed 1..={MAX_RANK}"),
            ))?;
            return Ok(None);
        }
        let dims = record.dims.map(u64::from);
        let (used, unused) = dims.split_at(rank);
        let dim_at = |i: usize| field!(at, dims) + 8 * i as u64;
        if let Some(i) = unused.iter().position(|&d| d != 0) {
            sink(SquizdError::invalid(
                "tensor-dims",
                dim_at(rank + i),
                "dimension beyond the rank is not zero",
            ))?;
        }
        if let Some(i) = used.iter().position(|&d| d == 0 || d > self.scope.limits.dim) {
            let found = used.get(i).copied().unwrap_or(0);
            sink(SquizdError::invalid(
                "tensor-dims",
                dim_at(i),
                format!("dimension {i} is {found}, allowed 1..={}", self.scope.limits.dim),
            ))?;
            return Ok(None);
        }
        match Matrix::of(used) {
            Some(m) if m.elements() <= self.scope.limits.elements => Ok(Some(m)),
            _ => {
                sink(SquizdError::invalid(
                    "tensor-elements",
                    dim_at(0),
                    format!("{used:?} has more than {} elements", self.scope.limits.elements),
                ))?;
                Ok(None)
            }
        }
    }

    /// Codec, parameters, and the payload's length and place.
    fn check_payload(
        &mut self,
        record: &TensorRecord,
        at: u64,
        matrix: Option<Matrix>,
        sink: Sink<'_>,
    ) -> Result<()> {
        let codec = CodecId(record.codec.get());
        let (offset, length) = (record.payload_offset.get(), record.payload_length.get());
        self.totals.flags |= codec.flag();
        if let Some(matrix) = matrix {
            self.totals.bits += u128::from(length) * 8;
            self.totals.elements += u128::from(matrix.elements());
            match codec.geometry(matrix, &record.params) {
                Ok(geometry) if !geometry.length.allows(length) => {
                    let want = match geometry.length {
                        PayloadLength::Exact(n) => format!("{n}"),
                        PayloadLength::Within { min, max } => format!("{min}..={max}"),
                    };
                    sink(SquizdError::invalid(
                        "tensor-length",
                        field!(at, payload_length),
                        format!("payload_length is {length}, {codec} of this shape has {want}"),
                    ))?;
                }
                Ok(_) => {}
                Err(e) => self.report_geometry(e, codec, at, sink)?,
            }
        }
        let want = self.totals.payload_end.next_multiple_of(TENSOR_ALIGN);
        let at_offset = field!(at, payload_offset);
        let Some(end) = offset.checked_add(length).filter(|&e| e <= self.scope.room) else {
            return Err(SquizdError::invalid(
                "tensor-past-end",
                at_offset,
                format!("payload bytes {offset} + {length} leave the {} there can be", self.scope.room),
            ));
        };
        if offset != want {
            let code = if offset < self.totals.payload_end {
                "tensor-overlap"
            } else if !offset.is_multiple_of(TENSOR_ALIGN) {
                "tensor-misaligned"
            } else {
                "tensor-gap"
            };
            sink(SquizdError::invalid(
                code,
                at_offset,
                format!(
                    "payload_offset is {offset}, must be {want} (the first multiple of {TENSOR_ALIGN} after the tensor before)"
                ),
            ))?;
        }
        self.totals.payload_end = end.max(self.totals.payload_end);
        Ok(())
    }

    fn report_geometry(&self, error: GeometryError, codec: CodecId, at: u64, sink: Sink<'_>) -> Result<()> {
        match error {
            GeometryError::UnknownCodec if self.scope.newer => Ok(()),
            GeometryError::UnknownCodec => {
                sink(SquizdError::invalid("tensor-codec", field!(at, codec), format!("codec is {codec}")))
            }
            GeometryError::Param { index, message } => {
                let at = field!(at, params) + index as u64;
                sink(SquizdError::invalid("tensor-params", at, format!("{codec}: {message}")))
            }
            GeometryError::Overflow => sink(SquizdError::invalid(
                "tensor-elements",
                field!(at, dims),
                format!("the {codec} payload of this shape overflows 64 bits"),
            )),
        }
    }
}

/// Payload length, flag summary, bits per weight.
fn check_totals(
    totals: &Totals,
    header: &Header,
    payload: &SectionEntry,
    directory: &[SectionEntry],
    sink: Sink<'_>,
) -> Result<()> {
    let want = totals.payload_end.next_multiple_of(PAGE);
    let stored = payload.stored_length.get();
    if stored != want {
        let code = if stored < totals.payload_end { "tensor-past-end" } else { "payload-length" };
        sink(SquizdError::invalid(
            code,
            payload.offset.get(),
            format!("payload has {stored} bytes, its tensors need {want} (padded to {PAGE})"),
        ))?;
    }
    let has = |kind: SectionKind| directory.iter().any(|e| e.kind.get() == kind.0);
    let appendices = [
        (SectionKind::SPARSITY, flags::SPARSE),
        (SectionKind::COREML, flags::ANE_COREML),
        (SectionKind::DRAFT_HEAD, flags::EAGLE_DRAFT),
    ];
    let held = appendices.iter().filter(|(kind, _)| has(*kind)).fold(totals.flags, |acc, (_, bit)| acc | bit);
    let declared = header.flags.get() & flags::KNOWN;
    if declared != held {
        sink(SquizdError::invalid(
            "flags-disagree",
            offset_of!(Header, flags) as u64,
            format!(
                "flags declare {} which the file lacks, and omit {} which it holds",
                names_of(declared & !held),
                names_of(held & !declared)
            ),
        ))?;
    }
    let bpw = (totals.bits as f64 / totals.elements.max(1) as f64) as f32;
    let found = header.compression_bpw.get();
    if found.to_bits() != bpw.to_bits() {
        sink(SquizdError::invalid(
            "header-bpw",
            offset_of!(Header, compression_bpw) as u64,
            format!("compression_bpw is {found}, the tensor table gives {bpw}"),
        ))?;
    }
    Ok(())
}

/// Flag names for a message.
fn names_of(bits: u32) -> String {
    let mut out = String::new();
    for (_, name) in flags::NAMES.iter().filter(|(bit, _)| bits & bit != 0) {
        if !out.is_empty() {
            out.push('+');
        }
        out.push_str(name);
    }
    if out.is_empty() { "nothing".into() } else { out }
}
