//! Every decoder against the values that `gguf/quants.py` computed
//! (`fixtures/gguf/make_vectors.py`), bit for bit.

use super::decoder;
use safetensors::SafeTensors;
use squizd_spec::DType;

fn compare(file: &SafeTensors<'_>, dtype: DType) {
    let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap();
    let wanted = file.tensor(&format!("{dtype}.f32")).unwrap();
    let wanted: Vec<u32> =
        wanted.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).to_bits()).collect();
    let mut found = vec![f32::NAN; wanted.len()];
    decoder(dtype).unwrap()(blocks.data(), &mut found);
    assert!(found.len() >= 1000, "{dtype}: {} values", found.len());
    for (i, (f, w)) in found.iter().zip(&wanted).enumerate() {
        assert_eq!(f.to_bits(), *w, "{dtype} weight {i}: {f} instead of {}", f32::from_bits(*w));
    }
}

#[test]
fn every_type_decodes_as_the_gguf_package_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/dequant_vectors.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let types: Vec<DType> = DType::ALL
        .iter()
        .copied()
        .filter(|t| ![DType::F32, DType::I8, DType::GGML_OTHER].contains(t))
        .collect();
    assert_eq!(file.len(), 2 * types.len());
    for dtype in types {
        compare(&file, dtype);
    }
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
