//! EAGLE draft head appendix: a small transformer that drafts tokens from the
//! hidden states of two layers of the base model.
//!
//! ```text
//! 0    Head
//! 128  token map u32[token_map_length]: base token of each draft token
//! ..   string table, at the next multiple of 64
//! ..   tensor records, at the next multiple of 64
//! ..   payload, at the next multiple of 256, to the end of the section
//! ```
//!
//! Strings, records and payload obey the rules of the file's own tables; payload
//! offsets count from the start of this payload. Tensor roles are those of the
//! file, with `draft_fc` in addition.

use super::{Report, check_version, span::Span};
use crate::{
    CodecId, DType, ErrorKind, Hex, Limits, NO_LAYER, Params, Part, Result, Role, SquizdError, TensorDesc,
    check::{
        first,
        records::{Scope, table},
    },
    digest::{Sha, sha256},
    layout::{Header, MAX_RANK, SECTION_ALIGN, TENSOR_ALIGN, TensorRecord},
    view::TensorView,
};
use alloc::{format, vec::Vec};
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Layout version this build reads and writes.
pub const VERSION: u16 = 1;

/// Start of the section: 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// [`VERSION`].
    pub version: U16,
    /// Transformer layers of the draft head.
    pub n_layers: u8,
    /// Base layers whose output hidden states the head reads, ascending.
    pub source_layers: [u8; 2],
    /// Zero.
    pub reserved: [u8; 3],
    /// Residual width of the draft head.
    pub d_model: U32,
    /// Width of the base's hidden states.
    pub d_hidden: U32,
    /// Tokens the draft head scores.
    pub vocab_size: U32,
    /// Entries of the token map: 0, or `vocab_size`.
    pub token_map_length: U32,
    /// First 8 bytes of the distillation data's SHA-256.
    pub calibration_hash: U64,
    /// `weights_digest` of the base.
    pub weights_digest: Sha,
    /// Bytes of the string table.
    pub strings_length: U32,
    /// Tensor records.
    pub tensor_count: U32,
    /// Bytes of the payload.
    pub payload_length: U64,
    /// Zero.
    pub reserved2: [u8; 48],
}

const HEAD_SIZE: u64 = size_of::<Head>() as u64;
const _: () = assert!(HEAD_SIZE == 128 && offset_of!(Head, strings_length) == 64);

/// Where the parts lie, from the start of the section.
struct Parts {
    map_end: u64,
    strings: u64,
    strings_end: u64,
    records: u64,
    records_end: u64,
    payload: u64,
    end: u64,
}

impl Parts {
    fn of(head: &Head) -> Self {
        let map_end = HEAD_SIZE + 4 * u64::from(head.token_map_length.get());
        let strings = map_end.next_multiple_of(SECTION_ALIGN);
        let strings_end = strings + u64::from(head.strings_length.get());
        let records = strings_end.next_multiple_of(SECTION_ALIGN);
        let records_end = records + size_of::<TensorRecord>() as u64 * u64::from(head.tensor_count.get());
        let payload = records_end.next_multiple_of(TENSOR_ALIGN);
        let end = payload.saturating_add(head.payload_length.get());
        Self { map_end, strings, strings_end, records, records_end, payload, end }
    }
}

/// The appendix, borrowed from the section's bytes.
#[derive(Clone, Copy, Debug)]
pub struct DraftHead<'a> {
    /// Fixed-size fields.
    pub head: &'a Head,
    /// Base token of each draft token; empty when the vocabularies are one.
    pub token_map: &'a [U32],
    base: u64,
    strings: &'a str,
    records: &'a [TensorRecord],
    payload: &'a [u8],
    payload_at: u64,
}

impl<'a> DraftHead<'a> {
    /// Reads the section whose first byte has absolute offset `base`: sizes,
    /// placement and tables. [`DraftHead::check`] compares with the base model
    /// and hashes the payload.
    pub fn parse(bytes: &'a [u8], base: u64, header: &Header, limits: &Limits) -> Result<Self> {
        let span = Span::new(bytes, base);
        let head: &Head = span.record(0, "section head")?;
        check_version(head.version.get(), VERSION, span.at(0), "draft head appendix")?;
        let reserved = [
            (offset_of!(Head, reserved), &head.reserved[..]),
            (offset_of!(Head, reserved2), &head.reserved2),
        ];
        for (at, field) in reserved {
            span.zero(at as u64, field, "appendix-reserved", "reserved byte")?;
        }
        check_caps(head, span, limits)?;
        let parts = Parts::of(head);
        let token_map = span.slice(HEAD_SIZE, u64::from(head.token_map_length.get()), "token map")?;
        let names = span.bytes(parts.strings, u64::from(head.strings_length.get()), "string table")?;
        let count = u64::from(head.tensor_count.get());
        let records: &[TensorRecord] = span.slice(parts.records, count, "tensor table")?;
        let payload = span.bytes(parts.payload, head.payload_length.get(), "payload")?;
        span.ends_at(parts.end, "the draft head")?;
        for (from, to) in [
            (parts.map_end, parts.strings),
            (parts.strings_end, parts.records),
            (parts.records_end, parts.payload),
        ] {
            span.padding(from, to)?;
        }
        let scope = Scope {
            limits,
            newer: header.version.get() & 0xff > 0,
            draft: true,
            layers: u16::from(head.n_layers),
            room: head.payload_length.get(),
            names_at: span.at(parts.strings),
            table_at: span.at(parts.records),
        };
        let (strings, totals) = first(|sink| table(scope, names, records, sink))?;
        if totals.payload_end != head.payload_length.get() {
            let message = format!(
                "payload_length is {}, the last tensor ends at {}",
                head.payload_length, totals.payload_end
            );
            let at = span.at(offset_of!(Head, payload_length) as u64);
            return Err(SquizdError::invalid("draft-payload-length", at, message));
        }
        let payload_at = span.at(parts.payload);
        Ok(Self { head, token_map, base, strings, records, payload, payload_at })
    }

    /// The tensors with their payloads, in table order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'a>> + use<'a> {
        let this = *self;
        this.records.iter().enumerate().map(move |(i, record)| {
            let start = record.payload_offset.get() as usize;
            let end = start.saturating_add(record.payload_length.get() as usize);
            TensorView {
                desc: TensorDesc::of(i, record, this.strings, this.payload_at),
                data: this.payload.get(start..end).unwrap_or_default(),
            }
        })
    }

    /// Reports disagreements with the base model (its header and
    /// `weights_digest`), bad token maps, and payloads that differ from their
    /// SHA-256.
    pub fn check(&self, header: &Header, base_weights: &Sha, report: Report<'_>) -> Result<()> {
        let report: Report<'_> = &mut |e: SquizdError| report(e.within("draft head"));
        self.check_base(header, base_weights, report)?;
        self.check_token_map(header.vocab_size.get(), report)?;
        self.check_shapes(report)?;
        self.check_payload(report)
    }

    fn at(&self, field: usize) -> u64 {
        self.base.saturating_add(field as u64)
    }

    fn check_base(&self, header: &Header, base_weights: &Sha, report: Report<'_>) -> Result<()> {
        let head = self.head;
        if head.weights_digest != *base_weights {
            let message = format!(
                "draft head was trained for weights {}, this file's are {}",
                Hex(&head.weights_digest),
                Hex(base_weights)
            );
            report(SquizdError::invalid("draft-base", self.at(offset_of!(Head, weights_digest)), message))?;
        }
        if head.d_hidden != header.hidden_dim {
            let message =
                format!("d_hidden is {}, the base's hidden_dim {}", head.d_hidden, header.hidden_dim);
            report(SquizdError::invalid("draft-hidden", self.at(offset_of!(Head, d_hidden)), message))?;
        }
        let [low, high] = head.source_layers;
        if low > high || u16::from(high) >= header.num_layers.get() {
            let message =
                format!("source_layers are {low} and {high}, must ascend within 0..{}", header.num_layers);
            let at = self.at(offset_of!(Head, source_layers));
            report(SquizdError::invalid("draft-source-layers", at, message))?;
        }
        Ok(())
    }

    fn check_token_map(&self, base_vocab: u32, report: Report<'_>) -> Result<()> {
        let vocab = self.head.vocab_size.get();
        if self.token_map.is_empty() {
            if vocab != base_vocab {
                let message = format!("vocab_size is {vocab} without a token map, the base has {base_vocab}");
                report(SquizdError::invalid("draft-vocab", self.at(offset_of!(Head, vocab_size)), message))?;
            }
            return Ok(());
        }
        let mut floor = 0u64;
        for (i, token) in self.token_map.iter().enumerate() {
            let token = token.get();
            if u64::from(token) < floor || token >= base_vocab {
                let at = self.at(HEAD_SIZE as usize + 4 * i);
                let message = format!("token_map[{i}] is {token}, must ascend within {floor}..{base_vocab}");
                return report(SquizdError::invalid("draft-token-map", at, message));
            }
            floor = u64::from(token) + 1;
        }
        Ok(())
    }

    /// The two tensors whose shape the head's fields fix.
    fn check_shapes(&self, report: Report<'_>) -> Result<()> {
        let head = self.head;
        let wide = [u64::from(head.d_model.get()), 2 * u64::from(head.d_hidden.get())];
        let tall = [u64::from(head.vocab_size.get()), u64::from(head.d_model.get())];
        for (role, want) in [(Role::DRAFT_FC, wide), (Role::OUTPUT, tall)] {
            let found = self.tensors().find(|t| t.role == role && t.part == Part::WEIGHT);
            let at = self.at(Parts::of(head).records as usize);
            match found {
                None => {
                    let message = format!("there is no {role}.weight, needed with dims {want:?}");
                    report(SquizdError::invalid("draft-missing", at, message))?;
                }
                Some(t) if t.dims[..] != want => {
                    let dims_at = t.index * size_of::<TensorRecord>() + offset_of!(TensorRecord, dims);
                    let message = format!("{} has dims {:?}, must be {want:?}", t.name, t.dims);
                    report(SquizdError::invalid("draft-shape", at + dims_at as u64, message))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_payload(&self, report: Report<'_>) -> Result<()> {
        let mut end = 0usize;
        for t in self.tensors() {
            let start = (t.offset - self.payload_at) as usize;
            let gap = self.payload.get(end..start).unwrap_or_default();
            if let Some(i) = gap.iter().position(|b| *b != 0) {
                let at = self.payload_at + (end + i) as u64;
                report(SquizdError::invalid(
                    "appendix-padding",
                    at,
                    format!("padding byte {at} is not zero"),
                ))?;
            }
            let digest = sha256(t.data);
            if digest != *t.sha256 {
                let message = format!("digest is {}, the bytes give {}", Hex(t.sha256), Hex(&digest));
                report(SquizdError::invalid("tensor-digest", t.offset, message).within(t.name))?;
            }
            end = start + t.data.len();
        }
        Ok(())
    }
}

/// Counts against the limits, and fields that are wrong in themselves.
fn check_caps(head: &Head, span: Span<'_>, limits: &Limits) -> Result<()> {
    let caps = [
        ("n_layers", offset_of!(Head, n_layers), u64::from(head.n_layers), u64::from(limits.draft_layers)),
        (
            "tensor_count",
            offset_of!(Head, tensor_count),
            head.tensor_count.get().into(),
            limits.tensors.into(),
        ),
        (
            "strings_length",
            offset_of!(Head, strings_length),
            head.strings_length.get().into(),
            limits.strings,
        ),
    ];
    for (name, at, value, cap) in caps {
        if value > cap {
            let message = format!("{name} is {value}, limit {cap}");
            return Err(SquizdError::new(ErrorKind::Limit, "limit-draft-head", span.at(at as u64), message));
        }
    }
    let nonzero = [
        ("n_layers", offset_of!(Head, n_layers), u32::from(head.n_layers)),
        ("d_model", offset_of!(Head, d_model), head.d_model.get()),
        ("d_hidden", offset_of!(Head, d_hidden), head.d_hidden.get()),
        ("vocab_size", offset_of!(Head, vocab_size), head.vocab_size.get()),
    ];
    for (name, at, value) in nonzero {
        if value == 0 {
            let message = format!("{name} is 0, must be at least 1");
            return Err(SquizdError::invalid("draft-zero", span.at(at as u64), message));
        }
    }
    let (map, vocab) = (head.token_map_length.get(), head.vocab_size.get());
    if map != 0 && map != vocab {
        let at = span.at(offset_of!(Head, token_map_length) as u64);
        let message = format!("token_map_length is {map}, must be 0 or vocab_size, {vocab}");
        return Err(SquizdError::invalid("draft-token-map", at, message));
    }
    Ok(())
}

/// One encoded tensor, for [`write`].
#[derive(Clone, Copy, Debug)]
pub struct TensorData<'a> {
    /// Stored name: [`crate::canonical_name`] of the role.
    pub name: &'a str,
    /// What the tensor does.
    pub role: Role,
    /// Layer of the draft head, for per-layer roles.
    pub layer: Option<u16>,
    /// Weight or bias.
    pub part: Part,
    /// Experts stacked along the first dimension, 0 for none.
    pub experts: u16,
    /// Element type of the source.
    pub source_dtype: DType,
    /// Dimensions, outermost first.
    pub dims: &'a [u64],
    /// Codec of the payload.
    pub codec: CodecId,
    /// Codec parameters.
    pub params: Params,
    /// Encoded payload.
    pub payload: &'a [u8],
}

/// The section's bytes. Of `head`, the caller fills everything but
/// `version`, the lengths and counts, which follow from the other arguments.
///
/// # Errors
/// Everything that [`DraftHead::parse`] and [`DraftHead::check`] would refuse
/// for a base of this header and the head's `weights_digest`; offsets are
/// relative to the section.
pub fn write(
    head: &Head,
    token_map: &[u32],
    tensors: &[TensorData<'_>],
    header: &Header,
    limits: &Limits,
) -> Result<Vec<u8>> {
    let mut strings: Vec<u8> = Vec::new();
    let mut records = Vec::with_capacity(tensors.len());
    let mut payload: Vec<u8> = Vec::new();
    for t in tensors {
        pad(&mut payload, TENSOR_ALIGN);
        records.push(record(t, strings.len() as u32, payload.len() as u64)?);
        strings.extend_from_slice(t.name.as_bytes());
        payload.extend_from_slice(t.payload);
    }
    let head = Head {
        version: VERSION.into(),
        token_map_length: (token_map.len() as u32).into(),
        strings_length: (strings.len() as u32).into(),
        tensor_count: (records.len() as u32).into(),
        payload_length: (payload.len() as u64).into(),
        ..*head
    };
    let mut out = head.as_bytes().to_vec();
    for token in token_map {
        out.extend_from_slice(&token.to_le_bytes());
    }
    pad(&mut out, SECTION_ALIGN);
    out.extend_from_slice(&strings);
    pad(&mut out, SECTION_ALIGN);
    out.extend_from_slice(records.as_bytes());
    pad(&mut out, TENSOR_ALIGN);
    out.extend_from_slice(&payload);
    DraftHead::parse(&out, 0, header, limits)?.check(header, &head.weights_digest, &mut |e| Err(e))?;
    Ok(out)
}

fn record(t: &TensorData<'_>, name_offset: u32, payload_offset: u64) -> Result<TensorRecord> {
    let too_long = |what: &str, n: usize| {
        SquizdError::invalid("draft-shape", 0, format!("{}: {what} has {n} entries", t.name))
    };
    let mut dims = [U64::new(0); MAX_RANK];
    if t.dims.len() > MAX_RANK {
        return Err(too_long("dims", t.dims.len()));
    }
    for (slot, d) in dims.iter_mut().zip(t.dims) {
        *slot = (*d).into();
    }
    let name_length = u16::try_from(t.name.len()).map_err(|_| too_long("name", t.name.len()))?;
    Ok(TensorRecord {
        name_offset: name_offset.into(),
        name_length: name_length.into(),
        role: t.role.0.into(),
        layer: t.layer.unwrap_or(NO_LAYER).into(),
        experts: t.experts.into(),
        codec: t.codec.0.into(),
        source_dtype: t.source_dtype.0,
        rank: t.dims.len() as u8,
        part: t.part.0,
        reserved: [0; 7],
        dims,
        params: t.params,
        payload_offset: payload_offset.into(),
        payload_length: (t.payload.len() as u64).into(),
        sha256: sha256(t.payload),
    })
}

fn pad(out: &mut Vec<u8>, to: u64) {
    out.resize(out.len().next_multiple_of(to as usize), 0);
}

#[cfg(test)]
#[path = "draft_head_tests.rs"]
mod tests;
