//! Element types that safetensors headers name.

use squizd_spec::DType;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: &'static str,
    /// Bits of one element.
    pub(super) bits: u64,
    /// [`DType::GGML_OTHER`] stands for a type that is carried, not decoded.
    pub(super) dtype: DType,
}

const fn carried(name: &'static str, bits: u64) -> Element {
    Element { name, bits, dtype: DType::GGML_OTHER }
}

const fn read(name: &'static str, bits: u64, dtype: DType) -> Element {
    Element { name, bits, dtype }
}

/// The types of safetensors 0.8.
pub(super) const ELEMENTS: &[Element] = &[
    read("F32", 32, DType::F32),
    read("F16", 16, DType::F16),
    read("BF16", 16, DType::BF16),
    read("I8", 8, DType::I8),
    carried("BOOL", 8),
    carried("U8", 8),
    carried("I16", 16),
    carried("U16", 16),
    carried("I32", 32),
    carried("U32", 32),
    carried("I64", 64),
    carried("U64", 64),
    carried("F64", 64),
    carried("C64", 64),
    carried("F8_E4M3", 8),
    carried("F8_E5M2", 8),
    carried("F8_E8M0", 8),
    carried("F8_E4M3FNUZ", 8),
    carried("F8_E5M2FNUZ", 8),
    carried("F6_E2M3", 6),
    carried("F6_E3M2", 6),
    carried("F4", 4),
];

/// The type called `name`.
pub(super) fn element(name: &str) -> Option<&'static Element> {
    ELEMENTS.iter().find(|e| e.name == name)
}
