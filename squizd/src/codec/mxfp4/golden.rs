//! A payload assembled from the written specification by a script that shares
//! no code with the encoder: it decodes to the weights listed beside it, and
//! those encode to the same bytes (their scales are the floor rule's).

use super::*;
use crate::codec::testing::{MemoryRows, encode, golden};

#[test]
fn mxfp4_is_the_written_layout() {
    let payload = include_bytes!("../../../../fixtures/golden/v1/mxfp4.bin");
    let about = include_str!("../../../../fixtures/golden/v1/mxfp4.json");
    let (matrix, params, bytes) = golden(about, "f32");
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();

    let stored = Encoded { name: "golden", matrix, params: &params, data: payload };
    assert_eq!(CODEC.check(&stored), Ok(()));
    let mut out = vec![f32::NAN; values.len()];
    CODEC.decode(&stored, 0..matrix.rows, &mut out).unwrap();
    for (i, (o, v)) in out.iter().zip(&values).enumerate() {
        assert_eq!(o.to_bits(), v.to_bits(), "weight {i}: {o:e} {v:e}");
    }

    let encoded = encode(CODEC, &MemoryRows::f32(matrix.rows, matrix.cols, values), None).unwrap();
    assert_eq!((encoded.params, encoded.stats.noise.to_bits()), (params, 0));
    let differs = encoded.data.iter().zip(payload).position(|(a, b)| a != b);
    assert!(encoded.data == payload, "first difference at byte {differs:?}");
}
