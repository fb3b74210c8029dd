//! The written specification names every id with its number, and every field
//! with its offset.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_spec::{
    ArchId, CodecId, DType, Limits, Part, Role, SectionKind,
    appendix::{coreml, draft_head, shard_map, sparsity},
    layout::{Header, SectionEntry, TensorRecord, flags},
    section_rules,
};
use std::mem::offset_of;

const SPEC: &str = include_str!("../../docs/squizd_format_spec.md");

/// The text from one heading to the next of the same or a higher level.
fn part(heading: &str) -> &'static str {
    let level = heading.split(' ').next().unwrap();
    let start = SPEC.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("no heading {heading}")) + 1;
    let body = &SPEC[start..];
    let end = (1..=level.len())
        .filter_map(|n| body[3..].find(&format!("\n{} ", "#".repeat(n))).map(|i| i + 3))
        .min()
        .unwrap_or(body.len());
    &body[..end]
}

#[track_caller]
fn has(text: &str, row: &str) {
    assert!(text.lines().any(|l| l.starts_with(row)), "the specification lacks a row {row}");
}

#[test]
fn every_id_is_in_the_registry() {
    for arch in ArchId::ALL {
        has(part("### 21.1"), &format!("| {} | `{arch}` |", arch.0));
    }
    for kind in SectionKind::ALL {
        let row = format!("| 0x{:02x} | `{kind}` |", kind.0);
        has(part("### 21.2"), &row);
        if *kind != SectionKind::SIGNATURE {
            let critical = if section_rules::is_critical(*kind) { "yes" } else { "no" };
            has(part("### 21.2"), &format!("{row} {critical} |"));
        }
    }
    for role in Role::ALL {
        has(part("### 21.3"), &format!("| {} | `{role}` |", role.0));
    }
    for (bit, name) in flags::NAMES {
        has(part("### 21.4"), &format!("| {} | {name} |", bit.trailing_zeros()));
    }
    for dtype in DType::ALL {
        has(part("### 21.5"), &format!("| {} | `{dtype}` |", dtype.0));
    }
    for codec in CodecId::ALL {
        has(part("## 8 "), &format!("| {} | `{codec}` |", codec.0));
    }
    for p in Part::ALL {
        assert!(part("### 21.3").contains(&format!("{} `{p}`", p.0)));
    }
}

/// Asserts `| offset | type | field |` rows in `text`.
macro_rules! fields {
    ($text:expr, $record:ty: $($field:ident)*) => {
        $({
            let at = offset_of!($record, $field);
            let row = |l: &&str| l.starts_with(&format!("| {at} | ")) && l.contains(&format!(" {} |", stringify!($field)));
            assert!($text.lines().any(|l| row(&l)), "no row for {} at {at}", stringify!($field));
        })*
    };
}

#[test]
fn every_field_has_its_offset() {
    fields!(part("## 4 "), Header:
        magic version flags arch num_layers hidden_dim num_heads vocab_size compression_bpw sparsity_ratio
        calibration_hash pad header_size section_count file_length directory_offset reserved root_digest checksum);
    fields!(part("## 5 "), SectionEntry: kind flags offset stored_length length sha256);
    fields!(part("## 6 "), TensorRecord:
        name_offset name_length role layer experts codec source_dtype rank part reserved dims params payload_offset
        payload_length sha256);
    fields!(part("## 12 "), sparsity::Head: version layer_count reserved);
    fields!(part("## 12 "), sparsity::Entry:
        layer n_clusters n_neurons d_model expected_sparsity threshold reserved offset);
    fields!(part("## 13 "), draft_head::Head:
        version n_layers source_layers reserved d_model d_hidden vocab_size token_map_length calibration_hash
        weights_digest strings_length tensor_count payload_length);
    fields!(part("## 14 "), coreml::Head:
        version reserved file_count names_length zip_length weights_digest);
    fields!(part("## 16 "), shard_map::Head:
        version shard_count tensor_count shard_names_length reserved tensor_names_length joined_length
        joined_root_digest);
}

#[test]
fn limits_are_the_documented_ones() {
    let limits = Limits::DEFAULT;
    let text = part("## 17 ");
    let power = |n: u64| format!("2^{}", n.trailing_zeros());
    has(text, &format!("| sections | {} |", limits.sections));
    has(text, &format!("| tensors | {} |", power(limits.tensors.into())));
    has(text, &format!("| string table | {} bytes |", power(limits.strings)));
    has(text, &format!("| tensor name | {} bytes |", limits.name));
    has(text, &format!("| one dimension | {} |", power(limits.dim)));
    has(text, &format!("| elements of a tensor | {} |", power(limits.elements)));
    has(text, &format!("| layers | {} |", limits.layers));
    has(text, &format!("| stored bytes of tokenizer or metadata | {} |", power(limits.section_stored)));
    has(text, &format!("| decompressed bytes of a section | {} |", power(limits.section_inflated)));
    has(text, &format!("| decompressed to stored bytes | 1 MiB + {} : 1 |", limits.inflate_ratio));
    has(text, &format!("| files in the tokenizer section | {} |", limits.bundle_files));
    has(text, &format!("| clusters of a sparsity layer | {} |", limits.clusters));
    has(text, &format!("| files in a Core ML package | {} |", limits.package_entries));
    has(text, &format!("| layers of a draft head | {} |", limits.draft_layers));
}

/// String literals of `source` that look like finding codes.
fn codes(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    code.split('"').skip(1).step_by(2).filter(|s| {
        s.contains('-')
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && !s.ends_with('-')
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

#[test]
fn every_finding_is_explained() {
    let findings = include_str!("../../docs/findings.md");
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.to_string_lossy().ends_with("_tests.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for code in codes(&source).filter(|c| *c != "run-length" && CodecId::from_name(c).is_none()) {
                assert!(
                    findings.contains(&format!("`{code}`")),
                    "docs/findings.md lacks `{code}` of {}",
                    path.display()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "only {seen} codes found in the sources");
}
