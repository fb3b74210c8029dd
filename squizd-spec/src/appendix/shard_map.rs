//! Shard map: the first file of a split model says which tensor lies in which
//! file, and how each file and the joined one can be verified.
//!
//! A model is split between tensors, in table order: shard 0 has the first
//! tensors, and so on, so that counts are enough to place every tensor. Each
//! shard is a valid file; the first alone has this section, the tokenizer and
//! the appendices.
//!
//! ```text
//! 0   Head
//! 64  Entry x shard count
//! ..  u16 name length x tensor count
//! ..  shard file names, concatenated
//! ..  tensor names, concatenated, to the end of the section
//! ```

use super::{Report, check_version, is_plain_name, span::Span};
use crate::{ErrorKind, Hex, Limits, Result, SquizdError, Tables, digest::Sha, layout::Header};
use alloc::{format, string::String, vec::Vec};
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Layout version this build reads and writes.
pub const VERSION: u16 = 1;

/// Start of the section: 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// [`VERSION`].
    pub version: U16,
    /// Files, at least 2.
    pub shard_count: U16,
    /// Tensors of all files.
    pub tensor_count: U32,
    /// Bytes of all shard file names.
    pub shard_names_length: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes of all tensor names.
    pub tensor_names_length: U64,
    /// Bytes of the joined file.
    pub joined_length: U64,
    /// Root digest of the joined file.
    pub joined_root_digest: Sha,
}

/// One file: 48 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// Bytes of the file.
    pub file_length: U64,
    /// Tensors of the file.
    pub tensor_count: U32,
    /// Bytes of its name.
    pub name_length: U32,
    /// Its root digest; zero for the first file, whose digest covers this map.
    pub root_digest: Sha,
}

const HEAD_SIZE: u64 = size_of::<Head>() as u64;
const ENTRY_SIZE: u64 = size_of::<Entry>() as u64;
const _: () = assert!(HEAD_SIZE == 64 && ENTRY_SIZE == 48);

/// One file of a [`ShardMap`].
#[derive(Clone, Copy, Debug)]
pub struct Shard<'a> {
    /// File name, beside the first shard.
    pub name: &'a str,
    /// Bytes of the file.
    pub file_length: u64,
    /// Tensors of the file.
    pub tensor_count: u32,
    /// Its root digest; zero for the first file.
    pub root_digest: Sha,
}

/// The shard map, borrowed from the section's bytes.
#[derive(Clone, Debug)]
pub struct ShardMap<'a> {
    /// Fixed-size fields.
    pub head: &'a Head,
    base: u64,
    shards: Vec<Shard<'a>>,
    tensors: Vec<&'a str>,
    tensor_names_at: u64,
}

/// The ending of shard `index` of `count`: `-00001-of-00003.squizd`.
pub fn file_suffix(index: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.squizd", index + 1)
}

impl<'a> ShardMap<'a> {
    /// Reads the section whose first byte has absolute offset `base`.
    pub fn parse(bytes: &'a [u8], base: u64, limits: &Limits) -> Result<Self> {
        let span = Span::new(bytes, base);
        let head: &Head = span.record(0, "section head")?;
        check_version(head.version.get(), VERSION, span.at(0), "shard map")?;
        let reserved_at = offset_of!(Head, reserved) as u64;
        span.zero(reserved_at, head.reserved.as_bytes(), "appendix-reserved", "reserved byte")?;
        let shard_count = u64::from(head.shard_count.get());
        let tensor_count = head.tensor_count.get();
        if shard_count < 2 {
            let at = span.at(offset_of!(Head, shard_count) as u64);
            let message = format!("shard_count is {shard_count}, must be at least 2");
            return Err(SquizdError::invalid("shard-count", at, message));
        }
        if tensor_count > limits.tensors {
            let at = span.at(offset_of!(Head, tensor_count) as u64);
            let message = format!("tensor_count is {tensor_count}, limit {}", limits.tensors);
            return Err(SquizdError::new(ErrorKind::Limit, "limit-tensors", at, message));
        }
        let entries: &[Entry] = span.slice(HEAD_SIZE, shard_count, "shards")?;
        let lengths_at = HEAD_SIZE + ENTRY_SIZE * shard_count;
        let lengths: &[U16] = span.slice(lengths_at, tensor_count.into(), "tensor name lengths")?;
        let shard_names_at = lengths_at + 2 * u64::from(tensor_count);
        let tensor_names_at = shard_names_at + u64::from(head.shard_names_length.get());
        let end = tensor_names_at.saturating_add(head.tensor_names_length.get());
        span.bytes(tensor_names_at, head.tensor_names_length.get(), "tensor names")?;
        span.ends_at(end, "the shard map")?;

        let shards = parse_shards(span, entries, tensor_count, shard_names_at, tensor_names_at)?;
        let mut tensors = Vec::with_capacity(lengths.len());
        let mut at = tensor_names_at;
        for length in lengths {
            let length = u64::from(length.get());
            tensors.push(text(span, at, length, "tensor name")?);
            at += length;
        }
        if at != end {
            let field = span.at(offset_of!(Head, tensor_names_length) as u64);
            let message = format!(
                "tensor_names_length is {}, the names have {}",
                head.tensor_names_length,
                at - tensor_names_at
            );
            return Err(SquizdError::invalid("shard-length", field, message));
        }
        let map = Self { head, base, shards, tensors, tensor_names_at };
        map.check_unique()?;
        Ok(map)
    }

    /// The files, in order.
    pub fn shards(&self) -> &[Shard<'a>] {
        &self.shards
    }

    /// Names of all tensors, in the joined file's table order.
    pub fn tensors(&self) -> &[&'a str] {
        &self.tensors
    }

    /// Index of the file that holds the tensor `name`.
    pub fn shard_of(&self, name: &str) -> Option<usize> {
        let index = self.tensors.iter().position(|t| *t == name)?;
        let mut end = 0u64;
        self.shards.iter().position(|s| {
            end += u64::from(s.tensor_count);
            (index as u64) < end
        })
    }

    /// Reports disagreements with the tables of the first shard, in which this
    /// map lies.
    pub fn check(&self, first: &Tables<'_>, report: Report<'_>) -> Result<()> {
        let Some(own) = self.shards.first() else { return Ok(()) };
        let entry_at = |field: usize| self.base.saturating_add(HEAD_SIZE + field as u64);
        let header: &Header = first.header();
        if own.file_length != header.file_length.get() {
            let message =
                format!("shard 0 has {} bytes here, this file {}", own.file_length, header.file_length);
            report(SquizdError::invalid("shard-first", entry_at(offset_of!(Entry, file_length)), message))?;
        }
        if own.tensor_count as usize != first.tensor_count() {
            let message =
                format!("shard 0 has {} tensors here, this file {}", own.tensor_count, first.tensor_count());
            report(SquizdError::invalid("shard-first", entry_at(offset_of!(Entry, tensor_count)), message))?;
        }
        let mut at = self.tensor_names_at;
        for (name, desc) in self.tensors.iter().zip(first.descs()) {
            if *name != desc.name {
                let message = format!("tensor {} is {name:?} here, {:?} in this file", desc.index, desc.name);
                return report(SquizdError::invalid("shard-first", self.base.saturating_add(at), message));
            }
            at += name.len() as u64;
        }
        Ok(())
    }

    fn check_unique(&self) -> Result<()> {
        let mut order: Vec<u32> = (0..self.tensors.len() as u32).collect();
        let name = |i: u32| self.tensors.get(i as usize).copied().unwrap_or_default();
        order.sort_unstable_by_key(|i| (name(*i), *i));
        for pair in order.windows(2) {
            if let [a, b] = *pair
                && name(a) == name(b)
            {
                let before = self.tensors.iter().take(b as usize).map(|t| t.len() as u64).sum::<u64>();
                let at = self.base.saturating_add(self.tensor_names_at + before);
                let message = format!("tensors {a} and {b} are both named {:?}", name(a));
                return Err(SquizdError::invalid("name-duplicate", at, message));
            }
        }
        Ok(())
    }

    /// The section's bytes. The first shard's root digest is written as zero.
    ///
    /// # Errors
    /// Everything that [`ShardMap::parse`] would refuse; offsets are relative
    /// to the section.
    pub fn write(
        shards: &[Shard<'_>],
        tensors: &[&str],
        joined_length: u64,
        joined_root_digest: &Sha,
        limits: &Limits,
    ) -> Result<Vec<u8>> {
        let too_many = || SquizdError::invalid("shard-count", 0, "too many shards or tensors for the map");
        let head = Head {
            version: VERSION.into(),
            shard_count: u16::try_from(shards.len()).map_err(|_| too_many())?.into(),
            tensor_count: u32::try_from(tensors.len()).map_err(|_| too_many())?.into(),
            shard_names_length: (shards.iter().map(|s| s.name.len()).sum::<usize>() as u32).into(),
            reserved: 0.into(),
            tensor_names_length: tensors.iter().map(|t| t.len() as u64).sum::<u64>().into(),
            joined_length: joined_length.into(),
            joined_root_digest: *joined_root_digest,
        };
        let mut out = head.as_bytes().to_vec();
        for (i, s) in shards.iter().enumerate() {
            let entry = Entry {
                file_length: s.file_length.into(),
                tensor_count: s.tensor_count.into(),
                name_length: (s.name.len() as u32).into(),
                root_digest: if i == 0 { [0; 32] } else { s.root_digest },
            };
            out.extend_from_slice(entry.as_bytes());
        }
        for t in tensors {
            let length = u16::try_from(t.len()).map_err(|_| too_many())?;
            out.extend_from_slice(&length.to_le_bytes());
        }
        for s in shards {
            out.extend_from_slice(s.name.as_bytes());
        }
        for t in tensors {
            out.extend_from_slice(t.as_bytes());
        }
        ShardMap::parse(&out, 0, limits)?;
        Ok(out)
    }
}

fn text<'a>(span: Span<'a>, at: u64, length: u64, what: &str) -> Result<&'a str> {
    core::str::from_utf8(span.bytes(at, length, what)?)
        .map_err(|_| SquizdError::invalid("name-utf8", span.at(at), format!("{what} is not UTF-8")))
}

/// The shards' names and counts, checked.
fn parse_shards<'a>(
    span: Span<'a>,
    entries: &[Entry],
    tensor_count: u32,
    names_at: u64,
    names_end: u64,
) -> Result<Vec<Shard<'a>>> {
    let mut shards: Vec<Shard<'a>> = Vec::with_capacity(entries.len());
    let (mut at, mut tensors) = (names_at, 0u64);
    for (i, entry) in entries.iter().enumerate() {
        let length = u64::from(entry.name_length.get());
        let name = text(span, at, length, "shard file name")?;
        let suffix = file_suffix(i, entries.len());
        let stem = name.strip_suffix(&*suffix).filter(|s| !s.is_empty());
        if !is_plain_name(name) || stem.is_none() {
            let message = format!("shard {i} is named {name:?}, must be a plain name ending in {suffix}");
            return Err(SquizdError::invalid("shard-name", span.at(at), message));
        }
        let entry_at = HEAD_SIZE + ENTRY_SIZE * i as u64;
        let digest_at = entry_at + offset_of!(Entry, root_digest) as u64;
        if i == 0 {
            span.zero(digest_at, &entry.root_digest, "shard-digest", "root digest of the first shard")?;
        } else if entry.root_digest == [0; 32] {
            let message = format!("shard {i} has the root digest {}", Hex(&entry.root_digest));
            return Err(SquizdError::invalid("shard-digest", span.at(digest_at), message));
        }
        tensors += u64::from(entry.tensor_count.get());
        shards.push(Shard {
            name,
            file_length: entry.file_length.get(),
            tensor_count: entry.tensor_count.get(),
            root_digest: entry.root_digest,
        });
        at += length;
    }
    if at != names_end {
        let field = span.at(offset_of!(Head, shard_names_length) as u64);
        let message =
            format!("shard_names_length is {}, the names have {}", names_end - names_at, at - names_at);
        return Err(SquizdError::invalid("shard-length", field, message));
    }
    if tensors != u64::from(tensor_count) {
        let field = span.at(offset_of!(Head, tensor_count) as u64);
        let message = format!("tensor_count is {tensor_count}, the shards have {tensors}");
        return Err(SquizdError::invalid("shard-tensors", field, message));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 1 << 16;
    const TENSORS: [&str; 3] = ["token_embd.weight", "output_norm.weight", "output.weight"];
    /// Head, two entries, three lengths.
    const NAMES: u64 = BASE + 64 + 2 * 48 + 6;

    fn shards() -> [Shard<'static>; 2] {
        let shard = |name, file_length, tensor_count, byte| Shard {
            name,
            file_length,
            tensor_count,
            root_digest: [byte; 32],
        };
        [shard("m-00001-of-00002.squizd", 99, 1, 0), shard("m-00002-of-00002.squizd", 77, 2, 5)]
    }

    fn sample() -> Vec<u8> {
        ShardMap::write(&shards(), &TENSORS, 170, &[3; 32], &Limits::DEFAULT).unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<ShardMap<'_>> {
        ShardMap::parse(bytes, BASE, &Limits::DEFAULT)
    }

    fn refused(at: u64, value: &[u8]) -> (&'static str, u64) {
        let mut bytes = sample();
        let start = (at - BASE) as usize;
        bytes[start..start + value.len()].copy_from_slice(value);
        let e = parse(&bytes).unwrap_err();
        (e.code().0, e.offset())
    }

    #[test]
    fn round_trip_and_lookup() {
        let bytes = sample();
        let map = parse(&bytes).unwrap();
        assert_eq!(map.tensors(), TENSORS);
        assert_eq!(map.shard_of("token_embd.weight"), Some(0));
        assert_eq!(map.shard_of("output_norm.weight"), Some(1));
        assert_eq!(map.shard_of("output.weight"), Some(1));
        assert_eq!(map.shard_of("other"), None);
        assert_eq!(map.head.joined_length.get(), 170);
        let head = map.head;
        let again = ShardMap::write(
            map.shards(),
            map.tensors(),
            head.joined_length.get(),
            &head.joined_root_digest,
            &Limits::DEFAULT,
        );
        assert_eq!(again.unwrap(), bytes);
    }

    #[test]
    fn fields_are_refused_in_place() {
        assert_eq!(refused(BASE, &[9]), ("appendix-version", BASE));
        assert_eq!(refused(BASE + 2, &[1]), ("shard-count", BASE + 2));
        assert_eq!(refused(BASE + 4, &[0xff; 4]), ("limit-tensors", BASE + 4));
        assert_eq!(refused(BASE + 8, &[47]).0, "appendix-truncated");
        assert_eq!(refused(BASE + 12, &[1]), ("appendix-reserved", BASE + 12));
        assert_eq!(refused(BASE + 64 + 8, &[2]), ("shard-tensors", BASE + 4));
        assert_eq!(refused(BASE + 64 + 16, &[1]), ("shard-digest", BASE + 80));
        assert_eq!(refused(BASE + 112 + 16, &[0; 32]), ("shard-digest", BASE + 128));
        assert_eq!(refused(NAMES, b"/"), ("shard-name", NAMES));
        assert_eq!(refused(NAMES + 6, b"2"), ("shard-name", NAMES));
        assert_eq!(refused(NAMES - 6, &[16]), ("shard-length", BASE + 16));
        let tensor_names = NAMES + 46;
        assert_eq!(refused(tensor_names, &[0xff]), ("name-utf8", tensor_names));
    }

    #[test]
    fn as_many_tensors_as_the_limit_allows() {
        let bytes = sample();
        let code = |tensors| {
            let limits = Limits { tensors, ..Limits::DEFAULT };
            ShardMap::parse(&bytes, BASE, &limits).err().map(|e| (e.code().0, e.offset()))
        };
        assert_eq!(code(3), None);
        assert_eq!(code(2), Some(("limit-tensors", BASE + 4)));
    }

    #[test]
    fn duplicate_tensors_and_stemless_names() {
        let write = |shards: &[Shard<'_>], tensors: &[&str]| {
            ShardMap::write(shards, tensors, 0, &[0; 32], &Limits::DEFAULT).unwrap_err()
        };
        let e = write(&shards(), &["a", "b", "a"]);
        assert_eq!((e.code().0, e.offset()), ("name-duplicate", NAMES - BASE + 46 + 2));
        let [a, b] = shards();
        let stemless = Shard { name: "-00001-of-00002.squizd", ..a };
        assert_eq!(write(&[stemless, b], &TENSORS).code().0, "shard-name");
        assert_eq!(write(&[a], &TENSORS[..1]).code().0, "shard-count");
    }

    #[test]
    fn every_truncation_and_flip() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]).unwrap_err().code().0, "appendix-truncated", "{n} bytes");
        }
        assert_eq!(parse(&[&bytes[..], b"x"].concat()).unwrap_err().code().0, "appendix-trailing");
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[i] ^= 1 << bit;
                if let Ok(map) = parse(&b) {
                    let head = map.head;
                    let again = ShardMap::write(
                        map.shards(),
                        map.tensors(),
                        head.joined_length.get(),
                        &head.joined_root_digest,
                        &Limits::DEFAULT,
                    );
                    assert!(again.unwrap() == b, "byte {i}");
                }
            }
        }
    }

    #[test]
    fn the_first_shard_is_compared() {
        let toy = include_bytes!("../../../fixtures/golden/v1/toy-2layer.squizd");
        let tables = Tables::parse_prefix(toy, &Limits::DEFAULT).unwrap();
        let findings = |count: u32, length: u64, first: Option<&str>| {
            let mut names: Vec<&str> = tables.descs().map(|t| t.name).collect();
            names.extend(first.map(|_| "extra"));
            if let (Some(name), Some(slot)) = (first, names.first_mut()) {
                *slot = name;
            }
            let [a, b] = shards();
            let all = [
                Shard { tensor_count: count, file_length: length, ..a },
                Shard { tensor_count: names.len() as u32 - count, ..b },
            ];
            let bytes = ShardMap::write(&all, &names, 0, &[0; 32], &Limits::DEFAULT).unwrap();
            let mut found = Vec::new();
            let map = ShardMap::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
            map.check(&tables, &mut |e| {
                assert_eq!(e.code().0, "shard-first");
                found.push(e.offset() - BASE);
                Ok(())
            })
            .unwrap();
            found
        };
        let length = toy.len() as u64;
        assert_eq!(findings(21, length, None), []);
        assert_eq!(findings(20, length + 1, None), [64, 72]);
        assert_eq!(findings(21, length, Some("x")).len(), 1);
    }
}
