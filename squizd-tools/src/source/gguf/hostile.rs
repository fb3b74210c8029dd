//! Hand-made bad headers: each must be refused with the offset of the field at
//! fault, what it holds and what is allowed. And no mutation may panic.

use super::*;
use crate::source::store::TensorStore;
use proptest::prelude::*;
use std::io::Write;

/// Bytes of a GGUF file, field by field.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn header(tensors: u64, pairs: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(pairs)
    }

    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }

    fn raw(mut self, v: &[u8]) -> Self {
        self.0.extend(v);
        self
    }

    fn string(self, s: &str) -> Self {
        self.u64(s.len() as u64).raw(s.as_bytes())
    }

    /// A tensor info.
    fn info(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let start = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(start, |b, d| b.u64(*d)).u32(kind).u64(offset)
    }

    /// Zeros up to a multiple of 32, then `n` more.
    fn data(mut self, n: usize) -> Self {
        let padded = self.0.len().next_multiple_of(32);
        self.0.resize(padded + n, 0);
        self
    }

    fn open(&self) -> squizd::Result<GgufFile> {
        let mut f = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        f.write_all(&self.0).unwrap();
        GgufFile::open(f.path())
    }

    /// The error without the path.
    fn refusal(&self) -> String {
        let text = self.open().unwrap_err().to_string();
        text.split_once(".gguf: ").map_or(text.clone(), |(_, rest)| rest.to_owned())
    }
}

#[track_caller]
fn refused(bytes: &Bytes, wanted: &str) {
    let found = bytes.refusal();
    assert!(found.starts_with(wanted), "\n  found: {found}\n wanted: {wanted}");
}

/// A file with one pair `k` of type `kind`, whose value follows. The pair is
/// at byte 24, its type at 33, its value at 37.
fn pair(kind: u32) -> Bytes {
    Bytes::header(0, 1).string("k").u32(kind)
}

#[test]
fn magic_and_version() {
    refused(&Bytes(b"GG".to_vec()), "byte 0: magic: the file ends inside this field (2 bytes left)");
    refused(&Bytes(b"PK\x03\x04".to_vec()), "byte 0: magic is \"PK\\x03\\x04\", not \"GGUF\"");
    refused(&Bytes(b"FUGG\0\0\0\x03".to_vec()), "byte 0: magic is FUGG: the file is byte-swapped");
    refused(&Bytes(b"tjgg".to_vec()).u32(3), "byte 0: this is a ggml file from before GGUF");
    refused(&Bytes(b"GGUF".to_vec()), "byte 4: version: the file ends inside this field (0 bytes left)");
    refused(&Bytes(b"GGUF".to_vec()).u32(0), "byte 4: version is 0; this build reads 2 and 3");
    refused(&Bytes(b"GGUF".to_vec()).u32(1), "byte 4: version 1 (August 2023) is not read");
    refused(&Bytes(b"GGUF".to_vec()).u32(4), "byte 4: version is 4; this build reads 2 and 3");
    refused(
        &Bytes(b"GGUF".to_vec()).raw(&3u32.to_be_bytes()),
        "byte 4: version is 0x03000000: a big-endian file (version 3 byte-swapped)",
    );
    assert!(Bytes(b"GGUF".to_vec()).u32(4).open().unwrap_err().is_unsupported());
    let mut v2 = Bytes::header(0, 0);
    v2.0[4] = 2;
    assert_eq!(v2.open().unwrap().tensors().len(), 0);
}

#[test]
fn counts_are_held_against_caps_and_bytes() {
    refused(
        &Bytes::header(u64::MAX, 0),
        "byte 8: tensor count is 18446744073709551615, allowed at most 262144",
    );
    refused(&Bytes::header(1, 0), "byte 24: tensor count is 1, more than the 0 bytes left can hold");
    refused(
        &Bytes::header(0, u64::MAX),
        "byte 16: metadata count is 18446744073709551615, allowed at most 65536",
    );
    refused(
        &Bytes::header(0, 65_536).data(99),
        "byte 24: metadata count is 65536, more than the 107 bytes left",
    );
    refused(
        &pair(9).u32(0).u64(u64::MAX),
        "byte 41: metadata pair 0: `k`: array length is 18446744073709551615",
    );
    refused(
        &pair(9).u32(12).u64(1 << 26),
        "byte 49: metadata pair 0: `k`: array length is 67108864, more than the 0 bytes left can hold",
    );
    refused(
        &pair(9).u32(8).u64(3).string("a").u64(9),
        "byte 49: metadata pair 0: `k`: array length is 3, more than the 17 bytes left can hold",
    );
}

#[test]
fn strings() {
    let huge = Bytes::header(0, 1).u64(u64::MAX).data(40);
    refused(
        &huge,
        "byte 24: metadata pair 0: key: string length is 18446744073709551615, allowed at most 65535",
    );
    refused(
        &pair(8).u64(u64::MAX),
        "byte 37: metadata pair 0: `k`: string length is 18446744073709551615, allowed at most 67108864",
    );
    refused(
        &pair(8).u64(9).raw(b"short"),
        "byte 37: metadata pair 0: `k`: string length is 9, but only 5 bytes",
    );
    refused(&pair(8).u64(3).raw(b"a\xffb"), "byte 46: metadata pair 0: `k`: string is not UTF-8");
    refused(&Bytes::header(0, 1).string("").u32(0).data(9), "byte 24: metadata pair 0: key is empty");
    refused(
        &Bytes::header(0, 1).string("a\0").u32(0).data(9),
        "byte 24: metadata pair 0: key \"a\\0\" has control",
    );
    refused(
        &pair(9).u32(8).u64(2).string("a").u64(9).raw(b"bc"),
        "byte 58: metadata pair 0: `k`: element 1: string length is 9, but only 2 bytes are left",
    );
}

#[test]
fn values() {
    refused(&pair(13), "byte 33: metadata pair 0: `k`: value type is 13, allowed 0 to 12");
    refused(
        &pair(10).u32(0),
        "byte 37: metadata pair 0: `k`: the file ends inside this field (4 bytes left)",
    );
    refused(&pair(7).raw(&[2]), "byte 37: metadata pair 0: `k`: bool is 2, allowed 0 or 1");
    refused(
        &pair(9).u32(7).u64(3).raw(&[1, 0, 7]),
        "byte 51: metadata pair 0: `k`: bool is 7, allowed 0 or 1",
    );
    refused(
        &pair(9).u32(9).u64(1).data(64),
        "byte 37: metadata pair 0: `k`: arrays of arrays are not allowed",
    );
    refused(
        &pair(9).u32(13).u64(0),
        "byte 37: metadata pair 0: `k`: array element type is 13, allowed 0 to 8",
    );
    let twice = Bytes::header(0, 2).string("k").u32(0).raw(&[1]).string("k").u32(0).raw(&[1]);
    refused(&twice, "byte 38: a second metadata key `k`");
}

#[test]
fn alignment() {
    let with = |kind: u32, value: &[u8]| Bytes::header(0, 1).string("general.alignment").u32(kind).raw(value);
    for bad in [0u32, 3, 48, 1 << 21] {
        let wanted =
            format!("byte 24: `general.alignment` is u32 {bad}, allowed a u32 power of two up to 1048576");
        refused(&with(4, &bad.to_le_bytes()), &wanted);
    }
    refused(&with(10, &32u64.to_le_bytes()), "byte 24: `general.alignment` is u64 32, allowed a u32");
    assert!(with(4, &1u32.to_le_bytes()).open().is_ok());
}

#[test]
fn infos() {
    let one = |dims: &[u64], kind: u32, offset: u64| Bytes::header(1, 0).info("t", dims, kind, offset);
    refused(&one(&[], 0, 0).data(64), "byte 33: tensor info 0: `t`: rank is 0, allowed 1 to 4");
    refused(&one(&[1; 5], 0, 0).data(64), "byte 33: tensor info 0: `t`: rank is 5, allowed 1 to 4");
    refused(&one(&[4, 0], 0, 0).data(64), "byte 45: tensor info 0: `t`: dimension 1 is 0");
    refused(&Bytes::header(1, 0).info("", &[1], 0, 0).data(64), "byte 24: tensor info 0: name is empty");
    refused(
        &Bytes::header(1, 0).info(&"n".repeat(513), &[1], 0, 0),
        "byte 24: tensor info 0: name: string length is 513",
    );
    refused(&one(&[1], 42, 0).data(64), "byte 24: tensor t: stored as ggml type 42, unknown to this build");
    refused(&one(&[1], 4, 0).data(64), "byte 24: tensor t: stored as type 4 (Q4_2), which ggml has removed");
    refused(
        &one(&[33], 8, 0).data(64),
        "byte 24: tensor t: rows of 33 weights are not whole Q8_0 blocks of 32",
    );
    refused(
        &one(&[1 << 32, 1 << 32], 0, 0).data(64),
        "byte 24: tensor t: dimensions [4294967296, 4294967296] of F32",
    );
    refused(
        &one(&[1 << 62], 0, 0).data(64),
        "byte 24: tensor t: dimensions [4611686018427387904] of F32 overflow",
    );
    refused(&one(&[1 << 62, 4], 24, 0).data(64), "byte 24: tensor t: dimensions");
    refused(&one(&[1], 0, 4).data(64), "byte 24: tensor t: offset is 4, not a multiple of the alignment 32");
    // Header of 57 bytes, data from byte 64.
    refused(
        &one(&[5], 0, 0).data(19),
        "byte 24: tensor t: 20 bytes at offset 0 of the data section (byte 64 of the file) end outside the file's 83",
    );
    refused(
        &one(&[5], 0, u64::MAX - 31).data(64),
        "byte 24: tensor t: 20 bytes at offset 18446744073709551584",
    );
    refused(
        &one(&[5], 0, 0),
        "byte 24: tensor t: 20 bytes at offset 0 of the data section (byte 64 of the file) end outside the file's 57",
    );
    assert_eq!(one(&[5], 0, 0).data(20).open().unwrap().tensors()[0].bytes, 20);
    for name in ["../x", "a/../b", "/etc/passwd", "a\\b"] {
        let wanted = format!("byte 24: tensor info 0: name {name:?} looks like a path");
        refused(&Bytes::header(1, 0).info(name, &[1], 0, 0).data(64), &wanted);
    }
    assert!(Bytes::header(1, 0).info("a/b..c", &[1], 0, 0).data(4).open().is_ok());
}

#[test]
fn tensors_may_not_overlap_or_repeat() {
    let two = |first: (&str, u64), second: (&str, u64)| {
        Bytes::header(2, 0).info(first.0, &[9], 0, first.1).info(second.0, &[9], 0, second.1).data(128)
    };
    // Infos of 33 bytes at 24 and 57; data from byte 96.
    refused(&two(("a", 0), ("b", 32)), "byte 57: tensor b (bytes 128..164) overlaps a (bytes 96..132)");
    refused(&two(("a", 32), ("b", 0)), "byte 24: tensor a (bytes 128..164) overlaps b (bytes 96..132)");
    refused(&two(("a", 0), ("a", 64)), "byte 57: a second tensor a; the first is at byte 24");
    assert_eq!(two(("a", 64), ("b", 0)).open().unwrap().tensors().len(), 2);
}

/// Opens `bytes` and, where they are a model, reads all of it.
fn open_and_read(bytes: &[u8]) {
    let Ok(file) = Bytes(bytes.to_vec()).open() else { return };
    let total: u64 = file.tensors().iter().map(|t| t.bytes).sum();
    assert!(total <= bytes.len() as u64);
    for (i, t) in file.tensors().iter().enumerate() {
        assert_eq!(file.row_bytes(i, 0..t.rows()).unwrap().len() as u64, t.bytes);
        let mut out = vec![0.0; t.rows() as usize * t.cols() as usize];
        let decodable = dequant::decoder(t.dtype).is_some();
        assert_eq!(file.read_f32(i, 0..t.rows(), &mut out).is_ok(), decodable);
    }
}

const MODEL: &[u8] = include_bytes!("../../../../fixtures/gguf/all_types.gguf");

#[test]
fn every_truncation_is_refused() {
    // The last tensor's 18 bytes are followed by padding to a multiple of 32.
    for length in 0..MODEL.len() - 14 {
        let cut = Bytes(MODEL[..length].to_vec());
        assert!(cut.open().is_err(), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bit flips and overwritten fields in a valid file: an error or a
    /// consistent model, never a panic.
    #[test]
    fn mutations_never_panic(
        changes in proptest::collection::vec((0..MODEL.len(), prop_oneof![
            any::<u8>().prop_map(|b| vec![b]),
            any::<u32>().prop_map(|v| v.to_le_bytes().to_vec()),
            prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0), any::<u64>()].prop_map(|v| v.to_le_bytes().to_vec()),
        ]), 1..4),
    ) {
        let mut bytes = MODEL.to_vec();
        for (at, new) in changes {
            for (b, n) in bytes.iter_mut().skip(at).zip(new) {
                *b = n;
            }
        }
        open_and_read(&bytes);
    }

    /// Anything after a valid start.
    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = Bytes::header(2, 2).0;
        bytes.extend(noise);
        open_and_read(&bytes);
    }
}
