//! Payloads assembled from the written specification by a script that shares
//! no code with the encoder: they decode to the weights listed beside them, and
//! those encode to the same bytes.

use super::decode_bf16;
use crate::codec::testing::{MemoryRows, encode_as, golden};
use crate::codec::{Encoded, codec};
use squizd_spec::{CodecId, DType};

fn check(payload: &[u8], about: &str) {
    let (matrix, params, native) = golden(about, "bf16");
    let words: Vec<u16> = native.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
    let codec = codec(CodecId::TCA_TBE).unwrap();

    let stored = Encoded { name: "golden", matrix, params: &params, data: payload };
    assert_eq!(codec.check(&stored), Ok(()));
    let mut out = vec![0; words.len()];
    decode_bf16(&stored, 0..matrix.rows, &mut out).unwrap();
    assert!(out == words);

    let values = words.iter().map(|w| f32::from_bits(u32::from(*w) << 16)).collect();
    let rows = MemoryRows::native(matrix.rows, matrix.cols, DType::BF16, native, values);
    let encoded = encode_as(codec, &rows, &params).unwrap();
    let differs = encoded.data.iter().zip(payload).position(|(a, b)| a != b);
    assert!(encoded.data == payload, "first difference at byte {differs:?}");
}

macro_rules! golden {
    ($test:ident, $name:literal) => {
        #[test]
        fn $test() {
            check(
                include_bytes!(concat!("../../../../fixtures/golden/v1/", $name, ".bin")),
                include_str!(concat!("../../../../fixtures/golden/v1/", $name, ".json")),
            );
        }
    };
}

golden!(tbe3_is_the_written_layout, "tca-tbe-tbe3");
golden!(tbe2_is_the_written_layout, "tca-tbe-tbe2");
