//! The appendices of the hand-assembled golden file: they are valid, and the
//! writers make the same bytes from their contents.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_spec::{
    Level, Limits, Part, Role, SectionKind, SquizdRef,
    appendix::{DraftHead, Package, Sparsity, draft_head, sparsity},
    validate,
};

const GOLDEN: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-appendices.squizd");
const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");

fn golden() -> SquizdRef<'static> {
    SquizdRef::parse(GOLDEN, &Limits::DEFAULT).unwrap()
}

fn section(kind: SectionKind) -> (&'static [u8], u64) {
    let s = golden().section(kind).unwrap();
    (s.data, s.offset())
}

#[test]
fn the_file_is_valid_and_has_the_toys_weights() {
    let findings = validate(GOLDEN, &Limits::DEFAULT, Level::Numerics, &NoCodecs);
    assert!(findings.is_empty(), "{findings:?}");
    let toy = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    assert_eq!(golden().weights_digest(), toy.weights_digest());
}

#[test]
fn sparsity_is_read_and_written() {
    let (bytes, offset) = section(SectionKind::SPARSITY);
    let s = Sparsity::parse(bytes, offset, &Limits::DEFAULT).unwrap();
    assert_eq!(s.layer(1).unwrap().cluster(1), Some(32..36));
    assert_eq!(s.layer(1).unwrap().entry.threshold.get().to_bits(), (-1.0f32).to_bits());
    let permutation: Vec<u32> = (0..36).rev().collect();
    // d + c / 4 for input d and cluster c, as IEEE halves.
    let predictor = |clusters: usize| -> Vec<u16> {
        let rows: [[u16; 2]; 8] = [
            [0x0000, 0x3400],
            [0x3c00, 0x3d00],
            [0x4000, 0x4080],
            [0x4200, 0x4280],
            [0x4400, 0x4440],
            [0x4500, 0x4540],
            [0x4600, 0x4640],
            [0x4700, 0x4740],
        ];
        rows.iter().flat_map(|r| r[..clusters].to_vec()).collect()
    };
    let (one, two) = (predictor(1), predictor(2));
    let first = sparsity::LayerData {
        layer: 0,
        d_model: 8,
        expected_sparsity: 0.25,
        threshold: 0.5,
        boundaries: &[0, 36],
        histogram: &[0.75],
        permutation: &permutation,
        predictor: &one,
    };
    let second = sparsity::LayerData {
        layer: 1,
        expected_sparsity: 0.5,
        threshold: -1.0,
        boundaries: &[0, 32, 36],
        histogram: &[0.25, 1.0],
        predictor: &two,
        ..first
    };
    assert!(sparsity::write(&[first, second], &Limits::DEFAULT).unwrap() == bytes);
}

#[test]
fn the_draft_head_is_read_and_written() {
    let (bytes, offset) = section(SectionKind::DRAFT_HEAD);
    let header = golden().header();
    let d = DraftHead::parse(bytes, offset, header, &Limits::DEFAULT).unwrap();
    assert_eq!(d.head.calibration_hash.get(), 0x1122_3344_5566_7788);
    assert_eq!(d.token_map.iter().map(|t| t.get()).collect::<Vec<_>>(), [1, 4, 15]);
    let views: Vec<_> = d.tensors().collect();
    assert_eq!(views[0].role, Role::DRAFT_FC);
    assert_eq!(views[1].layer, Some(0));
    let tensors: Vec<_> = views
        .iter()
        .map(|t| draft_head::TensorData {
            name: t.name,
            role: t.role,
            layer: t.layer,
            part: Part::WEIGHT,
            experts: 0,
            source_dtype: t.source_dtype,
            dims: &t.desc.dims,
            codec: t.codec,
            params: *t.params,
            payload: t.data,
        })
        .collect();
    assert!(draft_head::write(d.head, &[1, 4, 15], &tensors, header, &Limits::DEFAULT).unwrap() == bytes);
}

#[test]
fn the_package_is_read_and_written() {
    let (bytes, offset) = section(SectionKind::COREML);
    let p = Package::parse(bytes, offset, &Limits::DEFAULT).unwrap();
    assert_eq!(p.files()[1].content, b"{}\n");
    let files = [
        ("toy.mlpackage/Manifest.json", &b"{}\n"[..]),
        ("toy.mlpackage/Data/com.apple.CoreML/model.mlmodel", b"not a model"),
    ];
    assert!(Package::write(&golden().weights_digest(), files, &Limits::DEFAULT).unwrap() == bytes);
}
