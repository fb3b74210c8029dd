//! Files that the `safetensors` crate wrote, and hand-made hostile ones.

use super::SafetensorsStore;
use crate::source::store::TensorStore;
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use squizd_spec::DType;
use std::{collections::HashMap, fs, path::Path};

fn serialized(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.to_vec(), b).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

fn opened(bytes: &[u8]) -> squizd::Result<SafetensorsStore> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    fs::write(&path, bytes).unwrap();
    SafetensorsStore::open_file(&path)
}

/// A file of this header text and `data` zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], wanted: &str) {
    let found = opened(bytes).unwrap_err().to_string();
    let found = found.split_once("m.safetensors: ").map_or(found.as_str(), |(_, rest)| rest);
    assert!(found.starts_with(wanted), "\n  found: {found}\n wanted: {wanted}");
}

#[test]
fn the_crates_files_are_read() {
    let floats: Vec<u8> =
        [1.5f32, -2.0, 0.25, f32::MIN_POSITIVE].iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes = serialized(&[
        ("f32", Dtype::F32, &[2, 2], &floats),
        ("f16", Dtype::F16, &[1, 2], &[0x00, 0x3c, 0x01, 0x80]),
        ("bf16", Dtype::BF16, &[2], &[0x80, 0x3f, 0x00, 0xc0]),
        ("i8", Dtype::I8, &[2, 1], &[0xff, 0x7f]),
        ("scalar", Dtype::F32, &[], &[0, 0, 0x80, 0x3f]),
        ("i64", Dtype::I64, &[1], &[7, 0, 0, 0, 0, 0, 0, 0]),
        ("fp8", Dtype::F8_E4M3, &[1, 2], &[0x38, 0x40]),
    ]);
    let store = opened(&bytes).unwrap();
    assert_eq!(store.metadata()["format"], "pt");
    let at = |name: &str| store.tensors().iter().position(|t| t.name == name).unwrap();
    let values = |name: &str| {
        let t = &store.tensors()[at(name)];
        let mut out = vec![0.0; (t.rows() * t.cols()) as usize];
        store.read_f32(at(name), 0..t.rows(), &mut out).map(|()| out)
    };
    assert_eq!(values("f32").unwrap(), [1.5, -2.0, 0.25, f32::MIN_POSITIVE]);
    assert_eq!(values("f16").unwrap(), [1.0, -(2f32.powi(-24))]);
    assert_eq!(values("bf16").unwrap(), [1.0, -2.0]);
    assert_eq!(values("i8").unwrap(), [-1.0, 127.0]);
    assert_eq!(values("scalar").unwrap(), [1.0]);
    let mut second = [0.0; 2];
    store.read_f32(at("f32"), 1..2, &mut second).unwrap();
    assert_eq!(second[..], [0.25, f32::MIN_POSITIVE]);
    assert_eq!(*store.row_bytes(at("i64"), 0..1).unwrap(), [7, 0, 0, 0, 0, 0, 0, 0]);
    for (name, shown) in [("i64", "I64"), ("fp8", "F8_E4M3")] {
        let t = &store.tensors()[at(name)];
        assert_eq!((t.dtype, t.dtype_name.as_str()), (DType::GGML_OTHER, shown));
        let e = values(name).unwrap_err();
        assert!(e.is_unsupported());
        assert!(e.to_string().contains(&format!("tensor {name} is stored as {shown}")), "{e}");
    }
}

#[test]
fn framing() {
    refused(b"short", "byte 0: 5 bytes are too few");
    refused(&(1u64 << 40).to_le_bytes(), "byte 0: header length is 1099511627776, allowed at most 100000000");
    refused(&u64::MAX.to_le_bytes(), "byte 0: header length is 18446744073709551615");
    refused(&9u64.to_le_bytes(), "byte 0: header length is 9, but 0 bytes follow");
    refused(&0u64.to_le_bytes(), "byte 0: header length is 0");
    refused(&file(" {}", 0), "byte 8: header begins with byte 0x20, not '{'");
    refused(&file("{} x", 0), "byte 11: header: trailing characters");
    refused(&file("{", 0), "byte 8: header: EOF while parsing");
    refused(&file("{}", 3), "byte 10: 3 bytes follow the last tensor and belong to none");
    assert!(opened(&file("{}   ", 0)).is_ok());
}

/// A header of one tensor `t`.
fn one(body: &str, data: usize) -> Vec<u8> {
    file(&format!("{{\"t\":{{{body}}}}}"), data)
}

#[test]
fn repeated_keys() {
    let t = r#"{"dtype":"I8","shape":[1],"data_offsets":[0,1]}"#;
    refused(&file(&format!("{{\"t\":{t},\"t\":{t}}}"), 1), "byte 63: header: a second key \"t\"");
    refused(&file(&format!("{{\"t\":{t},\"\\u0074\":{t}}}"), 1), "byte 68: header: a second key \"t\"");
    refused(
        &one(r#""dtype":"I8","dtype":"U8","shape":[1],"data_offsets":[0,1]"#, 1),
        "byte 33: header: duplicate field `dtype`",
    );
    refused(&file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "byte 35: header: a second key \"a\"");
    refused(
        &file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
        "byte 40: header: a second key \"__metadata__\"",
    );
    refused(
        &file(r#"{"__metadata__":{"a":1}}"#, 0),
        "byte 29: header: invalid type: integer `1`, expected a string",
    );
}

#[test]
fn descriptions() {
    let shape = |shape: &str, data: usize| {
        one(&format!("\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{data}]"), data)
    };
    refused(&shape("[0]", 0), "byte 62: tensor t: dimension 0 of [0] is 0");
    refused(&shape("[2]", 4), "byte 62: tensor t: F32 [2] takes 8 bytes, data_offsets 0..4 give 4");
    refused(&shape("[-1]", 4), "byte 38: header: invalid value: integer `-1`, expected u64");
    refused(&shape("[1.0]", 4), "byte 39: header: invalid type: floating point `1.0`, expected u64");
    refused(&shape("[18446744073709551616]", 4), "byte 56: header: invalid type: floating point");
    refused(
        &shape("[4294967296,4294967296]", 4),
        "byte 82: tensor t: shape [4294967296, 4294967296] of F32 overflows",
    );
    refused(
        &shape("[4611686018427387904,1]", 4),
        "byte 82: tensor t: shape [4611686018427387904, 1] of F32 overflows",
    );
    refused(
        &shape("[1,1,1,1,1,1,1,1,1]", 4),
        "byte 54: header: invalid length 9, expected an array of at most 8",
    );
    let offsets =
        |offsets: &str| one(&format!("\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":{offsets}"), 2);
    refused(&offsets("[2,0]"), "byte 8: tensor t: data_offsets 2..0 of 2 bytes of data");
    refused(&offsets("[0,3]"), "byte 8: tensor t: data_offsets 0..3 of 2 bytes of data");
    refused(
        &offsets("[18446744073709551615,18446744073709551615]"),
        "byte 8: tensor t: data_offsets 18446744073709551615",
    );
    refused(&offsets("[0]"), "byte 56: header: invalid length 1, expected an array of length 2");
    refused(&offsets("[0,2,2]"), "byte 59: header: trailing characters");
    refused(
        &one(r#""dtype":"Q4","shape":[1],"data_offsets":[0,1]"#, 1),
        "byte 61: tensor t: unknown dtype \"Q4\"",
    );
    refused(
        &one(r#""dtype":"F4","shape":[3],"data_offsets":[0,1]"#, 1),
        "byte 61: tensor t: rows of 3 F4 elements are not whole bytes",
    );
    refused(&one(r#""dtype":"I8","shape":[1]"#, 0), "byte 38: header: missing field `data_offsets`");
    refused(
        &one(r#""dtype":"I8","shape":[1],"data_offsets":[0,1],"x":1"#, 1),
        "byte 62: header: unknown field `x`",
    );
    refused(&file(&format!("{{\"t\":{}", "[".repeat(100_000)), 0), "byte 13: header: invalid type: sequence");
}

#[test]
fn ranges_tile_the_data() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let t = |[s, e]: [u64; 2]| {
            format!("{{\"dtype\":\"I8\",\"shape\":[{}],\"data_offsets\":[{s},{e}]}}", e - s)
        };
        file(&format!("{{\"b\":{},\"a\":{}}}", t(b), t(a)), 8)
    };
    let store = opened(&two([0, 4], [4, 8])).unwrap();
    assert_eq!(store.tensors().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    refused(
        &two([0, 5], [4, 8]),
        "byte 117: tensor b: data_offsets 4..8 overlaps the tensor before it, which ends at 5",
    );
    refused(&two([0, 8], [0, 8]), "byte 113: tensor b: data_offsets 0..8 overlaps");
    refused(
        &two([0, 3], [4, 8]),
        "byte 117: tensor b: data_offsets 4..8 leaves a gap before it, which ends at 3",
    );
    refused(&two([1, 4], [4, 8]), "byte 114: tensor a: data_offsets 1..4 leaves a gap");
    refused(&two([0, 4], [4, 7]), "byte 120: 1 bytes follow the last tensor and belong to none");
}

#[test]
fn names() {
    let named = |name: &str| {
        file(&format!("{{\"{name}\":{{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}}}"), 1)
    };
    refused(&named(""), "byte 8: header: tensor name is empty");
    refused(&named("../../x"), "byte 8: header: tensor name \"../../x\" looks like a path");
    refused(&named("/x"), "byte 8: header: tensor name \"/x\" looks like a path");
    refused(&named("a\\u0000b"), "byte 8: header: tensor name \"a\\0b\" has control characters");
    refused(&named(&"x".repeat(513)), "byte 8: header: tensor name has 513 bytes, allowed at most 512");
    assert!(opened(&named("model/layer..0:0")).is_ok());
}

/// A two-shard checkpoint; the change sees (index text, folder).
fn sharded(change: impl FnOnce(&mut String, &Path)) -> squizd::Result<SafetensorsStore> {
    let dir = tempfile::tempdir().unwrap();
    let shard = |n: u32| format!("model-0000{n}-of-00002.safetensors");
    let write = |name: String, bytes: Vec<u8>| fs::write(dir.path().join(name), bytes).unwrap();
    write(shard(1), serialized(&[("a", Dtype::I8, &[2], &[1, 2]), ("b", Dtype::I8, &[1], &[3])]));
    write(shard(2), serialized(&[("c", Dtype::I8, &[1, 2], &[4, 5])]));
    let mut index = format!(
        "{{\"metadata\":{{\"total_size\":5}},\"weight_map\":{{\"a\":\"{0}\",\"b\":\"{0}\",\"c\":\"{1}\"}}}}",
        shard(1),
        shard(2)
    );
    change(&mut index, dir.path());
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    SafetensorsStore::open_dir(dir.path())
}

#[track_caller]
fn sharded_refused(change: impl FnOnce(&mut String, &Path), wanted: &str) {
    let found = sharded(change).unwrap_err().to_string();
    assert!(found.contains(wanted), "\n  found: {found}\n wanted: {wanted}");
}

#[test]
fn shards_are_joined() {
    let store = sharded(|_, dir| {
        fs::write(dir.join("adapter.safetensors"), b"unrelated").unwrap();
        fs::write(dir.join("consolidated-00001-of-00009.safetensors"), b"unrelated").unwrap();
    })
    .unwrap();
    let names: Vec<&str> = store.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(store.files().len(), 2);
    assert_eq!(*store.row_bytes(2, 0..1).unwrap(), [4, 5]);
    assert_eq!(store.metadata()["format"], "pt");
}

#[test]
fn bad_indices() {
    let first = "model-00001-of-00002.safetensors";
    for bad in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..\\\\x.safetensors",
        "C:x.safetensors",
        "..safetensors",
        "x.bin",
        "",
    ] {
        let shown = bad.replace("\\\\", "\\");
        sharded_refused(
            |index, _| *index = format!("{{\"weight_map\":{{\"a\":\"{bad}\"}}}}"),
            &format!("weight_map puts tensor \"a\" into {shown:?}; a shard must be"),
        );
    }
    sharded_refused(|i, _| *i = i.replace("\"b\"", "\"a\""), "a second key \"a\"");
    sharded_refused(|i, _| *i = i.replace("weight_map", "weights"), "missing field `weight_map`");
    sharded_refused(|i, _| *i = "{\"weight_map\":{}}".into(), "weight_map names no tensor");
    sharded_refused(|i, _| *i = format!("{{\"metadata\":{}", "[".repeat(100_000)), "byte 100011: EOF");
    sharded_refused(
        |i, _| *i = i.replace(",\"c\":\"model-00002-of-00002.safetensors\"", ""),
        "weight_map names 1 of the 2 shards of model; number 2 is missing",
    );
    sharded_refused(
        |i, _| *i = i.replace("model-00002", "model-00003"),
        "weight_map names shard 3 of 2 of model",
    );
    sharded_refused(
        |_, dir| fs::remove_file(dir.join(first)).unwrap(),
        "index.json: shard model-00001-of-00002.safetensors is missing",
    );
    sharded_refused(
        |_, dir| fs::write(dir.join("model-00001-of-00004.safetensors"), b"").unwrap(),
        "shard model-00001-of-00004.safetensors lies beside the index but is not in it",
    );
    sharded_refused(
        |i, _| *i = i.replace("\"b\"", "\"d\""),
        "tensor d, which the index puts here, is not in it",
    );
    sharded_refused(
        |i, _| *i = i.replace(&format!("\"b\":\"{first}\","), ""),
        "00001-of-00002.safetensors holds tensor b, which the index puts nowhere",
    );
    sharded_refused(
        |_, dir| {
            let both = serialized(&[("c", Dtype::I8, &[1, 2], &[4, 5]), ("b", Dtype::I8, &[1], &[3])]);
            fs::write(dir.join("model-00002-of-00002.safetensors"), both).unwrap();
        },
        "00002-of-00002.safetensors holds tensor b, which the index puts into model-00001-of-00002.safetensors",
    );
}

#[test]
fn folders_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SafetensorsStore::open_dir(dir.path());
    assert!(open().unwrap_err().to_string().ends_with("holds no .safetensors file [source-none]"));
    fs::write(dir.path().join("pytorch_model.bin"), b"PK").unwrap();
    let pickle = open().unwrap_err();
    assert!(pickle.is_unsupported());
    assert!(
        pickle.to_string().contains("pytorch_model.bin is a PyTorch pickle, which can run any code"),
        "{pickle}"
    );
    let bytes = serialized(&[("a", Dtype::I8, &[1], &[1])]);
    fs::write(dir.path().join("x.safetensors"), &bytes).unwrap();
    assert_eq!(open().unwrap().files()[0].name, "x.safetensors");
    fs::write(dir.path().join("y.safetensors"), &bytes).unwrap();
    assert!(
        open()
            .unwrap_err()
            .to_string()
            .contains("holds 2 .safetensors files (x.safetensors to y.safetensors)")
    );
    fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
    assert_eq!(open().unwrap().files()[0].name, "model.safetensors");
}

fn valid() -> Vec<u8> {
    serialized(&[
        ("a.weight", Dtype::F32, &[2, 2], &[0; 16]),
        ("b.weight", Dtype::BF16, &[3], &[0; 6]),
        ("c.weight", Dtype::F4, &[1, 4], &[0; 2]),
    ])
}

/// Opens `bytes`; a store that results is consistent and readable.
fn open_and_read(bytes: &[u8]) {
    let Ok(store) = opened(bytes) else { return };
    for (i, t) in store.tensors().iter().enumerate() {
        assert_eq!(store.row_bytes(i, 0..t.rows()).unwrap().len() as u64, t.bytes);
        let mut out = vec![0.0; (t.rows() * t.cols()) as usize];
        assert_eq!(store.read_f32(i, 0..t.rows(), &mut out).is_ok(), t.dtype != DType::GGML_OTHER);
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = valid();
    for length in 0..whole.len() {
        assert!(opened(&whole[..length]).is_err(), "{length} bytes");
    }
    open_and_read(&whole);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = valid();
        for (at, new) in changes {
            *at.get_mut(&mut bytes) = new;
        }
        open_and_read(&bytes);
    }

    /// Digits of shapes and offsets, the fields that arithmetic rests on.
    #[test]
    fn numbers_never_overflow(shape in proptest::collection::vec(any::<u64>(), 0..4), start in any::<u64>(), end in any::<u64>()) {
        let body = format!("\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]");
        open_and_read(&one(&body, 64));
    }
}
