//! Caps on what a GGUF file may declare, all in one place. Counts are also
//! held against the bytes that are left before anything is allocated.

/// Caps of the GGUF reader; the defaults pass every published model with room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufLimits {
    /// Metadata pairs (models have about 50).
    pub pairs: u64,
    /// Bytes of a metadata key (the GGUF specification's own cap).
    pub key: u64,
    /// Bytes of one string (chat templates reach 100 KiB).
    pub string: u64,
    /// Elements of one array (vocabularies reach 262,144).
    pub array: u64,
    /// Bytes of header, metadata and tensor infos together.
    pub header: u64,
    /// Tensors in all parts (the largest experts models have about 2,000).
    pub tensors: u64,
    /// Bytes of a tensor name (ggml itself holds 63).
    pub name: u64,
    /// Dimensions of a tensor (ggml's `GGML_MAX_DIMS`).
    pub dims: u32,
    /// Bytes of `general.alignment`.
    pub alignment: u64,
    /// Parts of a split model.
    pub parts: u32,
}

impl GgufLimits {
    /// The documented defaults.
    pub const DEFAULT: Self = Self {
        pairs: 1 << 16,
        key: 65_535,
        string: 1 << 26,
        array: 1 << 26,
        header: 1 << 30,
        tensors: 1 << 18,
        name: 512,
        dims: 4,
        alignment: 1 << 20,
        parts: 4096,
    };
}

impl Default for GgufLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
