//! Payloads assembled from the written specification by a script that shares
//! no code with the encoder: they decode to the weights listed beside them.

use super::*;
use crate::codec::testing::golden;

fn check(payload: &[u8], about: &str) {
    let (matrix, params, plain) = golden(about, "plain");
    let stored = Encoded { name: "golden", matrix, params: &params, data: payload };
    assert_eq!(CODEC.check(&stored), Ok(()));
    let (raw, numbers) = CODEC.unpack(&stored).unwrap().unwrap();
    assert_eq!(raw, CodecId::RAW_F32);
    assert!(*numbers == plain);
    let mut out = vec![f32::NAN; plain.len() / 4];
    CODEC.decode(&stored, 0..matrix.rows, &mut out).unwrap();
    assert!(out.iter().flat_map(|v| v.to_le_bytes()).eq(plain));
}

#[test]
fn zplanes_is_the_written_layout() {
    check(
        include_bytes!("../../../../fixtures/golden/v1/zplanes.bin"),
        include_str!("../../../../fixtures/golden/v1/zplanes.json"),
    );
    check(
        include_bytes!("../../../../fixtures/golden/v1/zplanes-zstd.bin"),
        include_str!("../../../../fixtures/golden/v1/zplanes-zstd.json"),
    );
}
