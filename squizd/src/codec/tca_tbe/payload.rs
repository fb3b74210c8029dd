//! The parts of a coded payload, as slices whose sizes have been checked.

use crate::codec::check::{payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::{CodecId, Geometry, tbe};

/// Weights of a superblock.
pub(super) const SUPERBLOCK: usize = tbe::SUPERBLOCK as usize;
/// Bytes of a full superblock's bit plane.
pub(super) const PLANE: usize = SUPERBLOCK / 8;
/// Bytes of the head.
pub(super) const HEAD: usize = tbe::HEAD as usize;

/// The head: 64 bytes at the payload's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Profile, as in parameter byte 0.
    pub(super) profile: u8,
    /// Superblocks of a row.
    pub(super) per_row: u32,
    /// Superblocks of the tensor.
    pub(super) superblocks: u64,
    /// Weights of the tensor.
    pub(super) elements: u64,
    /// Bytes of the side stream, without the zeros behind it.
    pub(super) stream: u64,
}

impl Head {
    /// Layout version of the head.
    const VERSION: u8 = 1;

    /// The head of a tensor with the given geometry inputs.
    pub(super) fn of(matrix: squizd_spec::Matrix, profile: u8, stream: u64) -> Self {
        let per_row = matrix.cols.div_ceil(tbe::SUPERBLOCK);
        Self {
            profile,
            per_row: u32::try_from(per_row).unwrap_or(u32::MAX),
            superblocks: matrix.rows.saturating_mul(per_row),
            elements: matrix.elements(),
            stream,
        }
    }

    /// The stored bytes.
    pub(super) fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[0] = Self::VERSION;
        bytes[1] = self.profile;
        bytes[4..8].copy_from_slice(&self.per_row.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.superblocks.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.elements.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.stream.to_le_bytes());
        bytes
    }
}

/// Bit of a TBE3 index entry: the escapes are nibbles.
pub(super) const NIBBLES: u16 = 1 << 15;

/// Where the anchors begin, and where the side stream.
pub(super) fn tail_starts(geometry: &Geometry, rows: u64) -> (u64, u64) {
    let [_, bases, fixed, _] = geometry.planes;
    let anchors = (fixed.offset + fixed.row_stride * rows).next_multiple_of(tbe::STREAM_ALIGN);
    let count = (bases.row_stride * rows).div_ceil(tbe::ANCHORED);
    (anchors, (anchors + 4 * count).next_multiple_of(tbe::STREAM_ALIGN))
}

/// Length of a payload whose side stream of `stream` bytes begins at `start`.
pub(super) fn total_length(start: u64, stream: u64) -> u64 {
    (start + stream + tbe::STREAM_SLACK).next_multiple_of(tbe::STREAM_ALIGN)
}

/// A coded payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    /// [`tbe::TBE3`] or [`tbe::TBE2`].
    pub(super) profile: u8,
    /// Exponent offsets of the second and third level.
    pub(super) palette: [u8; 6],
    /// Rows of the matrix.
    pub(super) rows: usize,
    /// Weights of a row.
    pub(super) cols: usize,
    /// Superblocks of a row.
    pub(super) per_row: usize,
    /// Where each superblock's part of the side stream begins, counted from
    /// its anchor; in TBE3 with the bit [`NIBBLES`].
    pub(super) index: &'a [[u8; 2]],
    /// Where each run of [`tbe::ANCHORED`] superblocks begins in the side stream.
    pub(super) anchors: &'a [[u8; 4]],
    /// Base exponents.
    pub(super) bases: &'a [u8],
    /// Bit planes and sign/mantissa bytes.
    pub(super) fixed: &'a [u8],
    /// Bytes of a row in `fixed`.
    pub(super) row_bytes: usize,
    /// The side stream.
    pub(super) stream: &'a [u8],
    /// The side stream and the zeros behind it.
    pub(super) padded_stream: &'a [u8],
}

/// One superblock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock<'a> {
    /// Weights, at most [`SUPERBLOCK`].
    pub(super) weights: usize,
    /// Base exponent.
    pub(super) base: u8,
    /// Bytes of one bit plane: an eighth of the weights, padded to 32.
    pub(super) width: usize,
    /// Bit planes, one after the other.
    pub(super) planes: &'a [u8],
    /// Sign and mantissa of each weight, padding included.
    pub(super) signs: &'a [u8],
    /// Whether escapes are nibbles (TBE3).
    pub(super) nibbles: bool,
    /// The side stream from its part on.
    pub(super) stream: &'a [u8],
    /// The same with the zeros behind it, at least [`tbe::STREAM_SLACK`].
    pub(super) padded_stream: &'a [u8],
}

impl<'a> Payload<'a> {
    /// The parts of `tensor`'s payload, which is not of profile
    /// [`tbe::PLAIN`]. The head must be the one that an encoder writes.
    pub(super) fn parse(tensor: &Encoded<'a>) -> Result<Self, Violation> {
        let geometry = payload(CodecId::TCA_TBE, tensor)?;
        let Encoded { matrix, params, data, .. } = *tensor;
        let [index, bases, fixed, _] = geometry.planes;
        let [profile, a, b, c, d, e, f, ..] = *params;
        let stored = data.get(..HEAD).unwrap_or_default();
        let length = stored.get(24..32).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let head = Head::of(matrix, profile, length).to_bytes();
        if let Some(at) = stored.iter().zip(&head).position(|(a, b)| a != b) {
            return Err(Violation {
                offset: at as u64,
                code: "tca-tbe-head",
                message: format!(
                    "head byte {at} is {:#04x}, must be {:#04x}",
                    stored.get(at).copied().unwrap_or(0),
                    head.get(at).copied().unwrap_or(0)
                ),
            });
        }
        let (anchors, start) = tail_starts(&geometry, matrix.rows);
        if start.checked_add(length).is_none_or(|end| end > data.len() as u64)
            || total_length(start, length) != data.len() as u64
        {
            return Err(Violation {
                offset: 24,
                code: "tca-tbe-head",
                message: format!(
                    "side stream of {length} bytes does not fit a payload of {} bytes",
                    data.len()
                ),
            });
        }
        let plane = |p: squizd_spec::Plane| slice(data, p.offset, p.offset + p.row_stride * matrix.rows);
        Ok(Self {
            profile,
            palette: [a, b, c, d, e, f],
            rows: matrix.rows as usize,
            cols: matrix.cols as usize,
            per_row: bases.row_stride as usize,
            index: plane(index).as_chunks().0,
            anchors: slice(data, anchors, start).as_chunks().0,
            bases: plane(bases),
            fixed: plane(fixed),
            row_bytes: fixed.row_stride as usize,
            stream: slice(data, start, start + length),
            padded_stream: slice(data, start, data.len() as u64),
        })
    }

    /// Bit planes of the profile.
    pub(super) fn plane_count(&self) -> usize {
        usize::from(self.profile)
    }

    /// Where the part of superblock `i` of the tensor begins, and whether its
    /// escapes are nibbles.
    #[inline(always)]
    pub(super) fn start(&self, i: usize) -> Option<(usize, bool)> {
        let entry = u16::from_le_bytes(*self.index.get(i)?);
        let anchor = u32::from_le_bytes(*self.anchors.get(i / tbe::ANCHORED as usize)?);
        let nibbles = self.profile == tbe::TBE3 && entry & NIBBLES != 0;
        let entry = if self.profile == tbe::TBE3 { entry & !NIBBLES } else { entry };
        Some((anchor as usize + usize::from(entry), nibbles))
    }

    /// Superblock `s` of `row`; `None` if there is no such, or it begins behind
    /// the side stream.
    #[inline(always)]
    pub(super) fn superblock(&self, row: usize, s: usize) -> Option<Superblock<'a>> {
        let i = row * self.per_row + s;
        let (start, nibbles) = self.start(i)?;
        let weights = self.cols.checked_sub(s * SUPERBLOCK)?.min(SUPERBLOCK);
        let width = weights.div_ceil(32) * 4;
        // A full superblock has PLANE bytes in each plane and 8 PLANE behind them.
        let at = row * self.row_bytes + s * PLANE * (self.plane_count() + 8);
        let (planes, rest) = self.fixed.get(at..)?.split_at_checked(self.plane_count() * width)?;
        Some(Superblock {
            weights,
            base: *self.bases.get(i)?,
            width,
            planes,
            signs: rest.get(..8 * width)?,
            nibbles,
            stream: self.stream.get(start..)?,
            padded_stream: self.padded_stream.get(start..)?,
        })
    }
}

/// The exponents that nibbles 0 to 15 stand for: twelve below the window of
/// seven from `base`, four above it.
#[inline(always)]
pub(super) fn nibble_table(base: u8) -> [u8; 16] {
    let mut table = [0; 16];
    for (n, entry) in (0..16u8).zip(&mut table) {
        *entry = base.wrapping_add(if n < 12 { 255 - n } else { n - 5 });
    }
    table
}
