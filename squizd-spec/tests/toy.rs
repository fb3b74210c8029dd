//! The reader against the hand-assembled golden file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_spec::{
    Inspect, Level, Limits, Result, SectionKind, SquizdError, SquizdRef, Tables, TensorView,
    appendix::Bundle, validate,
};
use std::cell::Cell;

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");
const EXPECTED: &str = include_str!("../../fixtures/golden/v1/toy-2layer.json");

#[test]
fn the_toy_is_valid() {
    let findings = validate(TOY, &Limits::DEFAULT, Level::Numerics, &NoCodecs);
    assert!(findings.is_empty(), "{findings:?}");
}

/// Counts what it is shown, and refuses all of it.
#[derive(Default)]
struct Counted {
    decoded: Cell<usize>,
    judged: Cell<usize>,
}

impl Inspect for Counted {
    fn decode(&self, _: &TensorView<'_>) -> Result<()> {
        self.decoded.set(self.decoded.get() + 1);
        Ok(())
    }
    fn numerics(&self, t: &TensorView<'_>) -> Result<()> {
        self.judged.set(self.judged.get() + 1);
        Err(SquizdError::invalid("not-finite", t.offset, "a test"))
    }
}

/// Each level looks at what the one before it does, and further.
#[test]
fn levels_look_as_far_as_they_say() {
    let mut damaged = TOY.to_vec();
    damaged[16384] ^= 1;
    let seen = |level| {
        let counted = Counted::default();
        let findings = validate(&damaged, &Limits::DEFAULT, level, &counted);
        let count = |code| findings.iter().filter(|f| f.code().0 == code).count();
        (counted.decoded.get(), counted.judged.get(), count("tensor-digest"), count("not-finite"))
    };
    assert_eq!(seen(Level::Structure), (0, 0, 0, 0));
    assert_eq!(seen(Level::Hash), (0, 0, 1, 0));
    assert_eq!(seen(Level::Decode), (21, 0, 1, 0));
    assert_eq!(seen(Level::Numerics), (21, 21, 1, 21));
}

#[test]
fn tables_agree_with_the_sidecar() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    assert_eq!(file.tensor_count(), 21);
    for t in file.tensors() {
        let line = EXPECTED.lines().find(|l| l.contains(&format!("\"name\": \"{}\"", t.name))).unwrap();
        let has = |field: String| assert!(line.contains(&field), "{field} not in {line}");
        has(format!("\"codec_name\": \"{}\"", t.codec));
        has(format!("\"offset\": {}", t.offset));
        has(format!("\"payload_length\": {},", t.length));
        has(format!("\"dims\": {:?},", t.dims));
        has(format!("\"sha256\": \"{}\"", squizd_spec::Hex(t.sha256)));
        has(format!("\"params\": \"{}\"", squizd_spec::Hex(t.params)));
        let elements: u64 = t.dims.iter().product();
        assert_eq!(t.elements(), elements, "{}", t.name);
        assert_eq!((t.bits_per_weight() * elements as f64) as u64, t.length * 8, "{}", t.name);
    }
    assert!(EXPECTED.contains(&format!("\"{}\"", squizd_spec::Hex(&file.weights_digest()))));
}

#[test]
fn tables_need_no_payload() {
    let tables = Tables::parse_prefix(&TOY[..16384], &Limits::DEFAULT).unwrap();
    let found = tables.find("output.weight").unwrap();
    assert_eq!((found.name, found.index), ("output.weight", 20));
    assert_eq!(found.dims[..], [16, 8]);
    assert!(tables.find("output.weigh").is_none());
}

#[test]
fn tensors_are_found_by_name() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    for t in file.tensors() {
        let named = file.tensor_named(t.name).unwrap();
        assert_eq!((named.index, named.data), (t.index, t.data));
    }
    assert!(file.tensor_named("absent").is_none());
}

#[test]
fn the_tokenizer_bundle_opens() {
    let file = SquizdRef::parse(TOY, &Limits::DEFAULT).unwrap();
    let section = file.section(SectionKind::TOKENIZER).unwrap();
    let bundle = Bundle::parse(section.data, section.offset(), &Limits::DEFAULT).unwrap();
    assert_eq!(bundle.files().len(), 2);
    assert!(bundle.get("tokenizer.json").unwrap().starts_with(b"{\"version\": \"1.0\""));
    let again = Bundle::write(bundle.files().iter().map(|f| (f.name, f.content))).unwrap();
    assert_eq!(again, section.data);
}
