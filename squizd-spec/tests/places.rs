//! Where things may lie, to the byte: what is refused just outside a bound
//! passes just inside it, and what a later minor version may add passes in one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use squizd_hostile::seal::Layout;
use squizd_spec::{
    ErrorKind, Limits, Result, Role, SquizdError, SquizdRef, Tables,
    layout::{Header, SectionEntry, TensorRecord},
    structure,
};
use std::mem::offset_of;

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
const STRINGS_END: u64 = 994;
const TENSORS_AT: usize = 1024;
const TENSORS_LENGTH: u64 = 3192;

/// Bytes for a place.
type Edit<'a> = (usize, &'a [u8]);

/// The toy with these bytes at these places, sealed again.
fn edited(edits: &[Edit<'_>]) -> Vec<u8> {
    let mut toy = TOY.to_vec();
    for (at, bytes) in edits {
        toy[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    Layout::of(TOY).unwrap().seal(&mut toy);
    toy
}

fn verdict<T>(parsed: Result<T>) -> Option<(&'static str, u64)> {
    parsed.err().map(|e| (e.code().0, e.offset()))
}

fn parsed(edits: &[Edit<'_>]) -> Option<(&'static str, u64)> {
    verdict(SquizdRef::parse(&edited(edits), &Limits::DEFAULT))
}

macro_rules! header {
    ($field:ident) => {
        offset_of!(Header, $field)
    };
}
macro_rules! entry {
    ($i:expr, $field:ident) => {
        256 + 64 * $i + offset_of!(SectionEntry, $field)
    };
}
macro_rules! record {
    ($i:expr, $field:ident) => {
        TENSORS_AT + size_of::<TensorRecord>() * $i + offset_of!(TensorRecord, $field)
    };
}

#[test]
fn a_misplaced_section_is_called_by_what_it_meets() {
    let at = entry!(1, offset);
    let code =
        |offset: u64| parsed(&[(at, &offset.to_le_bytes())]).map(|(code, found)| (code, found == at as u64));
    // The directory ends at byte 576, the strings before the table at byte 994.
    assert_eq!(code(575), Some(("section-in-header", true)));
    assert_eq!(code(576), Some(("section-overlap", true)));
    assert_eq!(code(STRINGS_END - 1), Some(("section-overlap", true)));
    assert_eq!(code(STRINGS_END), Some(("section-misaligned", true)));
    assert_eq!(code(TENSORS_AT as u64), None);
    assert_eq!(code(TENSORS_AT as u64 + 1), Some(("section-misaligned", true)));
    assert_eq!(code(TENSORS_AT as u64 + 64), Some(("section-gap", true)));
}

/// A prefix has no end of file to look at: the header's word counts.
#[test]
fn the_directory_lies_in_the_file() {
    let front = |length: u64| {
        let file = edited(&[(header!(file_length), &length.to_le_bytes())]);
        verdict(Tables::parse_prefix(&file[..16384], &Limits::DEFAULT))
    };
    assert_eq!(front(575), Some(("directory-past-end", header!(section_count) as u64)));
    assert_eq!(front(576), Some(("section-past-end", entry!(0, offset) as u64)));
    assert_eq!(front(STRINGS_END - 1), Some(("section-past-end", entry!(0, offset) as u64)));
    assert_eq!(front(STRINGS_END), Some(("section-past-end", entry!(1, offset) as u64)));
    assert_eq!(front(TOY.len() as u64), None);
}

#[test]
fn a_table_is_whole_records() {
    let length = (TENSORS_LENGTH - 1).to_le_bytes();
    let edits: [Edit<'_>; 2] = [(entry!(1, stored_length), &length), (entry!(1, length), &length)];
    assert_eq!(parsed(&edits), Some(("tensors-length", TENSORS_AT as u64)));
}

/// Both the value's own rule and the table's disagree with a negative or
/// infinite share: two findings.
#[test]
fn bits_per_weight_are_a_number() {
    for bpw in [-1.0f32, f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
        let file = edited(&[(header!(compression_bpw), &bpw.to_le_bytes())]);
        let findings = structure(&file, &Limits::DEFAULT).0;
        let messages: Vec<_> = findings.iter().map(SquizdError::message).collect();
        assert!(findings.iter().all(|f| f.code().0 == "header-bpw"), "{messages:?}");
        assert!(
            messages.len() == 2 && messages[0].contains("must be finite and not negative"),
            "{messages:?}"
        );
    }
    let findings = structure(&edited(&[(header!(compression_bpw), &0f32.to_le_bytes())]), &Limits::DEFAULT).0;
    assert_eq!(findings.len(), 1, "0 is a number like any other: {findings:?}");
}

/// What passes in a file of version 1.1 and what is refused in one of 1.0.
#[test]
fn a_later_minor_version_may_add() {
    let role: &[u8] = &[5, 0];
    let additions: [(&str, &[Edit<'_>]); 9] = [
        ("header-reserved", &[(header!(pad), &[1])]),
        ("header-reserved", &[(header!(reserved) + 3, &[1])]),
        ("header-flags", &[(header!(flags) + 2, &[1])]),
        ("header-arch", &[(header!(arch), &[0x77])]),
        ("tensor-role", &[(record!(0, role), role)]),
        ("tensor-role", &[(record!(0, role), role), (record!(0, experts), &[3])]),
        ("tensor-role", &[(record!(0, part), &[9])]),
        ("tensor-dtype", &[(record!(0, source_dtype), &[99])]),
        ("tensor-reserved", &[(record!(0, reserved) + 2, &[1])]),
    ];
    for (code, edits) in additions {
        assert_eq!(parsed(edits).map(|v| v.0), Some(code), "{edits:?}");
        let later = [edits, &[(header!(version), &[1])]].concat();
        assert_eq!(parsed(&later), None, "{edits:?}");
    }
    // A known role keeps its rules.
    let version: Edit<'_> = (header!(version), &[1]);
    let experts = record!(0, experts);
    assert_eq!(parsed(&[(experts, &[3]), version]), Some(("tensor-experts", experts as u64)));
    // The upper eight flags are those that a reader must know.
    let file = edited(&[(header!(flags) + 3, &[1]), version]);
    let e = SquizdRef::parse(&file, &Limits::DEFAULT).expect_err("a critical flag");
    assert_eq!((e.kind(), e.code().0, e.offset()), (ErrorKind::Unsupported, "header-flags", 6));
}

/// Padding is looked at wherever sections leave room, even where they should not.
#[test]
fn bytes_in_front_of_the_first_section_are_padding() {
    let mut file = TOY.to_vec();
    // Strings and table 64 bytes further on, and a byte where the strings began.
    file.copy_within(576..TENSORS_AT + TENSORS_LENGTH as usize, 640);
    file[576..640].fill(0);
    file[600] = 7;
    for (i, offset) in [(0, 640u64), (1, TENSORS_AT as u64 + 64)] {
        file[entry!(i, offset)..][..8].copy_from_slice(&offset.to_le_bytes());
    }
    Layout::of(TOY).unwrap().seal_front(&mut file);
    let found: Vec<_> =
        structure(&file, &Limits::DEFAULT).0.iter().map(|f| (f.code().0, f.offset())).collect();
    assert_eq!(found, [("section-gap", entry!(0, offset) as u64), ("padding", 600)]);
}

/// Tensor 1 has 32 bytes at payload offset 256.
#[test]
fn a_misplaced_payload_is_called_by_what_it_meets() {
    let at = record!(2, payload_offset);
    let code = |offset: u64| parsed(&[(at, &offset.to_le_bytes())]);
    assert_eq!(code(287), Some(("tensor-overlap", at as u64)));
    assert_eq!(code(288), Some(("tensor-misaligned", at as u64)));
    assert_eq!(code(512), None);
    assert_eq!(code(768), Some(("tensor-gap", at as u64)));
}

/// The last tensor ends at payload byte 11776, no multiple of a page.
#[test]
fn a_payload_section_holds_its_tensors() {
    let codes = |length: u64| {
        let length = length.to_le_bytes();
        let file = edited(&[(entry!(2, stored_length), &length), (entry!(2, length), &length)]);
        let findings = structure(&file, &Limits::DEFAULT).0;
        findings.iter().filter(|f| f.offset() == 16384).map(|f| f.code().0).collect::<Vec<_>>()
    };
    assert_eq!(codes(11775), ["tensor-past-end"]);
    assert_eq!(codes(11776), ["payload-length"]);
    assert_eq!(codes(16384), [""; 0]);
}

#[test]
fn dots_are_no_names() {
    let strings = 576;
    for dots in [".", ".."] {
        let edits = [(strings, dots.as_bytes()), (record!(0, name_length), &[dots.len() as u8, 0])];
        assert_eq!(parsed(&edits), Some(("name-path", strings as u64)), "{dots}");
    }
}

#[test]
fn six_dimensions_are_allowed() {
    let dims: Vec<u8> = [16u64, 1, 1, 1, 1, 8].iter().flat_map(|d| d.to_le_bytes()).collect();
    assert_eq!(parsed(&[(record!(0, rank), &[6]), (record!(0, dims), &dims)]), None);
}

/// Tensor 0 is [16, 8], tensor 7 (the first layer's gate) [36, 8], the norm
/// before the last [8].
#[test]
fn experts_lead_the_dimensions_of_stacked_tensors() {
    let refused = |tensor: usize, role: Role, experts: u8| {
        let file = edited(&[
            (record!(tensor, role), &role.0.to_le_bytes()),
            (record!(tensor, experts), &[experts, 0]),
        ]);
        let findings = structure(&file, &Limits::DEFAULT).0;
        let at = record!(tensor, experts) as u64;
        findings.iter().any(|f| (f.code().0, f.offset()) == ("tensor-experts", at))
    };
    for (tensor, role, experts, expected) in [
        (0, Role::OTHER, 0, false),
        (0, Role::OTHER, 16, false),
        (0, Role::OTHER, 3, true),
        (0, Role::OTHER, 8, true),
        (19, Role::OTHER, 0, false),
        (19, Role::OTHER, 8, true),
        (7, Role::MOE_GATE, 36, false),
        (7, Role::MOE_GATE, 0, true),
        (7, Role::MOE_GATE, 3, true),
        (0, Role::TOKEN_EMBD, 0, false),
        (0, Role::TOKEN_EMBD, 16, true),
    ] {
        assert_eq!(
            refused(tensor, role, experts),
            expected,
            "tensor {tensor}, role {role}, {experts} experts"
        );
    }
}

/// What a message says beside code and offset.
#[test]
fn messages_state_what_is_expected() {
    let message = |edits: &[Edit<'_>]| {
        let file = edited(edits);
        String::from(SquizdRef::parse(&file, &Limits::DEFAULT).expect_err("refused").message())
    };
    assert_eq!(message(&[(4, &[0, 0])]), "version is 0, must be 0x0100");
    let says = |at: usize, byte: u8, text: &str| {
        let message = message(&[(at, &[byte])]);
        assert!(message.contains(text), "{message}");
    };
    says(576, b"X"[0], "must be \"token_embd.weight\"");
    says(576 + 17, b"x"[0], "must be \"blk.0.attn_norm.weight\"");
    says(header!(flags), 0, "declare nothing which the file lacks, and omit INT4 which it holds");
    says(header!(flags), 0x65, "declare ASTC+SPARSE+ANE_COREML which the file lacks, and omit nothing which");
}
