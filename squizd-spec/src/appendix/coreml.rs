//! Core ML appendix: an `.mlpackage` as a deterministic stored-only zip, with a
//! manifest, so that one file can be fetched and verified alone.
//!
//! ```text
//! 0   Head: version, file count, names length, zip length, weights_digest
//! 64  ManifestEntry x file count, ascending by path
//! ..  paths, concatenated in that order
//! ..  zero padding to the next multiple of 64
//! ..  zip archive, to the end of the section
//! ```
//!
//! Paths are `/`-separated plain names (see [`super::is_plain_name`]), distinct
//! when ASCII case is ignored, and none is a folder of another.

use super::{Report, check_version, is_plain_name, span::Span, zip};
use crate::{
    ErrorKind, Hex, Limits, Result, SquizdError,
    digest::{Sha, sha256},
    layout::SECTION_ALIGN,
};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Layout version this build reads and writes.
pub const VERSION: u16 = 1;
/// Longest path in the package.
pub const MAX_PATH: u32 = 1024;

/// Start of the section: 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// [`VERSION`].
    pub version: U16,
    /// Zero.
    pub reserved: U16,
    /// Files in the package.
    pub file_count: U32,
    /// Bytes of all paths.
    pub names_length: U64,
    /// Bytes of the archive.
    pub zip_length: U64,
    /// Zero.
    pub reserved2: U64,
    /// `weights_digest` of the file this package was made from.
    pub weights_digest: Sha,
}

/// One file of the package: 48 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ManifestEntry {
    /// Bytes of the file.
    pub size: U64,
    /// Bytes of its path.
    pub name_length: U32,
    /// Zero.
    pub reserved: U32,
    /// SHA-256 of the file.
    pub sha256: Sha,
}

const HEAD_SIZE: u64 = size_of::<Head>() as u64;
const ENTRY_SIZE: u64 = size_of::<ManifestEntry>() as u64;
const _: () = assert!(HEAD_SIZE == 64 && ENTRY_SIZE == 48);

/// One file of the package, borrowed.
#[derive(Clone, Copy)]
pub struct PackageFile<'a> {
    /// Path inside the package.
    pub path: &'a str,
    /// Contents.
    pub content: &'a [u8],
    /// SHA-256 the manifest states.
    pub sha256: &'a Sha,
    /// Absolute offset of the contents.
    pub offset: u64,
    crc: u32,
    crc_offset: u64,
}

/// The appendix, borrowed from the section's bytes.
pub struct Package<'a> {
    head: &'a Head,
    head_offset: u64,
    files: Vec<PackageFile<'a>>,
}

impl<'a> Package<'a> {
    /// Reads the section whose first byte has absolute offset `base`: manifest,
    /// paths and every archive header. [`Package::check`] hashes the contents.
    pub fn parse(bytes: &'a [u8], base: u64, limits: &Limits) -> Result<Self> {
        let span = Span::new(bytes, base);
        let head: &Head = span.record(0, "section head")?;
        check_version(head.version.get(), VERSION, span.at(0), "Core ML appendix")?;
        let reserved = [
            (offset_of!(Head, reserved), head.reserved.as_bytes()),
            (offset_of!(Head, reserved2), head.reserved2.as_bytes()),
        ];
        for (at, field) in reserved {
            span.zero(at as u64, field, "appendix-reserved", "reserved byte")?;
        }
        let count = head.file_count.get();
        let count_at = span.at(offset_of!(Head, file_count) as u64);
        if count == 0 {
            return Err(SquizdError::invalid("coreml-empty", count_at, "file_count is 0"));
        }
        if count > limits.package_entries {
            let message = format!("file_count is {count}, limit {}", limits.package_entries);
            return Err(SquizdError::new(ErrorKind::Limit, "limit-package-entries", count_at, message));
        }
        let manifest: &[ManifestEntry] = span.slice(HEAD_SIZE, u64::from(count), "manifest")?;
        let (paths, names_end) = paths(span, manifest)?;
        let names_length = names_end - HEAD_SIZE - ENTRY_SIZE * u64::from(count);
        if head.names_length.get() != names_length {
            let at = span.at(offset_of!(Head, names_length) as u64);
            let message = format!("names_length is {}, the paths have {names_length}", head.names_length);
            return Err(SquizdError::invalid("coreml-length", at, message));
        }
        let zip_at = names_end.next_multiple_of(SECTION_ALIGN);
        span.padding(names_end, zip_at)?;
        let zip_length = span.len().saturating_sub(zip_at);
        if head.zip_length.get() != zip_length {
            let at = span.at(offset_of!(Head, zip_length) as u64);
            let code =
                if head.zip_length.get() > zip_length { "appendix-truncated" } else { "coreml-length" };
            let message = format!("zip_length is {}, the section has {zip_length}", head.zip_length);
            return Err(SquizdError::invalid(code, at, message));
        }
        let expected: Vec<(&str, u64)> =
            paths.iter().zip(manifest).map(|(p, m)| (*p, m.size.get())).collect();
        let entries = zip::read(span, zip_at, &expected).map_err(|e| e.within("zip"))?;
        let files = paths
            .iter()
            .zip(manifest)
            .zip(entries)
            .map(|((path, m), e)| PackageFile {
                path,
                content: e.content,
                sha256: &m.sha256,
                offset: e.offset,
                crc: e.crc,
                crc_offset: e.crc_offset,
            })
            .collect();
        Ok(Self { head, head_offset: span.at(0), files })
    }

    /// The files, ascending by path.
    pub fn files(&self) -> &[PackageFile<'a>] {
        &self.files
    }

    /// The weights this package was made from.
    pub fn weights_digest(&self) -> &'a Sha {
        &self.head.weights_digest
    }

    /// Reports contents that differ from their SHA-256 or CRC-32 or that are
    /// archives themselves, and a package made for weights other than `base`.
    pub fn check(&self, base: &Sha, report: Report<'_>) -> Result<()> {
        if *self.weights_digest() != *base {
            let at = self.head_offset + offset_of!(Head, weights_digest) as u64;
            let message = format!(
                "package was made for weights {}, this file's are {}",
                Hex(self.weights_digest()),
                Hex(base)
            );
            report(SquizdError::invalid("coreml-base", at, message))?;
        }
        for file in &self.files {
            let path = format!("package file {:?}", file.path);
            let report: Report<'_> = &mut |e: SquizdError| report(e.within(&path));
            let digest = sha256(file.content);
            if digest != *file.sha256 {
                let message = format!("manifest states {}, contents give {}", Hex(file.sha256), Hex(&digest));
                report(SquizdError::invalid("coreml-digest", file.offset, message))?;
            }
            let crc = zip::crc32(file.content);
            if crc != file.crc {
                let message = format!("CRC-32 is {:08x}, contents give {crc:08x}", file.crc);
                report(SquizdError::invalid("coreml-crc", file.crc_offset, message))?;
            }
            if let Some(kind) = archive_kind(file.content) {
                let message = format!("contents are a {kind} archive; nested archives are not allowed");
                report(SquizdError::invalid("coreml-nested", file.offset, message))?;
            }
        }
        Ok(())
    }

    /// The section's bytes for `files` (path, contents), in any order, bound
    /// to the weights of `base`.
    ///
    /// # Errors
    /// Everything that [`Package::parse`] and [`Package::check`] would refuse;
    /// offsets are relative to the section.
    pub fn write<'f>(
        base: &Sha,
        files: impl IntoIterator<Item = (&'f str, &'f [u8])>,
        limits: &Limits,
    ) -> Result<Vec<u8>> {
        let mut files: Vec<(&str, &[u8])> = files.into_iter().collect();
        files.sort_by_key(|(path, _)| *path);
        let mut archive = Vec::new();
        zip::write(&files, &mut archive)?;
        let names_length: usize = files.iter().map(|(path, _)| path.len()).sum();
        let head = Head {
            version: VERSION.into(),
            reserved: 0.into(),
            file_count: (files.len() as u32).into(),
            names_length: (names_length as u64).into(),
            zip_length: (archive.len() as u64).into(),
            reserved2: 0.into(),
            weights_digest: *base,
        };
        let mut out = head.as_bytes().to_vec();
        for (path, content) in &files {
            let entry = ManifestEntry {
                size: (content.len() as u64).into(),
                name_length: (path.len() as u32).into(),
                reserved: 0.into(),
                sha256: sha256(content),
            };
            out.extend_from_slice(entry.as_bytes());
        }
        for (path, _) in &files {
            out.extend_from_slice(path.as_bytes());
        }
        out.resize(out.len().next_multiple_of(SECTION_ALIGN as usize), 0);
        out.extend_from_slice(&archive);
        Package::parse(&out, 0, limits)?.check(base, &mut |e| Err(e))?;
        Ok(out)
    }
}

/// The manifest's paths, checked, and the section offset of their end.
fn paths<'a>(span: Span<'a>, manifest: &[ManifestEntry]) -> Result<(Vec<&'a str>, u64)> {
    let mut at = HEAD_SIZE + ENTRY_SIZE * manifest.len() as u64;
    let mut paths: Vec<&str> = Vec::with_capacity(manifest.len());
    let mut folded = BTreeSet::new();
    for (i, entry) in manifest.iter().enumerate() {
        let entry_at = HEAD_SIZE + ENTRY_SIZE * i as u64;
        let reserved_at = entry_at + offset_of!(ManifestEntry, reserved) as u64;
        span.zero(reserved_at, entry.reserved.as_bytes(), "appendix-reserved", "reserved byte")?;
        let length = entry.name_length.get();
        if length > MAX_PATH {
            let field = span.at(entry_at + offset_of!(ManifestEntry, name_length) as u64);
            let message = format!("path of {length} bytes, allowed {MAX_PATH}");
            return Err(SquizdError::invalid("coreml-path", field, message));
        }
        let bytes = span.bytes(at, u64::from(length), "package path")?;
        let safe = |p: &&str| p.split('/').all(is_plain_name);
        let path = core::str::from_utf8(bytes).ok().filter(safe).ok_or_else(|| {
            let shown = String::from_utf8_lossy(bytes);
            SquizdError::invalid(
                "coreml-path",
                span.at(at),
                format!("path {shown:?} is not made of plain names"),
            )
        })?;
        let refuse = |code, message| Err(SquizdError::invalid(code, span.at(at), message));
        if paths.last().is_some_and(|p| *p > path) {
            return refuse("coreml-order", format!("path {path:?} is out of order, paths ascend by byte"));
        }
        if !folded.insert(path.to_ascii_lowercase()) {
            return refuse("coreml-duplicate", format!("path {path:?} occurs twice (ASCII case ignored)"));
        }
        paths.push(path);
        at += u64::from(length);
    }
    // A file and a folder of one name: every proper prefix that ends before a slash.
    let mut path_at = HEAD_SIZE + ENTRY_SIZE * manifest.len() as u64;
    for path in &paths {
        let lower = path.to_ascii_lowercase();
        if let Some((i, _)) =
            lower.match_indices('/').find(|(i, _)| lower.get(..*i).is_some_and(|p| folded.contains(p)))
        {
            let folder = path.get(..i).unwrap_or_default();
            let message = format!("{folder:?} is a file and the folder of {path:?}");
            return Err(SquizdError::invalid("coreml-duplicate", span.at(path_at), message));
        }
        path_at += path.len() as u64;
    }
    Ok((paths, at))
}

/// The archive format whose signature `content` starts with.
fn archive_kind(content: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 8] = [
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"Rar!\x1a\x07", "rar"),
        (b"xar!", "xar"),
    ];
    let tar = content.get(257..262) == Some(&b"ustar"[..]);
    let found = SIGNATURES.iter().find(|(magic, _)| content.starts_with(magic)).map(|(_, kind)| *kind);
    found.or(tar.then_some("tar"))
}

#[cfg(test)]
#[path = "coreml_tests.rs"]
mod tests;
