//! Caps of the safetensors reader, all in one place.

/// Bytes of a shard's JSON header (the format's own cap).
pub(super) const HEADER: u64 = 100_000_000;
/// Bytes of `model.safetensors.index.json`.
pub(super) const INDEX: u64 = 100_000_000;
/// Tensors in all shards (unstacked experts reach some 50,000).
pub(super) const TENSORS: usize = 1 << 18;
/// Bytes of a tensor name.
pub(super) const NAME: usize = 512;
/// Dimensions of a tensor.
pub(super) const RANK: usize = 8;
/// Shards of a checkpoint (the largest have some 200).
pub(super) const SHARDS: usize = 4096;
