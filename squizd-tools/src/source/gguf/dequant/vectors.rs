//! Every decoder against the values that `gguf/quants.py` computed, bit for
//! bit: those in `fixtures/gguf` (by `make_vectors.py`), and random blocks
//! where the `gguf` package is at hand.

use super::decoder;
use crate::source::gguf::TYPES;
use safetensors::SafeTensors;
use squizd_spec::DType;
use std::{io::Write, process::Command, process::Stdio};

#[track_caller]
fn same(dtype: DType, found: &[f32], wanted: &[u8]) {
    assert_eq!(found.len() * 4, wanted.len(), "{dtype}");
    for (i, (f, w)) in found.iter().zip(wanted.as_chunks().0).enumerate() {
        let w = f32::from_le_bytes(*w);
        // A NaN's payload is the processor's.
        let same = f.to_bits() == w.to_bits() || f.is_nan() && w.is_nan();
        assert!(same, "{dtype} weight {i}: {f:e} instead of {w:e}");
    }
}

fn decoded(dtype: DType, blocks: &[u8], count: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; count];
    decoder(dtype).unwrap()(blocks, &mut out);
    out
}

/// Compares all tensors of a fixture and returns their types.
fn compare(name: &str) -> Vec<DType> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/").to_owned() + name;
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let types: Vec<DType> = DType::ALL
        .iter()
        .copied()
        .filter(|t| file.names().iter().any(|name| **name == format!("{t}.blocks")))
        .collect();
    assert_eq!(file.len(), 2 * types.len());
    for dtype in &types {
        let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap();
        let wanted = file.tensor(&format!("{dtype}.f32")).unwrap();
        let count = wanted.data().len() / 4;
        assert!(count >= 1000, "{dtype}: {count} values");
        same(*dtype, &decoded(*dtype, blocks.data(), count), wanted.data());
    }
    types
}

#[test]
fn every_type_decodes_as_the_gguf_package_does() {
    let mut types = compare("dequant_vectors.safetensors");
    types.extend(compare("dequant_iq_vectors.safetensors"));
    for t in DType::ALL.iter().filter(|t| ![DType::F32, DType::I8, DType::GGML_OTHER].contains(t)) {
        assert!(types.contains(t), "no vectors for {t}");
    }
}

const DEQUANTIZE: &str = "
import sys, numpy
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
for line in sys.argv[1:]:
    name, size, count = line.split(':')
    data = numpy.frombuffer(sys.stdin.buffer.read(int(size) * int(count)), numpy.uint8)
    with numpy.errstate(all='ignore'):
        sys.stdout.buffer.write(dequantize(data.reshape(-1, int(size)), T[name]).astype('<f4').tobytes())
";

#[test]
fn random_blocks_decode_as_the_installed_gguf_package_does() {
    const BLOCKS: u64 = 400;
    let Some(python) = std::env::var_os("SQUIZD_PYTHON") else {
        let required =
            std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "pypi"));
        assert!(!required, "SQUIZD_REQUIRE names pypi, but SQUIZD_PYTHON is not set");
        eprintln!("skipped: SQUIZD_PYTHON is not set");
        return;
    };
    let types: Vec<_> = TYPES.iter().filter(|t| t.block > 1 && t.dtype != DType::GGML_OTHER).collect();
    assert!(types.len() >= 23);
    let mut state = 0x5351_495a_4451u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let blocks: Vec<Vec<u8>> =
        types.iter().map(|t| (0..t.bytes * BLOCKS).map(|_| byte()).collect()).collect();
    let mut child = Command::new(python)
        .args(["-c", DEQUANTIZE])
        .args(types.iter().map(|t| format!("{}:{}:{BLOCKS}", t.name, t.bytes)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = blocks.concat();
    let sender = std::thread::spawn(move || input.write_all(&sent));
    let output = child.wait_with_output().unwrap();
    sender.join().unwrap().unwrap();
    assert!(output.status.success());
    let mut rest = &output.stdout[..];
    for (kind, blocks) in types.iter().zip(&blocks) {
        let count = (kind.block * BLOCKS) as usize;
        let (wanted, after) = rest.split_at(count * 4);
        same(kind.dtype, &decoded(kind.dtype, blocks, count), wanted);
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn plain_types() {
    let mut out = [0.0; 2];
    decoder(DType::F32).unwrap()(&[0, 0, 0xc0, 0x7f, 1, 0, 0, 0x80], &mut out);
    assert_eq!(out.map(f32::to_bits), [0x7fc0_0000, 0x8000_0001]);
    decoder(DType::I8).unwrap()(&[0x80, 0x7f], &mut out);
    assert_eq!(out[..], [-128.0, 127.0]);
    assert!(decoder(DType::GGML_OTHER).is_none());
}
