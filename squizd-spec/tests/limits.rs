//! Every limit is inclusive: the golden files pass limits that are exactly
//! theirs, and one less of any is refused where the value stands.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_spec::{
    ErrorKind, Level, Limits, SectionKind, SquizdRef,
    appendix::{DraftHead, Package, Sparsity},
    digest::{header_checksum, root_digest},
    layout::{Header, SectionEntry, TensorRecord},
    validate,
};
use std::mem::offset_of;
use zerocopy::FromBytes;

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
const APPENDICES: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-appendices.squizd");

fn file(bytes: &[u8]) -> SquizdRef<'_> {
    SquizdRef::parse(bytes, &Limits::DEFAULT).unwrap()
}

/// Limits that the golden file with the appendices just meets.
fn exact() -> Limits {
    let f = file(APPENDICES);
    let of = |kind: SectionKind| f.entry(kind).unwrap().stored_length.get();
    let draft_data = f.section(SectionKind::DRAFT_HEAD).unwrap();
    let draft = DraftHead::parse(draft_data.data, 0, f.header(), &Limits::DEFAULT).unwrap();
    let names = f.descs().map(|t| t.name.len()).chain(draft.tensors().map(|t| t.name.len()));
    let dims = f.descs().map(|t| t.dims.to_vec()).chain(draft.tensors().map(|t| t.dims.to_vec()));
    let dims: Vec<Vec<u64>> = dims.collect();
    let package = f.section(SectionKind::COREML).unwrap();
    let sparsity = f.section(SectionKind::SPARSITY).unwrap();
    let sparsity = Sparsity::parse(sparsity.data, 0, &Limits::DEFAULT).unwrap();
    Limits {
        sections: f.directory().len() as u32,
        tensors: f.tensor_count() as u32,
        strings: of(SectionKind::STRINGS),
        name: names.max().unwrap() as u16,
        dim: *dims.iter().flatten().max().unwrap(),
        elements: dims.iter().map(|d| d.iter().product()).max().unwrap(),
        layers: f.header().num_layers.get(),
        section_stored: of(SectionKind::TOKENIZER).max(of(SectionKind::METADATA)),
        section_inflated: 0,
        inflate_ratio: 0,
        bundle_files: 2,
        clusters: sparsity.layers().iter().map(|l| l.entry.n_clusters.get()).max().unwrap(),
        package_entries: Package::parse(package.data, 0, &Limits::DEFAULT).unwrap().files().len() as u32,
        draft_layers: draft.head.n_layers,
    }
}

#[test]
fn a_file_passes_limits_that_are_its_own() {
    let findings = validate(APPENDICES, &exact(), Level::Hash, &NoCodecs);
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn one_less_of_any_limit_is_refused() {
    let exact = exact();
    let f = file(APPENDICES);
    let section = |kind: SectionKind| {
        let i = f.directory().iter().position(|e| e.kind.get() == kind.0).unwrap();
        256 + (i * size_of::<SectionEntry>()) as u64
    };
    let stored = |kind| section(kind) + offset_of!(SectionEntry, stored_length) as u64;
    let at = |kind: SectionKind| f.entry(kind).unwrap().offset.get();
    let tensor = |which: &dyn Fn(&squizd_spec::TensorDesc<'_>) -> bool| {
        let i = f.descs().position(|t| which(&t)).unwrap();
        at(SectionKind::TENSORS) + (i * size_of::<TensorRecord>()) as u64
    };
    let longest = tensor(&|t| t.name.len() == usize::from(exact.name));
    let widest = tensor(&|t| t.dims.contains(&exact.dim));
    let place = f.descs().find(|t| t.dims.contains(&exact.dim)).unwrap();
    let place = place.dims.iter().position(|d| *d == exact.dim).unwrap() as u64;
    let largest = tensor(&|t| t.dims.iter().product::<u64>() == exact.elements);
    let bigger = if f.entry(SectionKind::TOKENIZER).unwrap().stored_length.get() == exact.section_stored {
        SectionKind::TOKENIZER
    } else {
        SectionKind::METADATA
    };
    let dims = offset_of!(TensorRecord, dims) as u64;
    let less: [(&str, u64, Limits); 11] = [
        ("limit-sections", 44, Limits { sections: exact.sections - 1, ..exact }),
        ("limit-tensors", at(SectionKind::TENSORS), Limits { tensors: exact.tensors - 1, ..exact }),
        ("limit-section", stored(SectionKind::STRINGS), Limits { strings: exact.strings - 1, ..exact }),
        (
            "name-length",
            longest + offset_of!(TensorRecord, name_length) as u64,
            Limits { name: exact.name - 1, ..exact },
        ),
        ("tensor-dims", widest + dims + 8 * place, Limits { dim: exact.dim - 1, ..exact }),
        ("tensor-elements", largest + dims, Limits { elements: exact.elements - 1, ..exact }),
        ("limit-layers", 11, Limits { layers: exact.layers - 1, ..exact }),
        ("limit-section", stored(bigger), Limits { section_stored: exact.section_stored - 1, ..exact }),
        (
            "limit-bundle-files",
            at(SectionKind::TOKENIZER),
            Limits { bundle_files: exact.bundle_files - 1, ..exact },
        ),
        (
            "limit-package-entries",
            at(SectionKind::COREML) + 4,
            Limits { package_entries: exact.package_entries - 1, ..exact },
        ),
        (
            "limit-draft-head",
            at(SectionKind::DRAFT_HEAD) + 2,
            Limits { draft_layers: exact.draft_layers - 1, ..exact },
        ),
    ];
    for (code, offset, limits) in less {
        let findings = validate(APPENDICES, &limits, Level::Hash, &NoCodecs);
        let first = findings.first().map(|e| (e.code().0, e.offset()));
        assert_eq!(first, Some((code, offset)), "{limits:?}");
    }
    // Two entries of 32 bytes follow the head of 16; the second layer has two clusters.
    let limits = Limits { clusters: exact.clusters - 1, ..exact };
    let findings = validate(APPENDICES, &limits, Level::Hash, &NoCodecs);
    let first = findings.first().map(|e| (e.kind(), e.code().0, e.offset()));
    assert_eq!(first, Some((ErrorKind::Limit, "limit-clusters", at(SectionKind::SPARSITY) + 16 + 32 + 2)));
}

/// The toy whose tokenizer calls itself compressed from `length` bytes.
fn inflated(length: u64) -> Vec<u8> {
    let toy = file(TOY);
    let i = toy.directory().iter().position(|e| e.kind.get() == SectionKind::TOKENIZER.0).unwrap();
    let mut bytes = TOY.to_vec();
    let entry = 256 + i * size_of::<SectionEntry>();
    bytes[entry + offset_of!(SectionEntry, flags)] = 2;
    bytes[entry + offset_of!(SectionEntry, length)..][..8].copy_from_slice(&length.to_le_bytes());
    let (header, rest) = Header::mut_from_prefix(&mut bytes).unwrap();
    let directory = <[SectionEntry]>::ref_from_bytes(&rest[..size_of_val(toy.directory())]).unwrap();
    let data = |kind| toy.section(kind).unwrap().data;
    header.root_digest =
        root_digest(header, directory, data(SectionKind::STRINGS), data(SectionKind::TENSORS));
    header.checksum = header_checksum(header);
    bytes
}

#[test]
fn a_compressed_section_may_be_as_long_as_either_limit_allows() {
    let stored = file(TOY).entry(SectionKind::TOKENIZER).unwrap().stored_length.get();
    let code = |length, limits| SquizdRef::parse(&inflated(length), &limits).err().map(|e| e.code().0);
    let sized = Limits { section_inflated: 5000, inflate_ratio: 1, ..Limits::DEFAULT };
    assert_eq!(code(5000, sized), None);
    assert_eq!(code(5001, sized), Some("limit-inflated"));
    // One mebibyte is never a bomb; past it the ratio counts.
    let ratio = Limits { section_inflated: u64::MAX, inflate_ratio: 3, ..Limits::DEFAULT };
    assert_eq!(code((1 << 20) + 3 * stored, ratio), None);
    assert_eq!(code((1 << 20) + 3 * stored + 1, ratio), Some("limit-inflated"));
}
