//! Random models, codecs and shapes: what the writer writes is valid at every
//! level, is the one encoding of its contents, and decodes to what was encoded.
//! `PROPTEST_CASES` sets the number of cases (default 256).

#![cfg(feature = "tools")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use proptest::prelude::*;
use squizd::{
    codec::{CODECS, Codec, EncodeOptions, Request, Rows, codec},
    metadata::{FormatInfo, Metadata, Provenance},
    model::{Activation, ModelConfig, Rope, SpecialTokens},
    source::TensorInfo,
    writer::{HeaderInfo, Section, Writer},
};
use squizd_hostile::canonical;
use squizd_spec::{
    DType, Level, Limits, Matrix, Part, Role, SectionKind, SquizdRef, Tables, appendix::Bundle,
    canonical_name, section_bytes,
};
use std::{borrow::Cow, ops::Range};

/// A tensor to be written.
#[derive(Clone, Debug)]
struct Sample {
    role: Role,
    layer: Option<u16>,
    dims: Vec<u64>,
    codec: usize,
    values: Vec<f32>,
}

/// Rows in memory.
struct Memory<'a> {
    name: String,
    matrix: Matrix,
    values: &'a [f32],
    dtype: DType,
}

impl Rows for Memory<'_> {
    fn name(&self) -> &str {
        &self.name
    }
    fn matrix(&self) -> Matrix {
        self.matrix
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = self.matrix.cols;
        out.copy_from_slice(&self.values[(rows.start * cols) as usize..(rows.end * cols) as usize]);
        Ok(())
    }
    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }
    fn release(&self, _: Range<u64>) {}
}

/// bfloat16 values of moderate size, so that every codec takes them.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -4.0f32..4.0,
        2 => Just(0.0),
        1 => prop_oneof![Just(-0.0), Just(1e-20), Just(3000.0), Just(-1e-38)],
    ]
    .prop_map(|v| f32::from_bits(v.to_bits() & 0xffff_0000))
}

fn sample(role: Role, layer: Option<u16>) -> impl Strategy<Value = Sample> {
    let dims = prop_oneof![
        3 => (1u64..9, prop_oneof![1u64..70, Just(256), Just(257), Just(300), Just(1024), Just(1030)]).prop_map(|(a, b)| vec![a, b]),
        1 => (1u64..300).prop_map(|a| vec![a]),
        1 => (1u64..4, 1u64..4, 1u64..40).prop_map(|(a, b, c)| vec![a, b, c]),
    ];
    (dims, 0..CODECS.len()).prop_flat_map(move |(dims, codec)| {
        let count = dims.iter().product::<u64>() as usize;
        proptest::collection::vec(value(), count).prop_map(move |values| Sample {
            role,
            layer,
            dims: dims.clone(),
            codec,
            values,
        })
    })
}

fn model() -> impl Strategy<Value = (Vec<Sample>, bool, Option<String>)> {
    let per_layer = [Role::ATTN_NORM, Role::ATTN_Q, Role::ATTN_OUTPUT, Role::FFN_GATE, Role::FFN_DOWN];
    let all = std::iter::once((Role::TOKEN_EMBD, None))
        .chain((0..2).flat_map(move |l| per_layer.map(|r| (r, Some(l)))))
        .chain([(Role::OUTPUT_NORM, None)]);
    let tensors: Vec<_> =
        all.map(|(role, layer)| proptest::option::weighted(0.5, sample(role, layer))).collect();
    (tensors, any::<bool>(), proptest::option::of("[ -~]{0,40}"))
        .prop_map(|(t, zstd, template)| (t.into_iter().flatten().collect(), zstd, template))
        .prop_filter("a file has a tensor", |(t, ..): &(Vec<Sample>, bool, Option<String>)| !t.is_empty())
}

fn config() -> ModelConfig {
    ModelConfig {
        family: "llama".into(),
        name: None,
        hidden_size: 8,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        ffn_size: 36,
        vocab_size: 16,
        max_positions: 64,
        norm_eps: 1e-5,
        activation: Activation::Silu,
        tie_embeddings: false,
        rope: Rope { theta: 10000.0, dim: 4, local_theta: None, scaling: None },
        sliding_window: None,
        local_layers: vec![],
        nope_layers: vec![],
        attn_scale: None,
        attn_softcap: None,
        logit_softcap: None,
        embedding_scale: None,
        moe: None,
        mla: None,
        tokens: SpecialTokens::default(),
    }
}

/// Codec of a sample: the drawn one, where it takes the tensor.
fn codec_of(sample: &Sample, matrix: Matrix) -> &'static dyn Codec {
    let drawn = CODECS[sample.codec];
    let fits = drawn.accepts(matrix).is_ok() && drawn.accepts_dtype(DType::BF16).is_ok();
    // Signed bytes are for sources of signed bytes.
    if fits && drawn.id() != squizd_spec::CodecId::RAW_I8 { drawn } else { CODECS[0] }
}

fn written(samples: &[Sample], zstd: bool, template: Option<String>) -> Vec<u8> {
    let infos: Vec<_> = samples
        .iter()
        .map(|s| TensorInfo {
            name: canonical_name(s.role, s.layer, Part::WEIGHT),
            source_name: String::new(),
            role: s.role,
            layer: s.layer,
            part: Part::WEIGHT,
            experts: 0,
            dtype: DType::BF16,
            dims: s.dims.clone(),
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.squizd");
    let model = config();
    let kinds = [SectionKind::TOKENIZER, SectionKind::METADATA];
    let mut writer = Writer::create(&target, HeaderInfo::of(&model), &infos, &kinds).unwrap();
    for (s, info) in samples.iter().zip(&infos) {
        let matrix = Matrix::of(&s.dims).unwrap();
        let codec = codec_of(s, matrix);
        let rows = Memory { name: info.name.clone(), matrix, values: &s.values, dtype: DType::BF16 };
        let request = Request::from(EncodeOptions::default());
        let params = codec.plan(&rows, &request).unwrap();
        writer.tensor(codec.id(), &params, |sink| codec.encode(&rows, &params, &request, sink)).unwrap();
    }
    let metadata = Metadata {
        format: FormatInfo::default(),
        model,
        source: [].into(),
        chat_template: template,
        provenance: Provenance::default(),
    };
    let (tokenizer, metadata) =
        (Bundle::write([("tokenizer.json", &b"{}"[..])]).unwrap(), metadata.to_bytes().unwrap());
    let section = |kind, bytes: Vec<u8>| {
        if zstd { Section::zstd(kind, &bytes).unwrap() } else { Section::plain(kind, bytes) }
    };
    writer.finish(&[section(kinds[0], tokenizer), section(kinds[1], metadata)]).unwrap();
    std::fs::read(&target).unwrap()
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(256)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read((samples, zstd, template) in model()) {
        let limits = &Limits::DEFAULT;
        let bytes = written(&samples, zstd, template.clone());
        let findings = squizd::validate::validate(&bytes, limits, Level::Numerics);
        prop_assert!(findings.is_empty(), "{findings:?}");
        let file = SquizdRef::parse(&bytes, limits).unwrap();
        prop_assert!(canonical::encode(&file) == bytes, "not the one encoding");
        prop_assert_eq!(Tables::parse_prefix(&bytes, limits).unwrap().tensor_count(), samples.len());
        prop_assert!(bytes == written(&samples, zstd, template.clone()), "equal inputs give equal bytes");
        let metadata = section_bytes(&file, SectionKind::METADATA, limits).unwrap().unwrap();
        prop_assert_eq!(Metadata::from_bytes(&metadata).unwrap().chat_template, template);
        for (t, s) in file.tensors().zip(&samples) {
            prop_assert_eq!(&*t.dims, &s.dims[..]);
            prop_assert_eq!((t.role, t.layer), (s.role, s.layer));
            let mut out = vec![0.0; s.values.len()];
            let encoded = squizd::codec::Encoded::of(&t);
            codec(t.codec).unwrap().decode(&encoded, 0..t.matrix().rows, &mut out).unwrap();
            let lossless = t.codec.is_raw() && t.codec != squizd_spec::CodecId::RAW_F16
                || t.codec == squizd_spec::CodecId::TCA_TBE;
            if lossless {
                prop_assert!(out.iter().zip(&s.values).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", t.name);
            }
        }
    }

    /// Flipped bits anywhere in a random file: found at level decode, or the
    /// contents are others and this is their one encoding.
    #[test]
    fn damage_is_found((samples, zstd, template) in model(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let limits = &Limits::DEFAULT;
        let mut bytes = written(&samples, zstd, template);
        *place.get_mut(&mut bytes) ^= 1 << bit;
        prop_assert!(!squizd::validate::validate(&bytes, limits, Level::Hash).is_empty());
        bytes.truncate(place.index(bytes.len()));
        prop_assert!(SquizdRef::parse(&bytes, limits).is_err());
    }
}
