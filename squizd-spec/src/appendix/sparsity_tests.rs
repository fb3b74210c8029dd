use super::*;
use crate::layout::MAGIC;

const BASE: u64 = 5 * 16384;
/// Offsets in the sample: two entries, then layer 1 (3 clusters, 10 neurons)
/// and layer 4 (1 cluster, 2 neurons), d_model 4.
const ENTRY_1: u64 = BASE + 16;
const DATA_1: u64 = BASE + 256;

fn sample() -> Vec<u8> {
    let permutation = [3, 1, 2, 0, 9, 8, 7, 6, 5, 4];
    let predictor: Vec<u16> = (0..12).map(|i| 0x3c00 + i).collect();
    let first = LayerData {
        layer: 1,
        d_model: 4,
        expected_sparsity: 0.5,
        threshold: -0.25,
        boundaries: &[0, 4, 9, 10],
        histogram: &[0.0, 0.5, 1.0],
        permutation: &permutation,
        predictor: &predictor,
    };
    let second = LayerData {
        layer: 4,
        boundaries: &[0, 2],
        histogram: &[1.0],
        permutation: &[1, 0],
        predictor: &[0x8000; 4],
        expected_sparsity: 0.25,
        ..first
    };
    write(&[first, second], &Limits::DEFAULT).unwrap()
}

fn header() -> Header {
    let mut h = Header::read_from_bytes(&[0; 256]).unwrap();
    h.magic = MAGIC;
    h.num_layers = 5.into();
    h.hidden_dim = 4.into();
    h.sparsity_ratio = 0.375.into();
    h
}

/// First violation of parse and check.
fn verdict(bytes: &[u8], header: &Header) -> Result<()> {
    Sparsity::parse(bytes, BASE, &Limits::DEFAULT)?.check(header, &mut |e| Err(e))
}

fn refused(at: u64, value: &[u8]) -> (&'static str, u64) {
    let mut bytes = sample();
    let start = (at - BASE) as usize;
    bytes[start..start + value.len()].copy_from_slice(value);
    let e = verdict(&bytes, &header()).unwrap_err();
    (e.code().0, e.offset())
}

fn rewrite(s: &Sparsity<'_>) -> Vec<u8> {
    struct Owned(Vec<u32>, Vec<f32>, Vec<u32>, Vec<u16>);
    let owned: Vec<Owned> = s
        .layers()
        .iter()
        .map(|l| {
            Owned(
                l.boundaries.iter().map(|v| v.get()).collect(),
                l.histogram.iter().map(|v| v.get()).collect(),
                l.permutation.iter().map(|v| v.get()).collect(),
                l.predictor.iter().map(|v| v.get()).collect(),
            )
        })
        .collect();
    let data: Vec<LayerData<'_>> = s
        .layers()
        .iter()
        .zip(&owned)
        .map(|(l, o)| LayerData {
            layer: l.entry.layer.get(),
            d_model: l.entry.d_model.get(),
            expected_sparsity: l.entry.expected_sparsity.get(),
            threshold: l.entry.threshold.get(),
            boundaries: &o.0,
            histogram: &o.1,
            permutation: &o.2,
            predictor: &o.3,
        })
        .collect();
    write(&data, &Limits::DEFAULT).unwrap()
}

#[test]
fn round_trip_and_views() {
    let bytes = sample();
    let s = Sparsity::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
    s.check(&header(), &mut |e| Err(e)).unwrap();
    let layer = s.layer(1).unwrap();
    assert_eq!(layer.offset, DATA_1);
    assert_eq!(layer.cluster(1), Some(4..9));
    assert_eq!(layer.cluster(3), None);
    assert_eq!(layer.predictor.len(), 12);
    assert_eq!(s.mean_sparsity().to_bits(), 0.375f32.to_bits());
    assert!(s.layer(0).is_none());
    assert_eq!(rewrite(&s), bytes);
}

#[test]
fn structure_is_refused_in_place() {
    assert_eq!(refused(BASE, &[2]), ("appendix-version", BASE));
    assert_eq!(refused(BASE + 2, &[0]), ("sparsity-empty", BASE + 2));
    assert_eq!(refused(BASE + 2, &[0xff, 0xff]), ("limit-layers", BASE + 2));
    assert_eq!(refused(BASE + 15, &[1]), ("appendix-reserved", BASE + 15));
    assert_eq!(refused(ENTRY_1 + 32, &[1]), ("sparsity-order", ENTRY_1 + 32));
    assert_eq!(refused(ENTRY_1 + 2, &[0]), ("sparsity-clusters", ENTRY_1 + 2));
    assert_eq!(refused(ENTRY_1 + 2, &[11]), ("sparsity-clusters", ENTRY_1 + 2));
    assert_eq!(refused(ENTRY_1 + 2, &[0, 0x20]), ("limit-clusters", ENTRY_1 + 2));
    assert_eq!(refused(ENTRY_1 + 23, &[1]), ("appendix-reserved", ENTRY_1 + 23));
    assert_eq!(refused(ENTRY_1 + 24, &[0, 2]), ("appendix-offset", ENTRY_1 + 24));
    assert_eq!(refused(ENTRY_1 + 4, &[0xff; 4]).0, "appendix-truncated");
    assert_eq!(refused(ENTRY_1 + 8, &[0xff; 4]).0, "appendix-truncated");
    assert_eq!(refused(BASE + 255, &[1]), ("appendix-padding", BASE + 255));
    assert_eq!(refused(DATA_1 + 255, &[1]), ("appendix-padding", DATA_1 + 255));
}

#[test]
fn values_are_refused_in_place() {
    let nan = f32::NAN.to_le_bytes();
    assert_eq!(refused(ENTRY_1 + 12, &nan), ("sparsity-expected", ENTRY_1 + 12));
    assert_eq!(refused(ENTRY_1 + 12, &1.5f32.to_le_bytes()), ("sparsity-expected", ENTRY_1 + 12));
    assert_eq!(refused(ENTRY_1 + 16, &nan), ("sparsity-threshold", ENTRY_1 + 16));
    assert_eq!(refused(DATA_1, &[1]), ("sparsity-boundaries", DATA_1));
    assert_eq!(refused(DATA_1 + 8, &[4]), ("sparsity-boundaries", DATA_1 + 8));
    assert_eq!(refused(DATA_1 + 12, &[11]), ("sparsity-boundaries", DATA_1 + 12));
    assert_eq!(refused(DATA_1 + 20, &nan), ("sparsity-histogram", DATA_1 + 20));
    assert_eq!(refused(DATA_1 + 24, &(-0.5f32).to_le_bytes()), ("sparsity-histogram", DATA_1 + 24));
    assert_eq!(refused(DATA_1 + 28 + 4, &[3]), ("sparsity-permutation", DATA_1 + 28 + 4));
    assert_eq!(refused(DATA_1 + 28 + 36, &[10]), ("sparsity-permutation", DATA_1 + 28 + 36));
    assert_eq!(refused(DATA_1 + 28 + 36, &[0xff; 4]), ("sparsity-permutation", DATA_1 + 28 + 36));
    assert_eq!(refused(DATA_1 + 256 + 6, &[0, 0x7c]), ("sparsity-predictor", DATA_1 + 256 + 6));
}

#[test]
fn disagreements_with_the_header_are_refused() {
    let bytes = sample();
    let with = |edit: fn(&mut Header)| {
        let mut h = header();
        edit(&mut h);
        let e = verdict(&bytes, &h).unwrap_err();
        (e.code().0, e.offset())
    };
    assert_eq!(with(|h| h.num_layers = 4.into()), ("sparsity-layer", ENTRY_1 + 32));
    assert_eq!(with(|h| h.hidden_dim = 5.into()), ("sparsity-width", ENTRY_1 + 8));
    assert_eq!(with(|h| h.sparsity_ratio = 0.5.into()), ("sparsity-ratio", 27));
}

#[test]
fn every_finding_is_reported() {
    let mut bytes = sample();
    bytes[256] = 1;
    bytes[256 + 28] = 77;
    let mut codes = Vec::new();
    let s = Sparsity::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
    s.check(&header(), &mut |e| {
        codes.push((e.code().0, String::from(e.context())));
        Ok(())
    })
    .unwrap();
    let layer = String::from("sparsity layer 1");
    assert_eq!(codes, [("sparsity-boundaries", layer.clone()), ("sparsity-permutation", layer)]);
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = sample();
    for n in 0..bytes.len() {
        let code = Sparsity::parse(&bytes[..n], BASE, &Limits::DEFAULT).unwrap_err().code().0;
        assert_eq!(code, "appendix-truncated", "{n} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    let e = verdict(&longer, &header()).unwrap_err();
    assert_eq!((e.code().0, e.offset()), ("appendix-trailing", BASE + bytes.len() as u64));
}

#[test]
fn every_flipped_bit_is_refused_or_canonical() {
    let bytes = sample();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut b = bytes.clone();
            b[i] ^= 1 << bit;
            if let Ok(s) = Sparsity::parse(&b, BASE, &Limits::DEFAULT)
                && s.check(&header(), &mut |e| Err(e)).is_ok()
            {
                assert!(rewrite(&s) == b, "byte {i}");
            }
        }
    }
}

#[test]
fn a_long_directory_moves_the_data() {
    let one = LayerData {
        layer: 0,
        d_model: 4,
        expected_sparsity: 0.5,
        threshold: 0.0,
        boundaries: &[0, 2],
        histogram: &[1.0],
        permutation: &[1, 0],
        predictor: &[0; 4],
    };
    let layers: Vec<LayerData<'_>> = (0..8).map(|layer| LayerData { layer, ..one }).collect();
    let bytes = write(&layers, &Limits::DEFAULT).unwrap();
    // Head and entries take 16 + 8 * 32 bytes, more than one multiple of 256.
    let offsets = Sparsity::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
    let offsets: Vec<u64> = offsets.layers().iter().map(|l| l.offset - BASE).collect();
    assert_eq!(offsets[..2], [512, 1024]);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let base = LayerData {
        layer: 0,
        d_model: 1,
        expected_sparsity: 0.0,
        threshold: 0.0,
        boundaries: &[0, 2],
        histogram: &[0.5],
        permutation: &[1, 0],
        predictor: &[0],
    };
    let code = |l: LayerData<'_>| write(&[l], &Limits::DEFAULT).unwrap_err().code().0;
    assert_eq!(code(LayerData { boundaries: &[0], ..base }), "sparsity-shape");
    assert_eq!(code(LayerData { predictor: &[], ..base }), "sparsity-shape");
    assert_eq!(code(LayerData { boundaries: &[0, 3], ..base }), "sparsity-boundaries");
    assert_eq!(code(LayerData { permutation: &[1, 1], ..base }), "sparsity-permutation");
    assert_eq!(write(&[], &Limits::DEFAULT).unwrap_err().code().0, "sparsity-empty");
    assert_eq!(write(&[base, base], &Limits::DEFAULT).unwrap_err().code().0, "sparsity-order");
}
