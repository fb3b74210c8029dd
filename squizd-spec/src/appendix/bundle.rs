//! Contents of the tokenizer section: a handful of small files, verbatim.
//!
//! ```text
//! u32 count
//! count x { u32 name_length, u32 content_length }
//! names, concatenated in entry order
//! contents, concatenated in entry order
//! ```
//!
//! Names are plain (see [`is_plain_name`]), strictly ascending by byte, and
//! distinct when ASCII case is ignored. The last content ends the section.

use super::{is_plain_name, span::Span};
use crate::{ErrorKind, Limits, Result, SquizdError};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Lengths of one file of the bundle.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    name_length: U32,
    content_length: U32,
}

const ENTRY_SIZE: u64 = size_of::<Entry>() as u64;

/// One file of a [`Bundle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleFile<'a> {
    /// File name, one path component.
    pub name: &'a str,
    /// File contents.
    pub content: &'a [u8],
}

/// Files of the tokenizer section, borrowed from its (decompressed) bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    files: Vec<BundleFile<'a>>,
}

impl<'a> Bundle<'a> {
    /// Reads a bundle whose first byte has absolute offset `base` (for a
    /// compressed section: 0, since its contents have no place in the file).
    pub fn parse(bytes: &'a [u8], base: u64, limits: &Limits) -> Result<Self> {
        let span = Span::new(bytes, base);
        let count = span.record::<U32>(0, "file count")?.get();
        if count > limits.bundle_files {
            return Err(SquizdError::new(
                ErrorKind::Limit,
                "limit-bundle-files",
                span.at(0),
                format!("{count} files, allowed {}", limits.bundle_files),
            ));
        }
        let entries: &[Entry] = span.slice(4, u64::from(count), "entries")?;
        let mut name_at = 4 + ENTRY_SIZE * u64::from(count);
        let mut content_at =
            entries.iter().fold(name_at, |at, e| at.saturating_add(u64::from(e.name_length.get())));
        let mut files = Vec::with_capacity(entries.len());
        for entry in entries {
            let name_length = u64::from(entry.name_length.get());
            let content_length = u64::from(entry.content_length.get());
            let name = span.bytes(name_at, name_length, "file name")?;
            let content = span.bytes(content_at, content_length, "file content")?;
            let name = core::str::from_utf8(name).ok().filter(|n| is_plain_name(n)).ok_or_else(|| {
                SquizdError::invalid(
                    "bundle-name",
                    span.at(name_at),
                    format!("file name {:?} is not a plain file name", String::from_utf8_lossy(name)),
                )
            })?;
            files.push(BundleFile { name, content });
            name_at += name_length;
            content_at += content_length;
        }
        span.ends_at(content_at, "the bundle")?;
        order(&files, span)?;
        Ok(Self { files })
    }

    /// The files, ascending by name.
    pub fn files(&self) -> &[BundleFile<'a>] {
        &self.files
    }

    /// Contents of the file called `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.files.iter().find(|f| f.name == name).map(|f| f.content)
    }

    /// The section's bytes for `files`, in any order.
    ///
    /// # Errors
    /// Names that are not plain or collide, counts and sizes that do not fit.
    pub fn write<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Result<Vec<u8>> {
        let mut files: Vec<BundleFile<'f>> =
            files.into_iter().map(|(name, content)| BundleFile { name, content }).collect();
        files.sort_by_key(|f| f.name);
        let too_big = |what: &str| {
            SquizdError::invalid("bundle-size", 0, format!("{what} does not fit the bundle's 32-bit lengths"))
        };
        let count = u32::try_from(files.len()).map_err(|_| too_big("number of files"))?;
        let mut out = Vec::new();
        out.extend_from_slice(&count.to_le_bytes());
        for f in &files {
            if !is_plain_name(f.name) {
                let message = format!("file name {:?} is not a plain file name", f.name);
                return Err(SquizdError::invalid("bundle-name", 0, message));
            }
            let content_length = u32::try_from(f.content.len()).map_err(|_| too_big(f.name))?;
            out.extend_from_slice(&(f.name.len() as u32).to_le_bytes());
            out.extend_from_slice(&content_length.to_le_bytes());
        }
        order(&files, Span::new(&[], 0))?;
        for f in &files {
            out.extend_from_slice(f.name.as_bytes());
        }
        for f in &files {
            out.extend_from_slice(f.content);
        }
        Ok(out)
    }
}

/// Refuses names out of order and names that collide.
fn order(files: &[BundleFile<'_>], span: Span<'_>) -> Result<()> {
    let mut folded = BTreeSet::new();
    let mut at = 4 + ENTRY_SIZE * files.len() as u64;
    let mut previous: Option<&str> = None;
    for f in files {
        if previous.is_some_and(|p| p > f.name) {
            return Err(SquizdError::invalid(
                "bundle-order",
                span.at(at),
                format!("file name {:?} is out of order, names ascend by byte", f.name),
            ));
        }
        if !folded.insert(f.name.to_ascii_lowercase()) {
            return Err(SquizdError::invalid(
                "bundle-duplicate",
                span.at(at),
                format!("file name {:?} occurs twice (ASCII case ignored)", f.name),
            ));
        }
        previous = Some(f.name);
        at += f.name.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const BASE: u64 = 1 << 20;

    fn sample() -> Vec<u8> {
        Bundle::write([("tokenizer.json", &b"{}"[..]), ("merges.txt", b"a b\n"), ("empty", b"")]).unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<Bundle<'_>> {
        Bundle::parse(bytes, BASE, &Limits::DEFAULT)
    }

    fn refused(bytes: &[u8]) -> (&'static str, u64) {
        let e = parse(bytes).unwrap_err();
        (e.code().0, e.offset())
    }

    /// `count` entries with these lengths, then `tail`.
    fn raw(lengths: &[(u32, u32)], tail: &[u8]) -> Vec<u8> {
        let mut v = (lengths.len() as u32).to_le_bytes().to_vec();
        for (n, c) in lengths {
            v.extend_from_slice(&n.to_le_bytes());
            v.extend_from_slice(&c.to_le_bytes());
        }
        v.extend_from_slice(tail);
        v
    }

    #[test]
    fn round_trip_is_identical_and_sorted() {
        let bytes = sample();
        let bundle = parse(&bytes).unwrap();
        let names: Vec<_> = bundle.files().iter().map(|f| f.name).collect();
        assert_eq!(names, ["empty", "merges.txt", "tokenizer.json"]);
        assert_eq!(bundle.get("merges.txt"), Some(&b"a b\n"[..]));
        assert_eq!(bundle.get("vocab.json"), None);
        assert_eq!(Bundle::write(bundle.files().iter().map(|f| (f.name, f.content))).unwrap(), bytes);
        assert_eq!(parse(&[0; 4]).unwrap().files(), []);
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert_eq!(refused(&bytes[..n]).0, "appendix-truncated", "{n} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(refused(&longer), ("appendix-trailing", BASE + bytes.len() as u64));
    }

    #[test]
    fn every_flipped_byte_is_refused_or_canonical() {
        let bytes = sample();
        for i in 0..bytes.len() {
            for mask in [1u8, 0x80, 0xff] {
                let mut b = bytes.clone();
                b[i] ^= mask;
                if let Ok(bundle) = parse(&b) {
                    let again = Bundle::write(bundle.files().iter().map(|f| (f.name, f.content))).unwrap();
                    assert_eq!(again, b, "byte {i}");
                }
            }
        }
    }

    #[test]
    fn bad_names_are_refused_where_they_lie() {
        for name in
            [&b"../x"[..], b"a/b", b"a\\b", b"C:x", b".", b"..", b".x", b"x.", b"a\0", b"a\x7f", b"\xff", b""]
        {
            assert_eq!(
                refused(&raw(&[(name.len() as u32, 0)], name)),
                ("bundle-name", BASE + 12),
                "{name:?}"
            );
        }
        let long = vec![b'a'; 256];
        assert_eq!(refused(&raw(&[(256, 0)], &long)), ("bundle-name", BASE + 12));
        assert_eq!(Bundle::write([("a/b", &b""[..])]).unwrap_err().code().0, "bundle-name");
    }

    #[test]
    fn order_and_collisions() {
        assert_eq!(refused(&raw(&[(1, 0), (1, 0)], b"ba")), ("bundle-order", BASE + 21));
        assert_eq!(refused(&raw(&[(1, 0), (1, 0)], b"aa")), ("bundle-duplicate", BASE + 21));
        assert_eq!(refused(&raw(&[(1, 0), (1, 0)], b"Aa")), ("bundle-duplicate", BASE + 21));
        let twice = [("a", &b""[..]), ("a", b"")];
        assert_eq!(Bundle::write(twice).unwrap_err().code().0, "bundle-duplicate");
    }

    #[test]
    fn counts_are_capped_before_anything_is_read() {
        let e = parse(&u32::MAX.to_le_bytes()).unwrap_err();
        assert_eq!((e.kind(), e.code().0, e.offset()), (ErrorKind::Limit, "limit-bundle-files", BASE));
        let two = raw(&[(1, 0), (1, 0)], b"ab");
        let limits = Limits { bundle_files: 1, ..Limits::DEFAULT };
        assert_eq!(Bundle::parse(&two, 0, &limits).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn lengths_that_wrap_are_refused() {
        assert_eq!(refused(&raw(&[(u32::MAX, u32::MAX)], b"")).0, "appendix-truncated");
    }
}
