//! ggml's tensor types: wire number, name and block geometry.

use squizd_spec::DType;

/// A ggml tensor type. `block` weights of one row share `bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// Number in the file.
    pub id: u32,
    /// ggml's name.
    pub name: &'static str,
    /// Weights per block.
    pub block: u64,
    /// Bytes per block.
    pub bytes: u64,
    /// The element type it is known by here; `GGML_OTHER` is carried, not decoded.
    pub dtype: DType,
}

const fn ty(id: u32, name: &'static str, block: u64, bytes: u64, dtype: DType) -> GgmlType {
    GgmlType { id, name, block, bytes, dtype }
}

/// Every type that has a geometry, by ascending id (`GGML_QUANT_SIZES` of the
/// `gguf` package 0.19).
pub const TYPES: &[GgmlType] = &[
    ty(0, "F32", 1, 4, DType::F32),
    ty(1, "F16", 1, 2, DType::F16),
    ty(2, "Q4_0", 32, 18, DType::Q4_0),
    ty(3, "Q4_1", 32, 20, DType::Q4_1),
    ty(6, "Q5_0", 32, 22, DType::Q5_0),
    ty(7, "Q5_1", 32, 24, DType::Q5_1),
    ty(8, "Q8_0", 32, 34, DType::Q8_0),
    ty(9, "Q8_1", 32, 40, DType::GGML_OTHER),
    ty(10, "Q2_K", 256, 84, DType::Q2_K),
    ty(11, "Q3_K", 256, 110, DType::Q3_K),
    ty(12, "Q4_K", 256, 144, DType::Q4_K),
    ty(13, "Q5_K", 256, 176, DType::Q5_K),
    ty(14, "Q6_K", 256, 210, DType::Q6_K),
    ty(15, "Q8_K", 256, 292, DType::GGML_OTHER),
    ty(16, "IQ2_XXS", 256, 66, DType::IQ2_XXS),
    ty(17, "IQ2_XS", 256, 74, DType::IQ2_XS),
    ty(18, "IQ3_XXS", 256, 98, DType::IQ3_XXS),
    ty(19, "IQ1_S", 256, 50, DType::IQ1_S),
    ty(20, "IQ4_NL", 32, 18, DType::IQ4_NL),
    ty(21, "IQ3_S", 256, 110, DType::IQ3_S),
    ty(22, "IQ2_S", 256, 82, DType::IQ2_S),
    ty(23, "IQ4_XS", 256, 136, DType::IQ4_XS),
    ty(24, "I8", 1, 1, DType::I8),
    ty(25, "I16", 1, 2, DType::GGML_OTHER),
    ty(26, "I32", 1, 4, DType::GGML_OTHER),
    ty(27, "I64", 1, 8, DType::GGML_OTHER),
    ty(28, "F64", 1, 8, DType::GGML_OTHER),
    ty(29, "IQ1_M", 256, 56, DType::IQ1_M),
    ty(30, "BF16", 1, 2, DType::BF16),
    ty(34, "TQ1_0", 256, 54, DType::TQ1_0),
    ty(35, "TQ2_0", 256, 66, DType::TQ2_0),
    ty(39, "MXFP4", 32, 17, DType::MXFP4),
    ty(40, "NVFP4", 64, 36, DType::NVFP4),
    ty(41, "Q1_0", 128, 18, DType::GGML_OTHER),
];

/// Types that ggml has removed; files with them predate the removal.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// The type with wire number `id`, or why there is none.
pub fn ggml_type(id: u32) -> Result<&'static GgmlType, String> {
    if let Ok(i) = TYPES.binary_search_by_key(&id, |t| t.id) {
        return Ok(&TYPES[i]);
    }
    Err(match REMOVED.iter().find(|(old, _)| *old == id) {
        Some((_, name)) => format!("type {id} ({name}), which ggml has removed: requantize the model"),
        None => format!("ggml type {id}, unknown to this build (it knows 0 to 41)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_named_by_dtype() {
        assert!(TYPES.is_sorted_by(|a, b| a.id < b.id));
        for t in TYPES.iter().filter(|t| t.dtype != DType::GGML_OTHER) {
            assert_eq!(t.dtype.name(), Some(t.name));
        }
        assert_eq!(ggml_type(12).unwrap().name, "Q4_K");
        assert!(ggml_type(31).unwrap_err().contains("Q4_0_4_4"));
        assert!(ggml_type(u32::MAX).unwrap_err().contains("type 4294967295, unknown"));
    }
}
