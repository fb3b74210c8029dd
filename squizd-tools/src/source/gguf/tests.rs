//! Files that the `gguf` package wrote, and hand-made hostile ones.

use super::*;
use crate::source::store::TensorStore;
use squizd_spec::DType;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf").join(name)
}

/// All values of every tensor, read in two row ranges; `None` where not decodable.
fn values(store: &impl TensorStore, index: usize) -> Option<Vec<f32>> {
    let t = &store.tensors()[index];
    let (rows, cols) = (t.rows(), t.cols() as usize);
    let mut out = vec![f32::NAN; rows as usize * cols];
    let (first, rest) = out.split_at_mut(cols);
    store.read_f32(index, 0..1, first).ok()?;
    store.read_f32(index, 1..rows, rest).unwrap();
    Some(out)
}

fn index(store: &impl TensorStore, name: &str) -> usize {
    store.tensors().iter().position(|t| t.name == name).unwrap()
}

#[test]
fn every_metadata_type_is_read() {
    let file = GgufFile::open(&fixture("all_types.gguf")).unwrap();
    let m = file.metadata();
    assert_eq!(m.str("general.architecture").unwrap(), Some("llama"));
    let scalar = |key: &str| m.get(&format!("test.{key}")).unwrap().clone();
    assert_eq!(scalar("u8"), Value::U8(255));
    assert_eq!(scalar("i8"), Value::I8(-128));
    assert_eq!(scalar("u16"), Value::U16(65_535));
    assert_eq!(scalar("i16"), Value::I16(-32_768));
    assert_eq!(scalar("u32"), Value::U32(u32::MAX));
    assert_eq!(scalar("i32"), Value::I32(i32::MIN));
    assert_eq!(scalar("f32"), Value::F32(1.5));
    assert_eq!(scalar("bool"), Value::Bool(true));
    assert_eq!(scalar("str"), Value::Str("h\u{e9}llo \u{1f600}".into()));
    assert_eq!(scalar("u64"), Value::U64(u64::MAX));
    assert_eq!(scalar("i64"), Value::I64(i64::MIN));
    assert_eq!(scalar("f64"), Value::F64(0.1));
    let array = |key: &str| match scalar(&format!("array.{key}")) {
        Value::Array(a) => a,
        other => panic!("{key} is {other:?}"),
    };
    assert_eq!(array("u8"), Array::U8(vec![0, 255]));
    assert_eq!(array("i8"), Array::I8(vec![-128, 127]));
    assert_eq!(array("u16"), Array::U16(vec![0, 65_535]));
    assert_eq!(array("i16"), Array::I16(vec![-32_768, 32_767]));
    assert_eq!(array("u32"), Array::U32(vec![0, u32::MAX]));
    assert_eq!(array("i32"), Array::I32(vec![i32::MIN, i32::MAX]));
    assert_eq!(array("f32"), Array::F32(vec![0.5, -2.0, f32::INFINITY]));
    assert_eq!(array("bool"), Array::Bool(vec![true, false, true]));
    assert_eq!(array("u64"), Array::U64(vec![0, u64::MAX]));
    assert_eq!(array("i64"), Array::I64(vec![i64::MIN, i64::MAX]));
    assert_eq!(array("f64"), Array::F64(vec![0.1, -1e300]));
    let words = m.strs("test.array.str").unwrap().unwrap();
    assert_eq!(words.iter().collect::<Vec<_>>(), ["", "a", "\u{2581}the", "</s>"]);
}

#[test]
fn tensors_are_found_and_decoded() {
    let file = GgufFile::open(&fixture("all_types.gguf")).unwrap();
    let shapes: Vec<(&str, DType, &[u64])> =
        file.tensors().iter().map(|t| (t.name.as_str(), t.dtype, t.dims.as_slice())).collect();
    assert_eq!(
        shapes,
        [
            ("plain.f32", DType::F32, [2, 3, 4].as_slice()),
            ("plain.f16", DType::F16, &[2, 3]),
            ("plain.bf16", DType::BF16, &[2, 4]),
            ("plain.i8", DType::I8, &[2, 4]),
            ("plain.i32", DType::GGML_OTHER, &[5]),
            ("quant.Q4_1", DType::Q4_1, &[3, 64]),
            ("quant.Q8_0", DType::Q8_0, &[2, 32]),
            ("quant.Q4_K", DType::Q4_K, &[2, 256]),
            ("quant.Q6_K", DType::Q6_K, &[1, 512]),
            ("carried.Q1_0", DType::GGML_OTHER, &[1, 128]),
        ]
    );
    let ramp: Vec<f32> = (0..24u8).map(f32::from).collect();
    assert_eq!(values(&file, 0).unwrap(), ramp);
    assert_eq!(values(&file, 1).unwrap(), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
    assert_eq!(values(&file, 2).unwrap(), ramp[..8]);
    assert_eq!(values(&file, 3).unwrap(), [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
    let q = index(&file, "quant.Q4_1");
    let raw = file.row_bytes(q, 1..3).unwrap();
    assert_eq!(raw.len(), 2 * 2 * 20);
    let mut direct = vec![0.0; 128];
    dequant::decoder(DType::Q4_1).unwrap()(&raw, &mut direct);
    assert_eq!(direct[..], values(&file, q).unwrap()[64..]);
    file.release(q, 0..3);
    assert_eq!(direct[..], values(&file, q).unwrap()[64..]);
    assert_eq!(file.files()[0].name, "all_types.gguf");
    assert_eq!(file.files()[0].bytes, std::fs::metadata(fixture("all_types.gguf")).unwrap().len());
}

#[test]
fn unreadable_types_and_bad_requests_are_named() {
    let file = GgufFile::open(&fixture("all_types.gguf")).unwrap();
    let q1 = index(&file, "carried.Q1_0");
    assert_eq!(file.row_bytes(q1, 0..1).unwrap().to_vec(), (0..18).collect::<Vec<u8>>());
    let refused = file.read_f32(q1, 0..1, &mut [0.0; 128]).unwrap_err();
    assert!(refused.is_unsupported());
    assert!(refused.to_string().contains("tensor carried.Q1_0 is stored as Q1_0"), "{refused}");
    let error = |r: squizd::Result<()>| r.unwrap_err().to_string();
    assert_eq!(
        error(file.read_f32(0, 0..1, &mut [0.0; 5])),
        "tensor plain.f32: 1 rows of 4 values asked into a buffer of 5"
    );
    assert_eq!(error(file.read_f32(0, 6..7, &mut [0.0; 4])), "tensor plain.f32: rows 6..7 of 6");
    assert_eq!(error(file.read_f32(10, 0..1, &mut [])), "tensor index 10 of a source with 10 tensors");
    let (start, end) = (3, 2);
    assert_eq!(error(file.row_bytes(0, start..end).map(|_| ())), "tensor plain.f32: rows 3..2 of 6");
}

#[test]
fn larger_alignment_moves_the_data() {
    let (a, b) = (
        GgufFile::open(&fixture("all_types.gguf")).unwrap(),
        GgufFile::open(&fixture("aligned_64.gguf")).unwrap(),
    );
    assert_eq!(b.metadata().u64("general.alignment").unwrap(), Some(64));
    for i in 0..4 {
        assert_eq!(values(&a, i), values(&b, i));
    }
}

#[test]
fn any_part_opens_the_whole_split_model() {
    let whole = GgufFile::open(&fixture("all_types.gguf")).unwrap();
    for part in 1..=3 {
        let split = GgufFile::open(&fixture(&format!("split-0000{part}-of-00003.gguf"))).unwrap();
        assert_eq!(split.tensors(), whole.tensors());
        assert_eq!(split.metadata().str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(split.files().len(), 3);
        for i in 0..4 {
            assert_eq!(values(&split, i), values(&whole, i));
        }
    }
}

/// A copy of the split fixture with one change to the bytes of one part.
fn split_refusal(part: usize, change: impl Fn(&mut Vec<u8>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..=3 {
        let name = format!("split-0000{n}-of-00003.gguf");
        let mut bytes = std::fs::read(fixture(&name)).unwrap();
        if n == part {
            change(&mut bytes);
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    GgufFile::open(&dir.path().join("split-00001-of-00003.gguf")).unwrap_err().to_string()
}

/// Replaces the only occurrence of `old`.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let found: Vec<usize> = (0..=bytes.len() - old.len()).filter(|&i| bytes[i..].starts_with(old)).collect();
    let [i] = found[..] else { panic!("{} occurrences", found.len()) };
    bytes[i..i + new.len()].copy_from_slice(new);
}

#[test]
fn inconsistent_splits_are_refused() {
    let number = split_refusal(2, |b| replace(b, b"split.no\x02\0\0\0\x01", b"split.no\x02\0\0\0\x02"));
    assert!(number.contains("`split.no` is u16 2; it must be 1"), "{number}");
    let count = split_refusal(3, |b| replace(b, b"split.count\x02\0\0\0\x03", b"split.count\x02\0\0\0\x04"));
    assert!(count.contains("`split.count` is u16 4; it must be 3, as the file's name says"), "{count}");
    let total = split_refusal(2, |b| {
        replace(b, b"split.tensors.count\x05\0\0\0\x0a", b"split.tensors.count\x05\0\0\0\x0b");
    });
    assert!(
        total.contains("`split.tensors.count` is i32 11; it must be i32 10, as in the first part"),
        "{total}"
    );
    let again = split_refusal(3, |b| replace(b, b"quant.Q6_K", b"quant.Q8_0"));
    assert!(
        again.ends_with(
            "split-00003-of-00003.gguf: tensor quant.Q8_0 is also in part 2 [gguf-tensor-duplicate]"
        ),
        "{again}"
    );

    let dir = tempfile::tempdir().unwrap();
    let lone = dir.path().join("split-00002-of-00003.gguf");
    std::fs::copy(fixture("split-00002-of-00003.gguf"), &lone).unwrap();
    let missing = GgufFile::open(&lone).unwrap_err().to_string();
    assert!(missing.contains("split-00001-of-00003.gguf: No such file"), "{missing}");
    let renamed = dir.path().join("part.gguf");
    std::fs::rename(&lone, &renamed).unwrap();
    let renamed = GgufFile::open(&renamed).unwrap_err().to_string();
    assert!(renamed.contains("is one part of a model split into 3"), "{renamed}");
    let unsplit = dir.path().join("x-00001-of-00002.gguf");
    std::fs::copy(fixture("all_types.gguf"), &unsplit).unwrap();
    let unsplit = GgufFile::open(&unsplit).unwrap_err().to_string();
    assert!(unsplit.contains("`split.count` is missing; it must be 2"), "{unsplit}");
}
