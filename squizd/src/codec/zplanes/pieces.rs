//! One byte plane of one chunk, coded in whichever way is smallest.

use super::rans;
use crate::{Error, Result};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// How a piece is coded, as the index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The bytes themselves.
    Raw = 0,
    /// A Zstandard frame.
    Zstd = 1,
    /// Order-0 entropy coding.
    Rans = 2,
}

impl Method {
    pub(super) fn of(number: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Rans].into_iter().find(|m| *m as u8 == number)
    }
}

/// Codes planes; one per worker.
pub(super) struct Coder(Compressor<'static>);

impl Coder {
    pub(super) fn new(level: i32) -> Result<Self> {
        Compressor::new(level).map(Self).map_err(Error::io("setting up zstd"))
    }

    /// The smallest form of `plane`; of equals the simplest to decode.
    pub(super) fn encode(&mut self, plane: &[u8]) -> Result<(Method, Vec<u8>)> {
        let mut best = (Method::Raw, None);
        let mut least = plane.len();
        if let Some(coded) = rans::encode(plane).filter(|c| c.len() < least) {
            least = coded.len();
            best = (Method::Rans, Some(coded));
        }
        let frame = self.0.compress(plane).map_err(Error::io("compressing with zstd"))?;
        if frame.len() < least {
            best = (Method::Zstd, Some(frame));
        }
        Ok((best.0, best.1.unwrap_or_else(|| plane.to_vec())))
    }
}

/// Decodes `piece` to exactly `plane.len()` bytes; says what is wrong with it.
pub(super) fn decode(method: Method, piece: &[u8], plane: &mut [u8]) -> std::result::Result<(), String> {
    match method {
        Method::Raw if piece.len() == plane.len() => {
            plane.copy_from_slice(piece);
            Ok(())
        }
        Method::Raw => Err(format!("{} plain bytes, must be {}", piece.len(), plane.len())),
        Method::Rans => rans::decode(piece, plane).map_err(|e| e.0.to_owned()),
        Method::Zstd => {
            let length = Decompressor::new()
                .and_then(|mut d| d.decompress_to_buffer(piece, plane))
                .map_err(|e| format!("its zstd frame does not decode: {e}"))?;
            if length == plane.len() {
                Ok(())
            } else {
                Err(format!("its zstd frame holds {length} bytes, must hold {}", plane.len()))
            }
        }
    }
}

/// Refuses forms that the format does not allow but that decode.
pub(super) fn check(method: Method, piece: &[u8], length: usize) -> std::result::Result<(), String> {
    if method != Method::Raw && piece.len() >= length {
        return Err(format!("{} coded bytes are not fewer than the {length} plain ones", piece.len()));
    }
    if method != Method::Zstd {
        return Ok(());
    }
    // Magic, then the frame header's descriptor: content size of 1 to 8 bytes,
    // neither checksum nor dictionary.
    match piece {
        [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..] if descriptor.trailing_zeros() >= 5 => {}
        _ => return Err("its zstd frame has a checksum, a dictionary or a reserved bit".to_owned()),
    }
    if !matches!(zstd_safe::get_frame_content_size(piece), Ok(Some(n)) if n == length as u64) {
        return Err(format!("its zstd frame does not state its {length} bytes"));
    }
    match zstd_safe::find_frame_compressed_size(piece) {
        Ok(used) if used == piece.len() => Ok(()),
        _ => Err("bytes follow its zstd frame".to_owned()),
    }
}
