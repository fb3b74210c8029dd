//! Every cap in one place. Each length is checked against these before
//! anything is allocated.

/// Caps on what a file may declare. Defaults fit every published model with
/// an order of magnitude to spare; callers may tighten or widen them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the section directory.
    pub sections: u32,
    /// Records in the tensor table.
    pub tensors: u32,
    /// Bytes of the string table.
    pub strings: u64,
    /// Bytes of one tensor name.
    pub name: u16,
    /// Value of one dimension.
    pub dim: u64,
    /// Elements of one tensor.
    pub elements: u64,
    /// Layers in the header.
    pub layers: u16,
    /// Stored bytes of one compressible section (tokenizer, metadata).
    pub section_stored: u64,
    /// Bytes of one section after decompression.
    pub section_inflated: u64,
    /// Allowed ratio of decompressed to stored bytes, past the first mebibyte.
    pub inflate_ratio: u64,
    /// Files in the tokenizer section.
    pub bundle_files: u32,
    /// Clusters of one sparsity layer.
    pub clusters: u16,
    /// Entries in the Core ML package.
    pub package_entries: u32,
    /// Layers of a draft head.
    pub draft_layers: u8,
}

impl Limits {
    /// The documented defaults.
    pub const DEFAULT: Self = Self {
        sections: 64,
        tensors: 1 << 20,
        strings: 1 << 26,
        name: 512,
        dim: 1 << 40,
        elements: 1 << 44,
        layers: 4096,
        section_stored: 1 << 28,
        section_inflated: 1 << 29,
        inflate_ratio: 256,
        bundle_files: 64,
        clusters: 4096,
        package_entries: 4096,
        draft_layers: 16,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
