use super::*;
use crate::layout::PARAMS_SIZE;
use alloc::string::String;

const BASE: u64 = 4 * 16384;
const WEIGHTS: Sha = [9; 32];
const MAP: [u32; 3] = [0, 4, 15];
/// Head and map end at 140: strings at 192.
const STRINGS: u64 = BASE + 192;

fn header() -> Header {
    let mut h = Header::read_from_bytes(&[0; 256]).unwrap();
    h.version = crate::layout::VERSION.into();
    h.num_layers = 4.into();
    h.hidden_dim = 8.into();
    h.vocab_size = 16.into();
    h
}

fn head() -> Head {
    let mut h = Head::read_from_bytes(&[0; 128]).unwrap();
    h.n_layers = 1;
    h.source_layers = [1, 3];
    h.d_model = 2.into();
    h.d_hidden = 8.into();
    h.vocab_size = 3.into();
    h.calibration_hash = 0x0123_4567_89ab_cdef.into();
    h.weights_digest = WEIGHTS;
    h
}

fn tensor<'a>(name: &'a str, role: Role, dims: &'a [u64], payload: &'a [u8]) -> TensorData<'a> {
    TensorData {
        name,
        role,
        layer: role.is_per_layer().then_some(0),
        part: Part::WEIGHT,
        experts: 0,
        source_dtype: DType::BF16,
        dims,
        codec: CodecId::RAW_BF16,
        params: [0; PARAMS_SIZE],
        payload,
    }
}

fn tensors() -> [TensorData<'static>; 3] {
    [
        tensor("draft_fc.weight", Role::DRAFT_FC, &[2, 16], &[1; 64]),
        tensor("blk.0.attn_norm.weight", Role::ATTN_NORM, &[2], &[2; 4]),
        tensor("output.weight", Role::OUTPUT, &[3, 2], &[3; 12]),
    ]
}

fn sample() -> Vec<u8> {
    write(&head(), &MAP, &tensors(), &header(), &Limits::DEFAULT).unwrap()
}

fn verdict(bytes: &[u8], header: &Header) -> Result<()> {
    DraftHead::parse(bytes, BASE, header, &Limits::DEFAULT)?.check(header, &WEIGHTS, &mut |e| Err(e))
}

fn refused(at: u64, value: &[u8]) -> (&'static str, u64) {
    let mut bytes = sample();
    let start = (at - BASE) as usize;
    bytes[start..start + value.len()].copy_from_slice(value);
    let e = verdict(&bytes, &header()).unwrap_err();
    (e.code().0, e.offset())
}

fn rewrite(d: &DraftHead<'_>) -> Vec<u8> {
    let views: Vec<_> = d.tensors().collect();
    let data: Vec<TensorData<'_>> = views
        .iter()
        .map(|t| TensorData {
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
    write(d.head, &map, &data, &header(), &Limits::DEFAULT).unwrap()
}

#[test]
fn round_trip_and_views() {
    let bytes = sample();
    let d = DraftHead::parse(&bytes, BASE, &header(), &Limits::DEFAULT).unwrap();
    d.check(&header(), &WEIGHTS, &mut |e| Err(e)).unwrap();
    let names: Vec<_> = d.tensors().map(|t| String::from(t.name)).collect();
    assert_eq!(names, ["draft_fc.weight", "blk.0.attn_norm.weight", "output.weight"]);
    let last = d.tensors().last().unwrap();
    assert_eq!(last.data, [3; 12]);
    assert_eq!(last.offset % TENSOR_ALIGN, 0);
    assert_eq!(last.offset + 12, BASE + bytes.len() as u64);
    assert_eq!(rewrite(&d), bytes);
}

#[test]
fn a_head_with_the_base_vocabulary_needs_no_map() {
    let mut h = head();
    h.vocab_size = 16.into();
    let payload = [0; 64];
    let output = tensor("output.weight", Role::OUTPUT, &[16, 2], &payload);
    let all = [tensors()[0], output];
    assert!(write(&h, &[], &all, &header(), &Limits::DEFAULT).is_ok());
    h.vocab_size = 15.into();
    assert_eq!(write(&h, &[], &all, &header(), &Limits::DEFAULT).unwrap_err().code().0, "draft-vocab");
}

#[test]
fn fields_are_refused_in_place() {
    assert_eq!(refused(BASE, &[3]), ("appendix-version", BASE));
    assert_eq!(refused(BASE + 2, &[0]), ("draft-zero", BASE + 2));
    assert_eq!(refused(BASE + 2, &[17]), ("limit-draft-head", BASE + 2));
    assert_eq!(refused(BASE + 3, &[3, 1]), ("draft-source-layers", BASE + 3));
    assert_eq!(refused(BASE + 4, &[4]), ("draft-source-layers", BASE + 3));
    assert_eq!(refused(BASE + 7, &[1]), ("appendix-reserved", BASE + 7));
    assert_eq!(refused(BASE + 8, &[0]), ("draft-zero", BASE + 8));
    assert_eq!(refused(BASE + 12, &[9]), ("draft-hidden", BASE + 12));
    assert_eq!(refused(BASE + 20, &[2]), ("draft-token-map", BASE + 20));
    assert_eq!(refused(BASE + 32, &[0]), ("draft-base", BASE + 32));
    assert_eq!(refused(BASE + 64, &[0xff; 4]), ("limit-draft-head", BASE + 64));
    assert_eq!(refused(BASE + 68, &[0xff; 4]), ("limit-draft-head", BASE + 68));
    assert_eq!(refused(BASE + 72, &[0xff; 8]).0, "appendix-truncated");
    assert_eq!(refused(BASE + 127, &[1]), ("appendix-reserved", BASE + 127));
    assert_eq!(refused(BASE + 128 + 4, &[0]), ("draft-token-map", BASE + 132));
    assert_eq!(refused(BASE + 128 + 8, &[16]), ("draft-token-map", BASE + 136));
    assert_eq!(refused(STRINGS - 1, &[1]), ("appendix-padding", STRINGS - 1));
}

#[test]
fn tables_obey_the_files_rules() {
    let records = STRINGS + 64;
    assert_eq!(refused(records, &[1]), ("name-offset", records));
    assert_eq!(refused(records + 12, &[99]), ("tensor-codec", records + 12));
    assert_eq!(refused(records + 152 + 8, &[1]), ("tensor-layer", records + 152 + 8));
    assert_eq!(refused(records + 104, &[1]), ("tensor-misaligned", records + 104));
    assert_eq!(refused(records + 6, &[5]), ("tensor-role", records + 6));
    let payload = (records + 3 * 152).next_multiple_of(256);
    assert_eq!(refused(payload, &[0]), ("tensor-digest", payload));
    assert_eq!(refused(payload + 100, &[1]), ("appendix-padding", payload + 100));
}

#[test]
fn a_later_minor_version_may_add_ids() {
    let mut bytes = sample();
    let dtype = (STRINGS - BASE) as usize + 64 + offset_of!(TensorRecord, source_dtype);
    bytes[dtype] = 99;
    assert_eq!(verdict(&bytes, &header()).unwrap_err().code().0, "tensor-dtype");
    let mut later = header();
    later.version = (crate::layout::VERSION + 1).into();
    verdict(&bytes, &later).unwrap();
}

#[test]
fn bounds_are_inclusive() {
    // Both source layers may be the last one of the base.
    let twice = Head { source_layers: [3, 3], ..head() };
    write(&twice, &MAP, &tensors(), &header(), &Limits::DEFAULT).unwrap();
    let [fc, norm, output] = tensors();
    let deep = TensorData { dims: &[1, 1, 1, 1, 1, 2], ..norm };
    write(&head(), &MAP, &[fc, deep, output], &header(), &Limits::DEFAULT).unwrap();
}

#[test]
fn fixed_shapes() {
    let code = |tensors: &[TensorData<'_>]| {
        let e = write(&head(), &MAP, tensors, &header(), &Limits::DEFAULT).unwrap_err();
        (e.code().0, e.offset())
    };
    let [fc, _, output] = tensors();
    let records = 192 + 64;
    assert_eq!(code(&[fc]), ("draft-missing", records));
    assert_eq!(code(&[output]), ("draft-missing", 256));
    assert_eq!(code(&[TensorData { dims: &[4, 8], ..fc }, output]), ("draft-shape", records + 24));
    assert_eq!(code(&[fc, TensorData { dims: &[2, 3], ..output }]), ("draft-shape", records + 152 + 24));
    assert_eq!(code(&[TensorData { dims: &[1; 7], ..fc }, output]).0, "draft-shape");
}

#[test]
fn disagreements_with_the_base() {
    let bytes = sample();
    let with = |edit: fn(&mut Header)| {
        let mut h = header();
        edit(&mut h);
        verdict(&bytes, &h).unwrap_err().code().0
    };
    assert_eq!(with(|h| h.hidden_dim = 9.into()), "draft-hidden");
    assert_eq!(with(|h| h.num_layers = 3.into()), "draft-source-layers");
    assert_eq!(with(|h| h.vocab_size = 15.into()), "draft-token-map");
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = sample();
    for n in 0..bytes.len() {
        assert_eq!(verdict(&bytes[..n], &header()).unwrap_err().code().0, "appendix-truncated", "{n} bytes");
    }
    let e = verdict(&[&bytes[..], &[0]].concat(), &header()).unwrap_err();
    assert_eq!((e.code().0, e.offset()), ("appendix-trailing", BASE + bytes.len() as u64));
}

#[test]
fn every_flipped_bit_is_refused_or_canonical() {
    let bytes = sample();
    let mut accepted = 0;
    for i in 0..bytes.len() {
        for bit in 0..8 {
            let mut b = bytes.clone();
            b[i] ^= 1 << bit;
            let Ok(d) = DraftHead::parse(&b, BASE, &header(), &Limits::DEFAULT) else { continue };
            if d.check(&header(), &WEIGHTS, &mut |e| Err(e)).is_ok() {
                assert!(rewrite(&d) == b, "byte {i}");
                accepted += 1;
            }
        }
    }
    // Only source layers, calibration hash, token map and source dtypes are free.
    assert!(accepted < 8 * (2 + 8 + 12 + 3), "{accepted} flips accepted");
}
