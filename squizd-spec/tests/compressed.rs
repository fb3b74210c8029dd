//! Sections beside the weights: one stored compressed, and damage in them.

#![cfg(feature = "zstd")]
#![allow(clippy::unwrap_used, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_hostile::seal::Layout;
use squizd_spec::{
    Level, Limits, SectionKind, SquizdRef, appendix::Bundle, contents, layout::SectionEntry, section_bytes,
    validate,
};
use std::mem::offset_of;

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
/// The tokenizer section: fourth entry of the directory.
const ENTRY: usize = 256 + 3 * size_of::<SectionEntry>();
const AT: usize = 32768;
const LENGTH: usize = 509;
/// Magic, descriptor, content size (u16 less 256), block header.
const FRAME: usize = 4 + 1 + 2 + 3;

/// A bundle that, in a frame of one raw block, takes the place of the toy's.
fn bundle() -> Vec<u8> {
    let empty = Bundle::write([("tokenizer.json", &b""[..])]).unwrap().len();
    let content = vec![b' '; LENGTH - FRAME - empty];
    Bundle::write([("tokenizer.json", &content[..])]).unwrap()
}

/// The toy with `bundle` stored compressed.
fn compressed(bundle: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b0110_0000];
    frame.extend((bundle.len() as u16 - 256).to_le_bytes());
    frame.extend(&((bundle.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend(bundle);
    assert_eq!(frame.len(), LENGTH);
    let mut file = TOY.to_vec();
    file[AT..AT + LENGTH].copy_from_slice(&frame);
    file[ENTRY + offset_of!(SectionEntry, flags)] = 2;
    let length = ENTRY + offset_of!(SectionEntry, length);
    file[length..length + 8].copy_from_slice(&(bundle.len() as u64).to_le_bytes());
    sealed(file)
}

fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    Layout::of(TOY).unwrap().seal(&mut file);
    file
}

/// Codes and offsets of what the sections hold.
fn found(file: &[u8]) -> Vec<(&'static str, u64)> {
    let parsed = SquizdRef::parse(file, &Limits::DEFAULT).unwrap();
    contents(&parsed, &Limits::DEFAULT).iter().map(|e| (e.code().0, e.offset())).collect()
}

#[test]
fn a_compressed_section_is_inflated() {
    let (bundle, file) = (bundle(), compressed(&bundle()));
    let findings = validate(&file, &Limits::DEFAULT, Level::Hash, &NoCodecs);
    assert!(findings.is_empty(), "{findings:?}");
    let parsed = SquizdRef::parse(&file, &Limits::DEFAULT).unwrap();
    let bytes = section_bytes(&parsed, SectionKind::TOKENIZER, &Limits::DEFAULT).unwrap().unwrap();
    assert!(*bytes == *bundle);
    assert!(section_bytes(&parsed, SectionKind::COREML, &Limits::DEFAULT).unwrap().is_none());
}

#[test]
fn damage_in_a_compressed_section_is_found() {
    let mut reserved = compressed(&bundle());
    reserved[AT + FRAME - 3] |= 6;
    assert_eq!(found(&sealed(reserved)), [("zstd-block", (AT + FRAME - 3) as u64)]);
    let mut name = bundle();
    name[12] = b'/';
    assert_eq!(found(&compressed(&name)).first().map(|f| f.0), Some("bundle-name"));
}

/// The tokenizer's entry calls itself a shard map, which it is not.
#[test]
fn a_shard_map_is_looked_into() {
    let mut file = TOY.to_vec();
    file[ENTRY] = 0x40;
    file[ENTRY + offset_of!(SectionEntry, flags)] = 1;
    assert_eq!(found(&sealed(file)), [("appendix-version", AT as u64)]);
}
