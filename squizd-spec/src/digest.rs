//! The file's digests: header checksum, root digest, weights digest, tensor
//! and payload digests. Each stored byte is hashed once.

use crate::layout::{Header, SectionEntry};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

/// A SHA-256 value.
pub type Sha = [u8; 32];

/// SHA-256 of one run of bytes.
pub fn sha256(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

/// SHA-256 over several runs of bytes, one after the other.
pub fn sha256_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Sha {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// First 8 bytes of the SHA-256 over the header with its checksum zeroed.
pub fn header_checksum(header: &Header) -> [u8; 8] {
    let digest = sha256(Header { checksum: [0; 8], ..*header }.as_bytes());
    let mut out = [0; 8];
    for (o, d) in out.iter_mut().zip(digest) {
        *o = d;
    }
    out
}

/// SHA-256 over the header (root digest and checksum zeroed), the directory,
/// the string table and the tensor table.
pub fn root_digest(header: &Header, directory: &[SectionEntry], strings: &[u8], tensors: &[u8]) -> Sha {
    let bare = Header { root_digest: [0; 32], checksum: [0; 8], ..*header };
    sha256_of([bare.as_bytes(), directory.as_bytes(), strings, tensors])
}

/// SHA-256 over the tensor records and the string table: the identity of the
/// weights, to which draft heads and Core ML packages bind.
pub fn weights_digest(tensors: &[u8], strings: &[u8]) -> Sha {
    sha256_of([tensors, strings])
}
