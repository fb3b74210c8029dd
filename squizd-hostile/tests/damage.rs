//! Every small valid file of each variant, cut at every byte, and with every
//! bit flipped (debug builds take a fixed sample of the large ones): refused,
//! or provably harmless.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::{NoCodecs, canonical, corpus::Corpus, seal::Layout};
use squizd_spec::{Level, Limits, SquizdRef, structure, validate};

const LIMITS: &Limits = &Limits::DEFAULT;

fn files() -> Vec<(String, Vec<u8>)> {
    let all: Vec<_> =
        Corpus::load().unwrap().bases.into_iter().filter(|(_, b)| b.starts_with(b"SQZD")).collect();
    assert!(all.len() >= 6, "{} variants", all.len());
    all
}

#[test]
fn every_truncation_is_refused() {
    for (name, bytes) in files() {
        for length in 0..bytes.len() {
            assert!(SquizdRef::parse(&bytes[..length], LIMITS).is_err(), "{name}: {length} bytes");
        }
    }
}

/// Unsealed: a digest, the checksum or a rule finds every flip of every bit of
/// header and tables at level structure.
#[test]
fn every_flip_in_front_is_found_by_structure() {
    for (name, mut bytes) in files() {
        let file = SquizdRef::parse(&bytes, LIMITS).unwrap();
        let tables = file.entry(squizd_spec::SectionKind::TENSORS).unwrap();
        let end = (tables.offset.get() + tables.stored_length.get()) as usize;
        let step = if cfg!(debug_assertions) && name != "toy-2layer" { 7 } else { 1 };
        for at in (0..end).step_by(step) {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(!structure(&bytes, LIMITS).0.is_empty(), "{name}: byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

/// Unsealed: every byte of the whole file has an owner or is zero padding.
#[test]
fn every_byte_is_hashed_or_padding() {
    for (name, mut bytes) in files() {
        let step = if cfg!(debug_assertions) { 97 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            let mask = 1 << (at % 8);
            bytes[at] ^= mask;
            assert!(!validate(&bytes, LIMITS, Level::Hash, &NoCodecs).is_empty(), "{name}: byte {at}");
            bytes[at] ^= mask;
        }
    }
}

/// Sealed again behind the flip, so that rules and not digests decide: a file
/// that passes has other contents, and is their one encoding.
#[test]
fn sealed_flips_are_found_or_are_other_contents() {
    for (name, base) in files() {
        let layout = Layout::of(&base).unwrap();
        let step = if cfg!(debug_assertions) { 23 } else { 1 };
        let (mut found, mut other) = (0u32, 0u32);
        for at in (0..base.len()).step_by(step) {
            let mut bytes = base.clone();
            bytes[at] ^= 1 << ((at / step) % 8);
            let mut quick = bytes.clone();
            layout.seal(&mut bytes);
            layout.seal_after(&mut quick, std::slice::from_ref(&(at..at + 1)));
            assert!(quick == bytes, "{name}: byte {at} is sealed in two ways");
            if !validate(&bytes, LIMITS, Level::Numerics, &NoCodecs).is_empty() {
                found += 1;
                continue;
            }
            let file = SquizdRef::parse(&bytes, LIMITS).unwrap();
            let newer = file.header().version.get() != 0x0100;
            assert!(newer || canonical::encode(&file) == bytes, "{name}: byte {at} is read, and not meant");
            other += 1;
        }
        assert!(found > 0 && other > 0, "{name}: {found} found, {other} others");
    }
}
