//! Every codec's decoder and kernels on payloads from nowhere.

use crate::corpus::Corpus;
use squizd::codec::{Activation, CODECS, Codec, Encoded, Precision};
use squizd_spec::{Limits, Matrix, PayloadLength, SquizdRef, TensorView};

/// Bytes before the payload: codec, rows, columns (u16), parameters.
const HEAD: usize = 1 + 1 + 2 + 8;
/// Largest payload made up.
const MOST: u64 = 1 << 20;

/// The first byte chooses the codec, then come rows, columns (u16), eight
/// parameter bytes, the payload; it is cut or filled up with its own bytes to
/// a length that the geometry allows. A payload that the codec's check passes
/// decodes; whole, row by row and in the kernel alike.
pub fn codec(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<HEAD>() else { return };
    let codec = codec_at(head[0]);
    let matrix = Matrix {
        rows: u64::from(head[1] % 40),
        cols: u64::from(u16::from_le_bytes([head[2], head[3]]) % 2100),
    };
    let mut params = [0; 32];
    params[..8].copy_from_slice(&head[4..]);
    let Ok(geometry) = codec.id().geometry(matrix, &params) else {
        // Refused by parser and codec alike.
        let tensor = Encoded { name: "t", matrix, params: &params, data: payload };
        assert!(codec.check(&tensor).is_err());
        let mut out = vec![0.0; matrix.elements() as usize];
        assert!(codec.decode(&tensor, 0..matrix.rows, &mut out).is_err());
        return;
    };
    let length = match geometry.length {
        PayloadLength::Exact(n) => n,
        PayloadLength::Within { min, max } => (payload.len() as u64).clamp(min, max),
    };
    if length > MOST {
        return;
    }
    let mut bytes: Vec<u8> =
        payload.iter().copied().cycle().take(if payload.is_empty() { 0 } else { length as usize }).collect();
    bytes.resize(length as usize, 0);
    check(codec, &Encoded { name: "t", matrix, params: &params, data: &bytes });
}

fn codec_at(choice: u8) -> &'static dyn Codec {
    CODECS[usize::from(choice) % CODECS.len()]
}

fn check(codec: &dyn Codec, tensor: &Encoded<'_>) {
    let Matrix { rows, cols } = tensor.matrix;
    let mut whole = vec![0.0f32; (rows * cols) as usize];
    let sound = codec.check(tensor);
    if let Err(v) = &sound {
        assert!(v.offset <= tensor.data.len() as u64, "{v:?}");
    }
    let decoded = codec.decode(tensor, 0..rows, &mut whole);
    assert!(
        sound.is_err() || decoded.is_ok(),
        "{}: passes the check, does not decode: {decoded:?}",
        codec.id()
    );
    let x: Vec<f32> = (0..cols).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut y = vec![0.0; rows as usize];
    for precision in [Precision::F32, Precision::Q8] {
        codec.matvec(tensor, &Activation::new(&x, precision), 0..rows, &mut y);
    }
    if decoded.is_ok() && cols > 0 {
        let mut row = vec![0.0f32; cols as usize];
        for (r, expected) in (0..rows).zip(whole.chunks(cols as usize)) {
            codec.decode(tensor, r..r + 1, &mut row).expect("a row of a tensor that decodes");
            assert!(
                row.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{}: row {r}",
                codec.id()
            );
        }
    }
    assert!(codec.decode(tensor, 0..rows + 1, &mut whole).is_err(), "rows past the end");
}

/// Payloads of the valid files and of the hostile ones that parse.
pub fn seeds(corpus: &Corpus) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for bytes in super::container::files(corpus) {
        let Ok(file) = SquizdRef::parse(&bytes, &Limits::DEFAULT) else { continue };
        seeds.extend(file.tensors().filter_map(|t| seed(&t)));
    }
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

fn seed(t: &TensorView<'_>) -> Option<Vec<u8>> {
    let matrix = t.matrix();
    let codec = CODECS.iter().position(|c| c.id() == t.codec)?;
    let mut seed = vec![codec as u8, u8::try_from(matrix.rows).ok()?];
    seed.extend(u16::try_from(matrix.cols).ok()?.to_le_bytes());
    seed.extend(&t.params[..8]);
    seed.extend(t.data);
    Some(seed)
}
