//! ggml's blocks, taken over by the codecs, decode to the values that the
//! `gguf` package gives them (`fixtures/gguf/make_vectors.py`).

use safetensors::SafeTensors;
use squizd::{
    Result,
    codec::{EncodeOptions, Encoded, PayloadSink, Request, Rows, codec},
};
use squizd_spec::{CodecId, DType, Matrix};
use std::{borrow::Cow, ops::Range, sync::Mutex};

/// One row of blocks.
struct Blocks<'a> {
    dtype: DType,
    cols: u64,
    bytes: &'a [u8],
}

impl Rows for Blocks<'_> {
    fn name(&self) -> &'static str {
        "blocks"
    }

    fn matrix(&self) -> Matrix {
        Matrix { rows: 1, cols: self.cols }
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, _: Range<u64>, out: &mut [f32]) -> Result<()> {
        super::dequant::decoder(self.dtype).unwrap()(self.bytes, out);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(Some(self.bytes.into()))
    }

    fn release(&self, _: Range<u64>) {}
}

struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut data = self.0.lock().unwrap();
        data[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// The weights as the file would give them.
fn stored(id: CodecId, rows: &Blocks<'_>) -> Result<Vec<f32>> {
    let codec = codec(id).unwrap();
    let request = Request::from(EncodeOptions::NONE);
    assert!(codec.imports(rows.dtype, rows.matrix(), &request.options));
    let params = codec.plan(rows, &request)?;
    let length = id.geometry(rows.matrix(), &params).unwrap().length.max();
    let payload = Payload(vec![0; length as usize].into());
    let (_, stats) = codec.encode(rows, &params, &request, &payload)?;
    assert_eq!(stats.noise.to_bits(), 0);
    let data = payload.0.into_inner().unwrap();
    let tensor = Encoded { name: "blocks", matrix: rows.matrix(), params: &params, data: &data };
    assert_eq!(codec.check(&tensor), Ok(()));
    let mut out = vec![f32::NAN; rows.cols as usize];
    codec.decode(&tensor, 0..1, &mut out)?;
    Ok(out)
}

#[test]
fn imported_blocks_keep_the_values_of_the_gguf_package() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/dequant_vectors.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (dtype, id) in [
        (DType::Q4_0, CodecId::INT4),
        (DType::Q4_1, CodecId::INT4),
        (DType::Q4_K, CodecId::INT4),
        (DType::Q8_0, CodecId::Q8),
        (DType::MXFP4, CodecId::MXFP4),
    ] {
        let kind = super::TYPES.iter().find(|t| t.dtype == dtype).unwrap();
        let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap();
        let wanted = file.tensor(&format!("{dtype}.f32")).unwrap();
        let values: Vec<f32> = wanted.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (mut kept, mut refused) = (0, 0);
        for (bytes, wanted) in
            blocks.data().chunks(kind.bytes as usize).zip(values.chunks(kind.block as usize))
        {
            match stored(id, &Blocks { dtype, cols: kind.block, bytes }) {
                Ok(found) => {
                    kept += 1;
                    for (f, w) in found.iter().zip(wanted) {
                        // Zero may lose its sign.
                        assert!(f.to_bits() == w.to_bits() || *f == 0.0 && *w == 0.0, "{dtype}: {f:e} {w:e}");
                    }
                }
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().contains("row 0, column 0"), "{dtype}: {e}");
                    // Only scales beyond what any model has: of 2^12 and more, or the NaN of MXFP4.
                    assert!(wanted.iter().any(|w| w.abs() >= 4096.0 || !w.is_finite()), "{dtype}: {e}");
                }
            }
        }
        assert!(kept >= 9 && refused * 3 <= kept, "{dtype}: {kept} kept, {refused} refused");
    }
}
