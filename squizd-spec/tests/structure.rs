//! Every structural rule, broken one at a time in the hand-assembled golden
//! file: the finding's code and byte offset must be the expected ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use squizd_spec::{
    ErrorKind, HashJob, Limits, MAX_FINDINGS, SquizdError, SquizdRef, Tables,
    digest::{header_checksum, root_digest, sha256},
    hash_jobs,
    layout::{Header, SectionEntry, TensorRecord},
    structure,
};
use std::mem::offset_of;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");

const STRINGS_AT: usize = 576;
const STRINGS_LENGTH: usize = 418;
const TENSORS_AT: usize = 1024;
const TENSORS_LENGTH: usize = 3192;

/// Recomputes table digests, root digest and checksum, so that only the
/// planted violation is left.
fn reseal(bytes: &mut [u8]) {
    for (entry, at, length) in [(0, STRINGS_AT, STRINGS_LENGTH), (1, TENSORS_AT, TENSORS_LENGTH)] {
        let digest = sha256(&bytes[at..at + length]);
        let field = section(entry) + offset_of!(SectionEntry, sha256);
        bytes[field..field + 32].copy_from_slice(&digest);
    }
    let (header, rest) = Header::mut_from_prefix(bytes).unwrap();
    let directory = <[SectionEntry]>::ref_from_bytes(&rest[..5 * 64]).unwrap();
    let strings = &rest[STRINGS_AT - 256..][..STRINGS_LENGTH];
    let tensors = &rest[TENSORS_AT - 256..][..TENSORS_LENGTH];
    header.root_digest = root_digest(header, directory, strings, tensors);
    header.checksum = header_checksum(header);
}

fn section(i: usize) -> usize {
    256 + 64 * i
}

fn tensor(i: usize) -> usize {
    TENSORS_AT + size_of::<TensorRecord>() * i
}

/// The toy with `bytes` at `at`, resealed.
fn broken(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut toy = TOY.to_vec();
    toy[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(&mut toy);
    toy
}

fn error(bytes: &[u8]) -> SquizdError {
    SquizdRef::parse(bytes, &Limits::DEFAULT).map(|_| ()).expect_err("must be refused")
}

#[track_caller]
fn refused(bytes: &[u8], code: &str, offset: usize) {
    let e = error(bytes);
    assert_eq!((e.code().0, e.offset()), (code, offset as u64), "{e}");
}

macro_rules! header {
    ($field:ident) => {
        offset_of!(Header, $field)
    };
}
macro_rules! entry {
    ($i:expr, $field:ident) => {
        section($i) + offset_of!(SectionEntry, $field)
    };
}
macro_rules! record {
    ($i:expr, $field:ident) => {
        tensor($i) + offset_of!(TensorRecord, $field)
    };
}

#[test]
fn resealing_changes_nothing_in_a_sound_file() {
    assert_eq!(broken(0, b"SQZD"), TOY);
}

#[test]
fn header_rules() {
    refused(&TOY[..255], "file-truncated", 255);
    refused(&[], "file-truncated", 0);
    refused(&broken(0, b"GGUF"), "magic", 0);
    refused(&broken(0, b"DZQS"), "endianness", 0);
    refused(&[b"junk".as_slice(), TOY].concat(), "prepended-data", 0);
    refused(&broken(4, &[0, 0]), "version", 4);
    refused(&broken(4, &[1, 0]), "version-lineage", 4);
    refused(&broken(4, &[9, 0]), "version", 4);
    refused(&broken(4, &[0, 2]), "version-major", 4);
    refused(&broken(header!(flags) + 1, &[0x08]), "header-flags", 6);
    refused(&broken(header!(arch), &[0x77]), "header-arch", 10);
    refused(&broken(header!(num_layers), &[0, 0]), "header-zero", 11);
    refused(&broken(header!(num_layers), &[0xff, 0xff]), "limit-layers", 11);
    refused(&broken(header!(hidden_dim), &[0; 4]), "header-zero", 13);
    refused(&broken(header!(num_heads), &[0; 2]), "header-zero", 17);
    refused(&broken(header!(vocab_size), &[0; 4]), "header-zero", 19);
    refused(&broken(header!(compression_bpw), &f32::NAN.to_le_bytes()), "header-bpw", 23);
    refused(&broken(header!(compression_bpw), &4.5f32.to_le_bytes()), "header-bpw", 23);
    refused(&broken(header!(sparsity_ratio), &1.5f32.to_le_bytes()), "header-sparsity", 27);
    refused(&broken(header!(pad), &[1]), "header-reserved", 39);
    refused(&broken(header!(header_size), &[0, 2]), "header-size", 40);
    refused(&broken(header!(reserved) + 7, &[1]), "header-reserved", 71);
    let mut unsealed = TOY.to_vec();
    unsealed[header!(checksum)] ^= 1;
    refused(&unsealed, "header-checksum", header!(checksum));
}

#[test]
fn length_rules() {
    refused(&TOY[..TOY.len() - 1], "file-truncated", header!(file_length));
    refused(&[TOY, &[0]].concat(), "trailing-data", header!(file_length));
    let longer = broken(header!(file_length), &(TOY.len() as u64 + 1).to_le_bytes());
    refused(&[&*longer, &[0]].concat(), "trailing-data", header!(file_length));
}

#[test]
fn directory_rules() {
    refused(&broken(header!(directory_offset), &[64]), "directory-offset", header!(directory_offset));
    refused(&broken(header!(section_count), &[0xff, 0xff]), "limit-sections", header!(section_count));
    refused(&broken(entry!(1, kind), &[0x10]), "section-duplicate", section(1));
    refused(&broken(entry!(1, kind), &[0x08]), "section-order", section(1));
    refused(&broken(entry!(3, kind), &[0x71]), "section-kind", section(3));
    refused(&broken(entry!(4, kind), &[0xa0]), "section-reserved", section(4));
    refused(&broken(entry!(0, flags), &[0]), "section-flags", entry!(0, flags));
    refused(&broken(entry!(4, flags), &[1]), "section-flags", entry!(4, flags));
    refused(&broken(entry!(4, flags), &[4]), "section-flags", entry!(4, flags));
    refused(&broken(entry!(0, flags), &[3]), "section-flags", entry!(0, flags));
    refused(&broken(entry!(0, offset), &[0, 1]), "section-in-header", entry!(0, offset));
    refused(&broken(entry!(0, offset), &577u64.to_le_bytes()), "section-misaligned", entry!(0, offset));
    refused(&broken(entry!(0, offset), &640u64.to_le_bytes()), "section-gap", entry!(0, offset));
    refused(&broken(entry!(1, offset), &960u64.to_le_bytes()), "section-overlap", entry!(1, offset));
    refused(&broken(entry!(1, offset), &u64::MAX.to_le_bytes()), "section-overflow", entry!(1, offset));
    refused(&broken(entry!(1, offset), &(1u64 << 40).to_le_bytes()), "section-past-end", entry!(1, offset));
    refused(&broken(entry!(4, stored_length), &[0; 8]), "section-empty", entry!(4, stored_length));
    refused(&broken(entry!(4, length), &[1]), "section-length", entry!(4, length));
    refused(&broken(entry!(2, stored_length), &[1]), "section-length", entry!(2, length));
    refused(&broken(entry!(0, stored_length), &[0xff; 8]), "section-length", entry!(0, length));
    refused(&broken(STRINGS_AT + STRINGS_LENGTH, &[1]), "padding", STRINGS_AT + STRINGS_LENGTH);
    refused(&broken(TENSORS_AT + TENSORS_LENGTH + 9, &[1]), "padding", TENSORS_AT + TENSORS_LENGTH + 9);
}

#[test]
fn a_missing_section_is_named() {
    // The metadata's kind becomes one that is optional: nothing else changes.
    let mut toy = TOY.to_vec();
    toy[entry!(3, kind)] = 0x60;
    toy[entry!(4, kind)] = 0x80;
    reseal(&mut toy);
    let findings = structure(&toy, &Limits::DEFAULT).0;
    assert!(findings.iter().any(|f| f.code().0 == "section-missing" && f.message().contains("metadata")));
}

#[test]
fn a_compressed_section_may_not_declare_a_bomb() {
    let mut toy = TOY.to_vec();
    toy[entry!(3, flags)] = 2;
    toy[entry!(3, length)..][..8].copy_from_slice(&(1u64 << 29).to_le_bytes());
    reseal(&mut toy);
    refused(&toy, "limit-inflated", entry!(3, length));
}

#[test]
fn name_rules() {
    refused(&broken(record!(1, name_offset), &[0]), "name-offset", record!(1, name_offset));
    refused(&broken(record!(0, name_length), &[0, 0]), "name-length", record!(0, name_length));
    refused(&broken(record!(0, name_length), &[0, 9]), "name-length", record!(0, name_length));
    refused(&broken(STRINGS_AT + 2, &[0xff]), "name-utf8", STRINGS_AT + 2);
    refused(&broken(STRINGS_AT + 3, &[0]), "name-control", STRINGS_AT + 3);
    refused(&broken(STRINGS_AT + 3, b"/"), "name-path", STRINGS_AT);
    refused(&broken(STRINGS_AT + 3, b"\\"), "name-path", STRINGS_AT);
    refused(&broken(STRINGS_AT + 3, b"x"), "tensor-name", record!(0, name_offset));
    let last = TENSORS_LENGTH / size_of::<TensorRecord>() - 1;
    refused(&broken(record!(last, name_length), &[200]), "name-range", record!(last, name_offset));
    refused(&broken(record!(last, name_length), &[1]), "tensor-name", record!(last, name_offset));
}

#[test]
fn tensor_rules() {
    refused(&broken(record!(0, role), &[0xee, 0xee]), "tensor-role", record!(0, role));
    refused(&broken(record!(0, part), &[9]), "tensor-role", record!(0, role));
    refused(&broken(record!(0, layer), &[0, 0]), "tensor-layer", record!(0, layer));
    refused(&broken(record!(1, layer), &[2, 0]), "tensor-layer", record!(1, layer));
    refused(&broken(record!(0, source_dtype), &[99]), "tensor-dtype", record!(0, source_dtype));
    refused(&broken(record!(0, experts), &[3]), "tensor-experts", record!(0, experts));
    refused(&broken(record!(0, reserved) + 2, &[1]), "tensor-reserved", record!(0, reserved) + 2);
    refused(&broken(record!(0, rank), &[0]), "tensor-rank", record!(0, rank));
    refused(&broken(record!(0, rank), &[7]), "tensor-rank", record!(0, rank));
    refused(&broken(record!(0, dims) + 16, &[1]), "tensor-dims", record!(0, dims) + 16);
    refused(&broken(record!(0, dims), &[0; 8]), "tensor-dims", record!(0, dims));
    refused(&broken(record!(0, dims), &[0xff; 8]), "tensor-dims", record!(0, dims));
    refused(
        &broken(record!(0, dims), &(1u64 << 40).to_le_bytes()),
        "tensor-length",
        record!(0, payload_length),
    );
    let huge = [(1u64 << 40).to_le_bytes(), (1u64 << 40).to_le_bytes()].concat();
    refused(&broken(record!(0, dims), &huge), "tensor-elements", record!(0, dims));
    refused(&broken(record!(0, codec), &[0xff, 0xff]), "tensor-codec", record!(0, codec));
    refused(&broken(record!(0, payload_length), &[1]), "tensor-length", record!(0, payload_length));
    refused(&broken(record!(1, payload_offset), &[0; 8]), "tensor-overlap", record!(1, payload_offset));
    refused(
        &broken(record!(1, payload_offset), &[0x0f, 0x0f]),
        "tensor-misaligned",
        record!(1, payload_offset),
    );
    refused(&broken(record!(1, payload_offset), &[0, 0x0f]), "tensor-gap", record!(1, payload_offset));
    refused(&broken(record!(1, payload_offset), &[0xff; 8]), "tensor-past-end", record!(1, payload_offset));
    refused(
        &broken(record!(1, payload_offset), &(1u64 << 40).to_le_bytes()),
        "tensor-past-end",
        record!(1, payload_offset),
    );
    refused(&broken(header!(flags), &[0]), "flags-disagree", header!(flags));
    refused(&broken(header!(flags), &[0x24]), "flags-disagree", header!(flags));
}

#[test]
fn every_codec_parameter_is_checked() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    for t in file.descs() {
        let at = record!(t.index, params) + 31;
        refused(&broken(at, &[1]), "tensor-params", at);
    }
}

#[test]
fn duplicate_names_are_found() {
    // Two norms of one layer swap roles: give the second the first's name.
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    let (a, b) = {
        let norms: Vec<_> =
            file.descs().filter(|t| t.name.starts_with("blk.") && t.dims.len() == 1).collect();
        let pair = norms.iter().flat_map(|a| norms.iter().map(move |b| (*a, *b)));
        pair.clone().find(|(a, b)| a.index < b.index && a.name.len() == b.name.len()).unwrap()
    };
    let mut toy = TOY.to_vec();
    let at = TOY.windows(b.name.len()).position(|w| w == b.name.as_bytes()).unwrap();
    toy[at..at + a.name.len()].copy_from_slice(a.name.as_bytes());
    for field in [offset_of!(TensorRecord, role), offset_of!(TensorRecord, layer)] {
        let (from, to) = (tensor(a.index) + field, tensor(b.index) + field);
        toy.copy_within(from..from + 2, to);
    }
    reseal(&mut toy);
    refused(&toy, "name-duplicate", tensor(b.index));
}

#[test]
fn unsealed_tables_fail_the_root_digest() {
    let mut toy = TOY.to_vec();
    toy[tensor(0) + offset_of!(TensorRecord, sha256)] ^= 1;
    let findings = structure(&toy, &Limits::DEFAULT).0;
    let found: Vec<_> = findings.iter().map(|f| (f.code().0, f.offset())).collect();
    assert_eq!(found, [("root-digest", header!(root_digest) as u64)]);
}

#[test]
fn every_payload_byte_is_hashed_or_zero_padding() {
    let payload = 16384..32768;
    for at in payload.step_by(61) {
        let mut toy = TOY.to_vec();
        toy[at] ^= 0x10;
        let file = SquizdRef::parse(&toy, &Limits::DEFAULT).unwrap();
        let findings: Vec<_> = hash_jobs(&file).iter().filter_map(|j| j.run().err()).collect();
        assert_eq!(findings.len(), 1, "byte {at}");
        assert!(["tensor-digest", "padding"].contains(&findings[0].code().0), "byte {at}: {}", findings[0]);
    }
}

#[test]
fn jobs_cover_the_file_once() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    let payload: u64 =
        hash_jobs(&file).iter().filter(|j| matches!(j, HashJob::Tensor { .. })).map(HashJob::bytes).sum();
    assert_eq!(payload, 16384);
    // The others read the sections, and one the digests of the tensors.
    let rest: u64 =
        hash_jobs(&file).iter().filter(|j| !matches!(j, HashJob::Tensor { .. })).map(HashJob::bytes).sum();
    let sections: u64 = file.directory().iter().map(|e| e.stored_length.get()).sum();
    assert_eq!(rest, sections - 16384 + 32 * 21);
}

#[test]
fn a_newer_minor_is_read_and_its_optional_sections_skipped() {
    let newer = broken(4, &[7, 1]);
    assert!(SquizdRef::parse(&newer, &Limits::DEFAULT).is_ok());
    let mut optional = newer.clone();
    optional[entry!(3, kind)] = 0x81;
    reseal(&mut optional);
    assert!(SquizdRef::parse(&optional, &Limits::DEFAULT).is_ok());
    optional[entry!(3, flags)] = 1;
    reseal(&mut optional);
    let e = error(&optional);
    assert_eq!(
        (e.kind(), e.code().0, e.offset()),
        (ErrorKind::Unsupported, "section-critical", section(3) as u64)
    );
    let mut critical_flag = newer.clone();
    critical_flag[header!(flags) + 3] = 0x80;
    reseal(&mut critical_flag);
    assert_eq!(error(&critical_flag).kind(), ErrorKind::Unsupported);
    let mut codec = newer;
    codec[record!(0, codec)] = 200;
    reseal(&mut codec);
    let file = SquizdRef::parse(&codec, &Limits::DEFAULT).unwrap();
    assert_eq!(file.desc(0).unwrap().geometry().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_prefix_says_what_it_needs() {
    let mut have = 0;
    let mut fetches = 0;
    loop {
        match Tables::parse_prefix(&TOY[..have], &Limits::DEFAULT) {
            Ok(tables) => {
                assert_eq!(tables.tensor_count(), 21);
                break;
            }
            Err(e) => match e.kind() {
                ErrorKind::Truncated { needed } => have = needed as usize,
                other => panic!("{other:?}: {e}"),
            },
        }
        fetches += 1;
    }
    assert!(fetches <= 4 && have <= 16384, "{fetches} fetches, {have} bytes");
}

/// Truncation at every byte: refused, never a panic.
#[test]
fn truncated_anywhere() {
    for length in 0..TOY.len() {
        assert!(SquizdRef::parse(&TOY[..length], &Limits::DEFAULT).is_err(), "{length} bytes");
    }
}

/// Every bit of header and tables: the flip is detected at structure level.
#[test]
fn flipped_anywhere_in_front_of_the_payload() {
    let mut toy = TOY.to_vec();
    for at in 0..TENSORS_AT + TENSORS_LENGTH {
        for bit in 0..8 {
            toy[at] ^= 1 << bit;
            let (findings, _) = structure(&toy, &Limits::DEFAULT);
            assert!(!findings.is_empty(), "byte {at} bit {bit} went unnoticed");
            toy[at] ^= 1 << bit;
        }
    }
    assert_eq!(toy, TOY);
}

#[test]
fn a_wrong_directory_never_panics() {
    // Resealed flips reach the rules behind the checksum.
    for at in (256..576).chain(TENSORS_AT..TENSORS_AT + TENSORS_LENGTH) {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let toy = broken(at, &[value]);
            let (findings, file) = structure(&toy, &Limits::DEFAULT);
            let sound = findings.is_empty() && file.is_some();
            assert!(sound || !findings.is_empty(), "byte {at} = {value}");
            if let Some(file) = file {
                assert_eq!(file.bytes().len(), toy.as_bytes().len());
            }
        }
    }
}

/// More findings than are kept: those, and the one that ended the search.
#[test]
fn findings_are_capped() {
    // A record for each byte of the string table, wrong in role, part, dtype, rank and a reserved byte.
    const LENGTH: usize = STRINGS_LENGTH * size_of::<TensorRecord>();
    let payload = section_start(2);
    let moved = (TENSORS_AT + LENGTH).next_multiple_of(payload) - payload;
    let mut bytes = TOY[..TENSORS_AT].to_vec();
    bytes[STRINGS_AT..STRINGS_AT + STRINGS_LENGTH].fill(b'x');
    for name in 0..STRINGS_LENGTH as u32 {
        let mut record = TensorRecord::new_zeroed();
        (record.name_offset, record.name_length) = (name.into(), 1.into());
        (record.role, record.part, record.source_dtype, record.reserved[0]) = (0xfff0.into(), 9, 255, 1);
        bytes.extend(record.as_bytes());
    }
    bytes.resize(payload + moved, 0);
    bytes.extend(&TOY[payload..]);
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(section(1) + 16, LENGTH as u64);
    put(section(1) + 24, LENGTH as u64);
    for i in 2..5 {
        put(section(i) + 8, (section_start(i) + moved) as u64);
    }
    put(offset_of!(Header, file_length), (TOY.len() + moved) as u64);
    let (header, _) = Header::mut_from_prefix(&mut bytes).unwrap();
    header.checksum = header_checksum(header);
    let (found, file) = structure(&bytes, &Limits::DEFAULT);
    assert!(file.is_none());
    assert_eq!(found.len(), MAX_FINDINGS + 1, "{:?}", found.last());
}

/// Where the toy's section `i` lies.
fn section_start(i: usize) -> usize {
    u64::from_le_bytes(TOY[section(i) + 8..section(i) + 16].try_into().unwrap()) as usize
}
