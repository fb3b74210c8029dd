//! `model.safetensors.index.json` and the shards it names.

use super::{json::Index, limits};
use crate::source::flaw::Flaw;
use squizd::json_offset;
use squizd_spec::Short;
use std::collections::{BTreeMap, BTreeSet};

/// Tensor names by shard file name, shards in name order.
pub(super) type Shards = BTreeMap<String, BTreeSet<String>>;

/// Reads and checks the index.
pub(super) fn read(text: &[u8]) -> Result<Shards, Flaw> {
    let index: Index = serde_json::from_slice(text)
        .map_err(|e| Flaw::invalid("index-json", json_offset(text, &e), e.to_string()))?;
    let mut shards = Shards::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_plain_name(&shard) {
            return Err(Flaw::invalid(
                "index-path",
                0,
                format!(
                    "weight_map puts tensor {:?} into {:?}; a shard must be a .safetensors file beside the index",
                    Short(&tensor),
                    Short(&shard)
                ),
            ));
        }
        shards.entry(shard).or_default().insert(tensor);
    }
    if shards.is_empty() {
        return Err(Flaw::invalid("index-empty", 0, "weight_map names no tensor"));
    }
    if shards.len() > limits::SHARDS {
        return Err(Flaw::invalid(
            "index-shards",
            0,
            format!("{} shards, allowed at most {}", shards.len(), limits::SHARDS),
        ));
    }
    complete(&shards)?;
    Ok(shards)
}

/// A file name that cannot leave its folder.
fn is_plain_name(name: &str) -> bool {
    let stem = name.strip_suffix(".safetensors").unwrap_or_default();
    !stem.is_empty()
        && !stem.starts_with('.')
        && !name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ':'))
}

/// `STEM-00001-of-00005.safetensors`, taken apart: stem, number from 1, count.
pub(super) fn numbered(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok())?;
    Some((stem, digits(number)?, digits(count)?))
}

/// Where shards are numbered, all of them must be there.
fn complete(shards: &Shards) -> Result<(), Flaw> {
    let mut sets: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for (stem, number, count) in shards.keys().filter_map(|name| numbered(name)) {
        if number == 0 || number > count {
            return Err(Flaw::invalid(
                "index-shards",
                0,
                format!("weight_map names shard {number} of {count} of {stem}"),
            ));
        }
        sets.entry((stem, count)).or_default().insert(number);
    }
    for ((stem, count), numbers) in sets {
        // Numbers lie in 1..=count, so only the number of them matters.
        if numbers.len() as u64 != u64::from(count) {
            let missing = (1..=count).find(|n| !numbers.contains(n)).unwrap_or(count);
            return Err(Flaw::invalid(
                "index-shards",
                0,
                format!(
                    "weight_map names {} of the {count} shards of {stem}; number {missing} is missing",
                    numbers.len()
                ),
            ));
        }
    }
    Ok(())
}

/// The first of `beside` (file names in the folder) that is numbered like the
/// index's shards without being one of them.
pub(super) fn extra<'a>(shards: &Shards, beside: &'a BTreeSet<String>) -> Option<&'a str> {
    let stems: BTreeSet<&str> = shards.keys().filter_map(|n| numbered(n)).map(|(stem, ..)| stem).collect();
    beside
        .iter()
        .filter(|name| !shards.contains_key(*name))
        .find(|name| numbered(name).is_some_and(|(stem, ..)| stems.contains(stem)))
        .map(String::as_str)
}
