//! ARM's astcenc as the oracle of the decoder: needs the feature `arm-astcenc`,
//! which builds it from source.
//!
//! `SQUIZD_BLESS=1 cargo test -p squizd --features arm-astcenc oracle` rewrites
//! the fixture that the plain tests use.
#![allow(clippy::unwrap_used, reason = "test code, outside of #[test] functions too")]

use super::super::testing::{MemoryRows, encode_with, gaussian};
use super::block::Block;
use super::*;
use ctt_astcenc::bindings::{astcenc_image, astcenc_type_ASTCENC_TYPE_F16};
use ctt_astcenc::{Context, Flags, Preset, Profile, Swizzle, config_init};

/// Red channel of `blocks`, decoded as a texture one block high, block by block
/// as f16 bits.
fn decode(profile: Profile, blocks: &[[u8; 16]]) -> Vec<[u16; TEXELS]> {
    let width = blocks.len() * SIDE;
    let mut pixels = vec![0u16; width * SIDE * 4];
    let mut slice = pixels.as_mut_ptr().cast();
    let mut image = astcenc_image {
        dim_x: width as u32,
        dim_y: SIDE as u32,
        dim_z: 1,
        data_type: astcenc_type_ASTCENC_TYPE_F16,
        data: &raw mut slice,
    };
    let config = config_init(profile, 6, 6, 1, Preset::Medium, Flags::DECOMPRESS_ONLY).unwrap();
    let mut context = Context::new(&config).unwrap();
    context.decompress(blocks.as_flattened(), &mut image, Swizzle::IDENTITY).unwrap();
    (0..blocks.len())
        .map(|b| std::array::from_fn(|i| pixels[4 * (i / SIDE * width + b * SIDE + i % SIDE)]))
        .collect()
}

/// `blocks` decode there as here, in LDR and HDR textures.
fn compare(blocks: &[[u8; 16]]) {
    for profile in [Profile::Ldr, Profile::Hdr] {
        for (stored, expected) in blocks.iter().zip(decode(profile, blocks)) {
            let block = Block::unpack(stored).unwrap();
            for (texel, expected) in block.texels().into_iter().zip(expected) {
                let expected = f16_to_f32(expected);
                assert_eq!((texel as f32 / 65536.0).to_bits(), expected.to_bits(), "{profile:?} {block:?}");
            }
        }
    }
}

/// Blocks of every mode, with any seeds and endpoints, and constant ones.
fn blocks() -> Vec<[u8; 16]> {
    use proptest::{strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let strategy = super::block::tests::symbols();
    let mut draw = || Block::Levels(strategy.new_tree(&mut runner).unwrap().current()).pack();
    let mut blocks: Vec<[u8; 16]> = (0..360).map(|_| draw()).collect();
    let greys = [0, 1, 2, 3, 4, 0x7ff, 0x800, 0x801, 0x7fff, 0x8000, 0x8010, 0xfffe, 0xffff];
    blocks.extend(greys.map(|grey| Block::Constant(grey).pack()));
    blocks
}

#[test]
fn fixture_is_what_astcenc_decodes() {
    let blocks = blocks();
    compare(&blocks);
    let mut fixture = Vec::new();
    for (stored, texels) in blocks.iter().zip(decode(Profile::Hdr, &blocks)) {
        fixture.extend(stored);
        fixture.extend(texels.iter().flat_map(|t| t.to_le_bytes()));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/astc/astcenc.bin");
    if std::env::var_os("SQUIZD_BLESS").is_some() {
        std::fs::write(path, &fixture).unwrap();
    }
    assert!(std::fs::read(path).unwrap() == fixture, "rewrite {path} with SQUIZD_BLESS=1");
}

#[test]
fn every_block_of_the_encoder_decodes_there_to_the_same_texels() {
    for (quality, seed) in [(Quality::Fast, 1), (Quality::Default, 2), (Quality::Max, 3)] {
        let (m, n) = (66u64, 306u64);
        let mut w = gaussian((m * n) as usize, seed);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= [1.0, 0.01, 40.0, 0.0][(i / 61 % 7).saturating_sub(3)];
        }
        let options = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE };
        let stored = encode_with(CODEC, &MemoryRows::f32(m, n, w), &options.into()).unwrap();
        compare(stored.data[..11 * 51 * 16].as_chunks().0);
    }
}
