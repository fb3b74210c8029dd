//! The older `.dat` form: i32 count of entries; each entry i32 length and name,
//! i32 calls, i32 count of values, f32 values; then, in most files, i32 chunks,
//! i32 length and name of the text.

use super::{Data, Entry, Imatrix, Place};
use crate::source::flaw::{Flaw, bad_name};
use crate::source::mapped::MappedFile;
use squizd::Result;
use std::collections::{BTreeMap, btree_map};

/// Most entries (the largest models have about 2,000 tensors).
const MAX_ENTRIES: u32 = 1 << 18;
/// Longest name of a tensor, as in the GGUF reader.
const MAX_NAME: u32 = 512;
/// Longest name of a text.
const MAX_TEXT_NAME: u32 = 1 << 16;

pub(super) fn open(file: MappedFile) -> Result<Imatrix> {
    let (entries, datasets) = parse(file.contents()?).map_err(|f| f.in_file(file.path().display()))?;
    Ok(Imatrix { path: file.path().to_owned(), data: Data::Legacy(file), entries, datasets })
}

/// Reads from the front; every length is held against what is left.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize, what: &str) -> std::result::Result<&'a [u8], Flaw> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)).ok_or_else(|| {
            let message = format!(
                "{what} needs {count} bytes, {} are left: this is no importance matrix of llama.cpp, or its download was interrupted",
                self.left()
            );
            Flaw::invalid("imatrix-truncated", self.at as u64, message)
        })?;
        self.at += count;
        Ok(taken)
    }

    /// An i32 from `least` to `most`.
    fn number(&mut self, what: &str, least: u32, most: u32) -> std::result::Result<u32, Flaw> {
        let at = self.at as u64;
        let bytes = self.take(4, what)?.first_chunk().copied().unwrap_or_default();
        let found = i32::from_le_bytes(bytes);
        u32::try_from(found).ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| {
            let message = format!(
                "{what} is {found}, allowed {least} to {most}: this is no importance matrix of llama.cpp, or it is damaged"
            );
            Flaw::invalid("imatrix-count", at, message)
        })
    }

    /// A length and as many bytes of text.
    fn name(&mut self, what: &str, least: u32, most: u32) -> std::result::Result<&'a str, Flaw> {
        let length = self.number(&format!("length of {what}"), least, most)?;
        let at = self.at as u64;
        let bytes = self.take(length as usize, what)?;
        str::from_utf8(bytes)
            .map_err(|e| Flaw::invalid("imatrix-name", at, format!("{what} is no UTF-8: {e}")))
    }
}

type Parsed = (BTreeMap<String, Entry>, Vec<String>);

fn parse(bytes: &[u8]) -> std::result::Result<Parsed, Flaw> {
    let mut cursor = Cursor { bytes, at: 0 };
    let count = cursor.number("count of entries", 1, MAX_ENTRIES)?;
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let start = cursor.at as u64;
        let name = cursor.name(&format!("name of entry {i}"), 1, MAX_NAME)?;
        if let Some(why) = bad_name(name, MAX_NAME as usize) {
            return Err(Flaw::invalid("imatrix-name", start, format!("name of entry {i} {why}")));
        }
        // Without calls nothing has been summed up more than once.
        let calls = cursor.number(&format!("calls of {name}"), 0, i32::MAX as u32)?.max(1);
        let values = cursor.number(&format!("count of values of {name}"), 1, i32::MAX as u32)?;
        let from = cursor.at as u64;
        cursor.take((values as usize).saturating_mul(4), &format!("values of {name}"))?;
        match entries.entry(name.to_owned()) {
            btree_map::Entry::Vacant(slot) => slot.insert(Entry {
                values: values.into(),
                place: Place::Legacy { bytes: from..cursor.at as u64, calls },
            }),
            btree_map::Entry::Occupied(_) => {
                return Err(Flaw::invalid("imatrix-name", start, format!("a second entry {name}")));
            }
        };
    }
    let mut datasets = Vec::new();
    if cursor.left() > 0 {
        cursor.number("count of chunks", 0, i32::MAX as u32)?;
    }
    if cursor.left() > 0 {
        datasets.push(cursor.name("name of the text", 0, MAX_TEXT_NAME)?.to_owned());
    }
    if cursor.left() > 0 {
        let message = format!("{} bytes follow the last entry", cursor.left());
        return Err(Flaw::invalid("imatrix-trailing", cursor.at as u64, message));
    }
    Ok((entries, datasets))
}
