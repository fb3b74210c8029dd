//! The container's reader: parser, prefix parser, validator, sections.

use crate::{NoCodecs, canonical, corpus::Corpus, seal::Layout};
use squizd_spec::{
    ErrorKind, Level, Limits, Result, SectionKind, SquizdRef, Tables,
    appendix::{Bundle, DraftHead, Package, ShardMap, Sparsity, draft_head, inflate, sparsity},
    layout::Header,
    structure, validate,
};
use std::sync::OnceLock;
use zerocopy::FromZeros;

const LIMITS: &Limits = &Limits::DEFAULT;

/// What holds for every input: parser and validator agree, errors point into
/// the input or at its end, views are in bounds, and a file without findings
/// is the one encoding of its contents.
pub fn whole(data: &[u8]) {
    let parsed = SquizdRef::parse(data, LIMITS);
    let (findings, file) = structure(data, LIMITS);
    match &parsed {
        Err(e) => {
            assert!(file.is_none() && !findings.is_empty());
            let first = findings.first().map(|f| (f.code(), f.offset()));
            assert_eq!(first, Some((e.code(), e.offset())), "parse reports the validator's first finding");
        }
        Ok(_) => assert!(file.is_some() && findings.iter().all(|f| f.code().0 == "root-digest")),
    }
    for e in &findings {
        assert!(e.offset() <= data.len() as u64 && !e.message().is_empty());
    }
    let Ok(file) = parsed else { return };
    let mut end = 0;
    for t in file.tensors() {
        assert_eq!(t.data.len() as u64, t.length);
        let start = t.data.as_ptr().addr() - data.as_ptr().addr();
        assert!(start as u64 == t.offset && start >= end, "payloads lie in order, without overlap");
        end = start + t.data.len();
    }
    for e in file.directory() {
        let section = file.section(SectionKind(e.kind.get()));
        assert!(section.is_some_and(|s| s.data.len() as u64 == s.entry.stored_length.get()));
    }
    let all = validate(data, LIMITS, Level::Numerics, &NoCodecs);
    if all.is_empty() && file.header().version.get() == 0x0100 {
        assert!(canonical::encode(&file) == data, "a valid file is the one encoding of its contents");
    }
}

fn golden() -> &'static [(Vec<u8>, Layout)] {
    static FILES: OnceLock<Vec<(Vec<u8>, Layout)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let corpus = Corpus::load().expect("fixtures/hostile/corpus.json");
        let files = corpus.bases.into_values().filter(|b| b.starts_with(b"SQZD"));
        files.map(|b| (b.clone(), Layout::of(&b).expect("bases are valid"))).collect()
    })
}

/// Edits of a valid file, sealed again: the first byte chooses the file, each
/// further group of six is a place (u24), an operation and a value (u16).
pub fn sealed(data: &[u8]) {
    let Some((&choice, edits)) = data.split_first() else { return };
    let files = golden();
    let (base, layout) = &files[usize::from(choice) % files.len()];
    let (mut file, mut places) = (base.clone(), Vec::new());
    for edit in edits.chunks_exact(6).take(16) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % file.len();
        let value = u16::from_le_bytes([edit[4], edit[5]]);
        let wide = u64::from(value).wrapping_mul(0x0001_0001_0001_0001);
        let bytes = match edit[3] % 8 {
            0 => vec![edit[4]],
            1 => value.to_le_bytes().to_vec(),
            2 => u32::from(value).to_le_bytes().to_vec(),
            3 => u64::from(value).to_le_bytes().to_vec(),
            4 => wide.to_le_bytes().to_vec(),
            5 => (1u64 << (value % 64)).to_le_bytes().to_vec(),
            6 => (1u64 << (value % 64)).wrapping_neg().to_le_bytes().to_vec(),
            _ => vec![file[at] ^ 1 << (value % 8)],
        };
        places.push(at..at + bytes.len());
        for (to, from) in file[at..].iter_mut().zip(bytes) {
            *to = from;
        }
    }
    layout.seal_after(&mut file, &places);
    whole(&file);
    prefix(&file);
}

/// The prefix parser asks for more, never twice for what it has, and agrees
/// with the parser of the whole.
pub fn prefix(data: &[u8]) {
    let mut have = 0;
    let outcome = loop {
        match Tables::parse_prefix(&data[..have], LIMITS) {
            Ok(tables) => break Ok(tables),
            Err(e) => match e.kind() {
                ErrorKind::Truncated { needed } if needed <= data.len() as u64 => {
                    assert!(needed > have as u64, "asks for bytes that it has");
                    have = needed as usize;
                }
                _ => break Err(e),
            },
        }
    };
    let whole = SquizdRef::parse(data, LIMITS);
    match (outcome, whole) {
        (Ok(tables), Ok(file)) => {
            assert_eq!(tables.tensor_count(), file.tensor_count());
            assert_eq!(tables.weights_digest(), file.weights_digest());
        }
        (Err(e), Ok(_)) => panic!("the file parses, its prefix does not: {e}"),
        (Ok(_), Err(e)) => {
            assert!(matches!(e.code().0, "file-truncated" | "trailing-data" | "padding"), "{e}");
        }
        (Err(_), Err(_)) => {}
    }
}

fn header() -> &'static Header {
    static HEADER: OnceLock<Header> = OnceLock::new();
    HEADER.get_or_init(|| {
        let mut h = Header::new_zeroed();
        (h.version, h.num_layers, h.hidden_dim, h.vocab_size) =
            (0x0100.into(), 2.into(), 8.into(), 16.into());
        h
    })
}

/// One section's contents: the first byte chooses which. What parses and
/// checks is what the writer writes.
pub fn sections(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let mut clean = true;
    let mut report = |_| {
        clean = false;
        Ok(())
    };
    match choice % 6 {
        0 => {
            let Ok(b) = Bundle::parse(data, 0, LIMITS) else { return };
            let again = Bundle::write(b.files().iter().map(|f| (f.name, f.content)));
            assert!(again.is_ok_and(|w| w == data));
        }
        1 => {
            let Ok(s) = Sparsity::parse(data, 0, LIMITS) else { return };
            let header = Header { sparsity_ratio: s.mean_sparsity().into(), ..*header() };
            let _ = s.check(&header, &mut report);
            if clean {
                assert!(sparsity_again(&s).is_none_or(|w| w == data));
            }
        }
        2 => {
            let Ok(d) = DraftHead::parse(data, 0, header(), LIMITS) else { return };
            let _ = d.check(header(), &d.head.weights_digest, &mut report);
            if clean {
                assert!(draft_again(&d).is_ok_and(|w| w == data));
            }
        }
        3 => {
            let Ok(p) = Package::parse(data, 0, LIMITS) else { return };
            let digest: [u8; 32] = data[32..64].try_into().expect("a head");
            let _ = p.check(&digest, &mut report);
            if clean {
                let again = Package::write(&digest, p.files().iter().map(|f| (f.path, f.content)), LIMITS);
                assert!(again.is_ok_and(|w| w == data));
            }
        }
        4 => drop(ShardMap::parse(data, 0, LIMITS)),
        _ => {
            let Some((length, frame)) = data.split_first_chunk::<3>() else { return };
            let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], 0]));
            if let Ok(out) = inflate(frame, 0, length, LIMITS) {
                assert_eq!(out.len() as u64, length);
            }
        }
    }
}

fn sparsity_again(s: &Sparsity<'_>) -> Option<Vec<u8>> {
    struct Owned {
        boundaries: Vec<u32>,
        histogram: Vec<f32>,
        permutation: Vec<u32>,
        predictor: Vec<u16>,
    }
    let layers = s.layers();
    let owned: Vec<Owned> = layers
        .iter()
        .map(|l| Owned {
            boundaries: l.boundaries.iter().map(|v| v.get()).collect(),
            histogram: l.histogram.iter().map(|v| v.get()).collect(),
            permutation: l.permutation.iter().map(|v| v.get()).collect(),
            predictor: l.predictor.iter().map(|v| v.get()).collect(),
        })
        .collect();
    let data: Vec<_> = layers
        .iter()
        .zip(&owned)
        .map(|(l, o)| sparsity::LayerData {
            layer: l.entry.layer.get(),
            d_model: l.entry.d_model.get(),
            expected_sparsity: l.entry.expected_sparsity.get(),
            threshold: l.entry.threshold.get(),
            boundaries: &o.boundaries,
            histogram: &o.histogram,
            permutation: &o.permutation,
            predictor: &o.predictor,
        })
        .collect();
    sparsity::write(&data, LIMITS).ok()
}

fn draft_again(d: &DraftHead<'_>) -> Result<Vec<u8>> {
    let views: Vec<_> = d.tensors().collect();
    let tensors: Vec<_> = views
        .iter()
        .map(|t| draft_head::TensorData {
            name: t.name,
            role: t.role,
            layer: t.layer,
            part: t.part,
            experts: t.experts,
            source_dtype: t.source_dtype,
            dims: &t.desc.dims,
            codec: t.codec,
            params: *t.params,
            payload: t.data,
        })
        .collect();
    let map: Vec<u32> = d.token_map.iter().map(|t| t.get()).collect();
    draft_head::write(d.head, &map, &tensors, header(), LIMITS)
}

/// The corpus's .squizd files, valid ones first.
pub fn files(corpus: &Corpus) -> Vec<Vec<u8>> {
    let valid = corpus.bases.values().filter(|b| b.starts_with(b"SQZD")).cloned();
    valid.chain(corpus.of("squizd").map(|c| c.bytes().to_vec())).collect()
}

/// Edits that break one field each.
pub fn edits(_: &Corpus) -> Vec<Vec<u8>> {
    let edit = |file: u8, at: u32, op: u8, value: u16| {
        let mut v = vec![file];
        v.extend(&at.to_le_bytes()[..3]);
        v.push(op);
        v.extend(value.to_le_bytes());
        v
    };
    let places = (0..256).step_by(5).chain((256..832).step_by(4)).chain((1024..1480).step_by(3));
    places.flat_map(|at| (0..6).map(move |file| edit(file, at, (at % 8) as u8, (at * 37) as u16))).collect()
}

/// Sections of the valid files, each after its choice.
pub fn section_seeds(corpus: &Corpus) -> Vec<Vec<u8>> {
    let kinds = [
        (SectionKind::TOKENIZER, 0),
        (SectionKind::SPARSITY, 1),
        (SectionKind::DRAFT_HEAD, 2),
        (SectionKind::COREML, 3),
        (SectionKind::SHARD_MAP, 4),
    ];
    let mut seeds = Vec::new();
    for bytes in files(corpus) {
        let Ok(file) = SquizdRef::parse(&bytes, LIMITS) else { continue };
        for (kind, choice) in kinds {
            let Some(section) = file.section(kind) else { continue };
            let mut seed = vec![choice];
            if section.entry.flags.get() & squizd_spec::layout::section_flags::ZSTD != 0 {
                seed = vec![5];
                seed.extend(&section.entry.length.get().to_le_bytes()[..3]);
            }
            seed.extend(section.data);
            seeds.push(seed);
        }
    }
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}
