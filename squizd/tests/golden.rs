//! The golden file was assembled from the written specification by a script
//! that shares no code with the writer; the writer must produce the same bytes.

use squizd::{
    codec::EncodeStats,
    source::TensorInfo,
    writer::{HeaderInfo, Section, Writer},
};
use squizd_spec::{Limits, SectionKind, SquizdRef};

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");

#[test]
fn the_writer_reproduces_the_toy() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    let header = file.header();
    let info = HeaderInfo {
        arch: file.arch(),
        num_layers: header.num_layers.get(),
        hidden_dim: header.hidden_dim.get(),
        num_heads: header.num_heads.get(),
        vocab_size: header.vocab_size.get(),
        sparsity_ratio: header.sparsity_ratio.get(),
        calibration_hash: header.calibration_hash.get(),
    };
    let tensors: Vec<_> = file
        .descs()
        .map(|t| TensorInfo {
            name: t.name.to_owned(),
            source_name: t.name.to_owned(),
            role: t.role,
            layer: t.layer,
            part: t.part,
            experts: t.experts,
            dtype: t.source_dtype,
            dims: t.dims.to_vec(),
        })
        .collect();
    let later: Vec<_> = [SectionKind::TOKENIZER, SectionKind::METADATA]
        .map(|kind| Section::plain(kind, file.section(kind).unwrap().data.to_vec()))
        .into();

    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("toy.squizd");
    let kinds = [SectionKind::TOKENIZER, SectionKind::METADATA];
    let mut writer = Writer::create(&target, info, &tensors, &kinds).unwrap();
    for t in file.tensors() {
        let copy = |sink: &dyn squizd::codec::PayloadSink| {
            sink.write_at(0, t.data)?;
            Ok((t.length, EncodeStats::default()))
        };
        writer.tensor(t.codec, t.params, copy).unwrap();
    }
    assert!(!target.exists(), "nothing may be visible before finish");
    let finished = writer.finish(&later).unwrap();
    let written = std::fs::read(&target).unwrap();
    assert_eq!(finished.length, written.len() as u64);
    assert!(
        written == TOY,
        "first difference at byte {:?}",
        written.iter().zip(TOY).position(|(a, b)| a != b)
    );
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["toy.squizd"], "no temporary file may stay");
}
