//! Every on-disk record, declared once and shared by reader and writer.
//!
//! All integers are little-endian. The structs have alignment 1 or use
//! zerocopy's unaligned integer types, so they can be cast in place at any
//! address.

use zerocopy::little_endian::{F32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First four bytes of a file.
pub const MAGIC: [u8; 4] = *b"SQZD";
/// `major << 8 | minor` written by this version.
pub const VERSION: u16 = 0x0100;
/// Bytes of the header; the section directory follows it.
pub const HEADER_SIZE: u64 = 256;
/// Alignment of the payload, draft head, sparsity and Core ML sections, and
/// the unit the payload is padded to: one page of Apple silicon, so that a
/// mapping becomes a Metal buffer without a copy.
pub const PAGE: u64 = 16384;
/// Alignment of every other section.
pub const SECTION_ALIGN: u64 = 64;
/// Alignment of a tensor's payload within its section (`wgpu`'s
/// `min_storage_buffer_offset_alignment`).
pub const TENSOR_ALIGN: u64 = 256;
/// Dimensions a record can hold.
pub const MAX_RANK: usize = 6;
/// Bytes of codec parameters in a record.
pub const PARAMS_SIZE: usize = 32;

/// File header, bytes 0..256. Fields 0..39 are packed as in the source
/// documents' struct `<4sHIBHIHIffQ`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// `SQZD`.
    pub magic: [u8; 4],
    /// `major << 8 | minor`.
    pub version: U16,
    /// Summary of codecs and appendices present, see [`flags`].
    pub flags: U32,
    /// [`crate::ArchId`].
    pub arch: u8,
    /// Transformer blocks.
    pub num_layers: U16,
    /// Residual width.
    pub hidden_dim: U32,
    /// Query heads.
    pub num_heads: U16,
    /// Rows of the token embedding.
    pub vocab_size: U32,
    /// Payload bits (tensor lengths, without alignment padding) per weight.
    pub compression_bpw: F32,
    /// Mean expected sparsity of the sparsity appendix, else 0.
    pub sparsity_ratio: F32,
    /// First 8 bytes of the calibration file's SHA-256, little-endian, else 0.
    pub calibration_hash: U64,
    /// Zero.
    pub pad: u8,
    /// 256.
    pub header_size: U32,
    /// Entries of the section directory.
    pub section_count: U32,
    /// Bytes of the whole file.
    pub file_length: U64,
    /// Offset of the section directory, 256.
    pub directory_offset: U64,
    /// Zero.
    pub reserved: [u8; 152],
    /// SHA-256 over header (this field and the checksum zeroed), directory,
    /// string table and tensor table.
    pub root_digest: [u8; 32],
    /// First 8 bytes of the SHA-256 over the header with this field zeroed.
    pub checksum: [u8; 8],
}

/// One entry of the section directory.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SectionEntry {
    /// [`crate::SectionKind`].
    pub kind: U32,
    /// Bits of [`section_flags`].
    pub flags: U32,
    /// Absolute offset.
    pub offset: U64,
    /// Bytes in the file.
    pub stored_length: U64,
    /// Bytes after decompression; equal to `stored_length` when stored plain.
    pub length: U64,
    /// SHA-256 over the stored bytes; for the payload, over its tensors'
    /// digests in table order.
    pub sha256: [u8; 32],
}

/// One tensor: 152 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TensorRecord {
    /// Offset of the name in the string table.
    pub name_offset: U32,
    /// Bytes of the name.
    pub name_length: U16,
    /// [`crate::Role`].
    pub role: U16,
    /// Layer index, or [`crate::NO_LAYER`].
    pub layer: U16,
    /// Experts stacked along the first dimension, 0 for a tensor without experts.
    pub experts: U16,
    /// [`crate::CodecId`].
    pub codec: U16,
    /// [`crate::DType`] of the source.
    pub source_dtype: u8,
    /// Dimensions used, 1..=6.
    pub rank: u8,
    /// [`crate::Part`].
    pub part: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// Dimensions, outermost first; unused ones are zero.
    pub dims: [U64; MAX_RANK],
    /// Codec parameters, see the codec's section of the specification.
    pub params: [u8; PARAMS_SIZE],
    /// Payload offset from the start of the payload section.
    pub payload_offset: U64,
    /// Payload bytes, without alignment padding.
    pub payload_length: U64,
    /// SHA-256 over the payload bytes.
    pub sha256: [u8; 32],
}

/// Header flag bits: which codecs and appendices the file holds.
pub mod flags {
    /// ASTC tensors.
    pub const ASTC: u32 = 1 << 0;
    /// TCA-TBE tensors.
    pub const TCA_TBE: u32 = 1 << 1;
    /// INT4 tensors.
    pub const INT4: u32 = 1 << 2;
    /// INT3 tensors.
    pub const INT3: u32 = 1 << 3;
    /// INT2 tensors.
    pub const INT2: u32 = 1 << 4;
    /// Sparsity appendix.
    pub const SPARSE: u32 = 1 << 5;
    /// Core ML appendix.
    pub const ANE_COREML: u32 = 1 << 6;
    /// EAGLE draft head appendix.
    pub const EAGLE_DRAFT: u32 = 1 << 7;
    /// MXFP4 tensors.
    pub const MXFP4: u32 = 1 << 8;
    /// SQINT2 tensors.
    pub const SQINT2: u32 = 1 << 9;
    /// HYBRID tensors.
    pub const HYBRID: u32 = 1 << 10;
    /// Names of the bits, in order.
    pub const NAMES: [(u32, &str); 11] = [
        (ASTC, "ASTC"),
        (TCA_TBE, "TCA_TBE"),
        (INT4, "INT4"),
        (INT3, "INT3"),
        (INT2, "INT2"),
        (SPARSE, "SPARSE"),
        (ANE_COREML, "ANE_COREML"),
        (EAGLE_DRAFT, "EAGLE_DRAFT"),
        (MXFP4, "MXFP4"),
        (SQINT2, "SQINT2"),
        (HYBRID, "HYBRID"),
    ];
    /// Every bit v1.0 defines.
    pub const KNOWN: u32 = (1 << 11) - 1;
}

/// Section flag bits.
pub mod section_flags {
    /// A reader that does not know the section's kind must refuse the file.
    pub const CRITICAL: u32 = 1 << 0;
    /// Stored as one zstd frame.
    pub const ZSTD: u32 = 1 << 1;
    /// Every bit v1.0 defines.
    pub const KNOWN: u32 = CRITICAL | ZSTD;
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_SIZE as usize);
    assert!(core::mem::offset_of!(Header, calibration_hash) == 31);
    assert!(core::mem::offset_of!(Header, header_size) == 40);
    assert!(core::mem::offset_of!(Header, file_length) == 48);
    assert!(core::mem::offset_of!(Header, root_digest) == 216);
    assert!(core::mem::offset_of!(Header, checksum) == 248);
    assert!(size_of::<SectionEntry>() == 64);
    assert!(size_of::<TensorRecord>() == 152);
    assert!(core::mem::offset_of!(TensorRecord, dims) == 24);
    assert!(core::mem::offset_of!(TensorRecord, params) == 72);
    assert!(core::mem::offset_of!(TensorRecord, payload_offset) == 104);
    assert!(core::mem::offset_of!(TensorRecord, sha256) == 120);
};
