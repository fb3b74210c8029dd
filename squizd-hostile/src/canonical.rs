//! A file written again from what its reader understood: if the reader took
//! every byte's meaning, and there is one encoding, the bytes are the same.

use squizd_spec::{
    CodecId, SectionKind, SquizdRef,
    digest::{header_checksum, root_digest, sha256, sha256_of},
    layout::{
        HEADER_SIZE, Header, MAGIC, MAX_RANK, PAGE, SectionEntry, TENSOR_ALIGN, TensorRecord, flags,
        section_flags,
    },
    section_rules,
};
use zerocopy::{FromZeros, IntoBytes};

/// The one encoding of a file's contents, in the version that `file` states.
pub fn encode(file: &SquizdRef<'_>) -> Vec<u8> {
    let (mut strings, mut records, mut payload, mut digests) =
        (Vec::new(), Vec::<TensorRecord>::new(), Vec::new(), Vec::new());
    let (mut bits, mut elements, mut summary) = (0u128, 0u128, 0);
    for t in file.tensors() {
        payload.resize(payload.len().next_multiple_of(TENSOR_ALIGN as usize), 0);
        let mut dims = [0; MAX_RANK];
        dims[..t.dims.len()].copy_from_slice(&t.dims);
        let mut r = TensorRecord::new_zeroed();
        r.name_offset = (strings.len() as u32).into();
        r.name_length = (t.name.len() as u16).into();
        r.role = t.role.0.into();
        r.layer = t.layer.unwrap_or(squizd_spec::NO_LAYER).into();
        r.experts = t.experts.into();
        r.codec = t.codec.0.into();
        r.source_dtype = t.source_dtype.0;
        r.rank = t.dims.len() as u8;
        r.part = t.part.0;
        r.dims = dims.map(Into::into);
        r.params = *t.params;
        r.payload_offset = (payload.len() as u64).into();
        r.payload_length = (t.data.len() as u64).into();
        r.sha256 = sha256(t.data);
        records.push(r);
        digests.push(r.sha256);
        strings.extend(t.name.as_bytes());
        payload.extend(t.data);
        bits += 8 * t.data.len() as u128;
        elements += u128::from(t.elements());
        summary |= CodecId(t.codec.0).flag();
    }
    payload.resize(payload.len().next_multiple_of(PAGE as usize), 0);

    let mut directory = Vec::<SectionEntry>::new();
    let mut placed: Vec<(u64, &[u8])> = Vec::new();
    let count = file.directory().len() as u64;
    let mut end = HEADER_SIZE + count * size_of::<SectionEntry>() as u64;
    for entry in file.directory() {
        let kind = SectionKind(entry.kind.get());
        let (data, digest): (&[u8], _) = match kind {
            SectionKind::STRINGS => (&strings, sha256(&strings)),
            SectionKind::TENSORS => (records.as_bytes(), sha256(records.as_bytes())),
            SectionKind::PAYLOAD => (&payload, sha256_of(digests.iter().map(<[u8; 32]>::as_slice))),
            kind => {
                let data = file.section(kind).map_or(&[][..], |s| s.data);
                (data, sha256(data))
            }
        };
        let offset = end.next_multiple_of(section_rules::alignment(kind));
        let zstd = entry.flags.get() & section_flags::ZSTD;
        let length = if zstd == 0 { data.len() as u64 } else { entry.length.get() };
        let critical = if section_rules::is_critical(kind) { section_flags::CRITICAL } else { 0 };
        directory.push(SectionEntry {
            kind: kind.0.into(),
            flags: (critical | zstd).into(),
            offset: offset.into(),
            stored_length: (data.len() as u64).into(),
            length: length.into(),
            sha256: digest,
        });
        placed.push((offset, data));
        end = offset + data.len() as u64;
        summary |= match kind {
            SectionKind::SPARSITY => flags::SPARSE,
            SectionKind::COREML => flags::ANE_COREML,
            SectionKind::DRAFT_HEAD => flags::EAGLE_DRAFT,
            _ => 0,
        };
    }

    let found = file.header();
    let mut header = Header::new_zeroed();
    header.magic = MAGIC;
    header.version = found.version;
    header.flags = summary.into();
    header.arch = found.arch;
    header.num_layers = found.num_layers;
    header.hidden_dim = found.hidden_dim;
    header.num_heads = found.num_heads;
    header.vocab_size = found.vocab_size;
    header.compression_bpw = ((bits as f64 / elements.max(1) as f64) as f32).into();
    header.sparsity_ratio = found.sparsity_ratio;
    header.calibration_hash = found.calibration_hash;
    header.header_size = (HEADER_SIZE as u32).into();
    header.section_count = (count as u32).into();
    header.file_length = end.into();
    header.directory_offset = HEADER_SIZE.into();
    header.root_digest = root_digest(&header, &directory, &strings, records.as_bytes());
    header.checksum = header_checksum(&header);

    let mut out = vec![0; end as usize];
    out[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    out[size_of::<Header>()..][..directory.as_bytes().len()].copy_from_slice(directory.as_bytes());
    for (offset, data) in placed {
        out[offset as usize..][..data.len()].copy_from_slice(data);
    }
    out
}
