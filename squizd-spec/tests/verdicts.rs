//! This reader against an independent one: `fixtures/golden/read_squizd.py`,
//! written from the specification's text, has judged every damage listed in
//! `verdicts.txt`; both must find the same, at the same byte.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_spec::{
    Level, Limits, SectionKind, SquizdRef,
    digest::{header_checksum, root_digest, sha256, sha256_of},
    layout::{Header, SectionEntry, TensorRecord},
    validate,
};
use std::collections::BTreeSet;
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
const APPENDICES: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-appendices.squizd");
const VERDICTS: &str = include_str!("../../fixtures/golden/v1/verdicts.txt");

/// Recomputes the digests that damage at byte `at` makes stale, except the
/// field that is damaged itself, for the layout of the undamaged `file`.
fn reseal(data: &mut [u8], file: &SquizdRef<'_>, at: usize) {
    let range = |kind| {
        let s = file.section(kind).unwrap();
        s.offset() as usize..s.offset() as usize + s.data.len()
    };
    let (strings, table) = (range(SectionKind::STRINGS), range(SectionKind::TENSORS));
    let digest_field = |i: usize| {
        let field = table.start + size_of::<TensorRecord>() * i + offset_of!(TensorRecord, sha256);
        field..field + 32
    };
    for t in file.descs() {
        let payload = t.offset as usize..(t.offset + t.length) as usize;
        if payload.contains(&at) {
            let digest = sha256(&data[payload]);
            data[digest_field(t.index)].copy_from_slice(&digest);
        }
    }
    for (i, entry) in file.directory().iter().enumerate() {
        let field = 256 + size_of::<SectionEntry>() * i + offset_of!(SectionEntry, sha256);
        if (field..field + 32).contains(&at) {
            continue;
        }
        let digest = if entry.kind.get() == SectionKind::PAYLOAD.0 {
            sha256_of((0..file.tensor_count()).map(|t| &data[digest_field(t)]))
        } else {
            sha256(&data[range(SectionKind(entry.kind.get()))])
        };
        data[field..field + 32].copy_from_slice(&digest);
    }
    let (mut header, rest) = Header::read_from_prefix(data).unwrap();
    if !(216..248).contains(&at) {
        let directory = &rest[..size_of_val(file.directory())];
        let directory = <[SectionEntry]>::ref_from_bytes(directory).unwrap();
        header.root_digest = root_digest(&header, directory, &data[strings], &data[table]);
    }
    if !(248..256).contains(&at) {
        header.checksum = header_checksum(&header);
    }
    data[..256].copy_from_slice(header.as_bytes());
}

#[test]
fn both_readers_agree_on_every_damage() {
    let mut differences = Vec::new();
    let mut lines = 0;
    for line in VERDICTS.lines() {
        let (damage, want) = line.match_indices(' ').nth(2).map(|(i, _)| line.split_at(i)).unwrap();
        let [name, at, mask] = damage.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let golden = match name {
            "toy-2layer" => TOY,
            "toy-appendices" => APPENDICES,
            _ => panic!("{line}"),
        };
        let at: usize = at.parse().unwrap();
        let mut data = golden.to_vec();
        data[at] ^= mask.parse::<u8>().unwrap();
        reseal(&mut data, &SquizdRef::parse(golden, &Limits::DEFAULT).unwrap(), at);
        let found: BTreeSet<String> = validate(&data, &Limits::DEFAULT, Level::Numerics, &NoCodecs)
            .iter()
            .map(|e| format!("{}@{}", e.code(), e.offset()))
            .collect();
        let found =
            if found.is_empty() { "-".into() } else { found.into_iter().collect::<Vec<_>>().join(" ") };
        if found != want.trim_start() {
            differences.push(format!("{line}\n    here: {found}"));
        }
        lines += 1;
    }
    assert!(lines > 3000, "only {lines} verdicts");
    assert!(
        differences.is_empty(),
        "{} of {lines} differ:\n{}",
        differences.len(),
        differences[..differences.len().min(40)].join("\n")
    );
}
