//! Files that fixtures/imatrix/make_imatrix.py wrote, and damaged ones.

use super::*;
use proptest::prelude::*;
use squizd_spec::{DType, Part, Role};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/imatrix").join(name)
}

fn tensor(role: Role, layer: u16, experts: u16, cols: u64) -> TensorInfo {
    let layer = role.is_per_layer().then_some(layer);
    let dims = if experts > 0 { vec![experts.into(), 6, cols] } else { vec![6, cols] };
    let name = squizd_spec::canonical_name(role, layer, Part::WEIGHT);
    TensorInfo {
        source_name: name.clone(),
        name,
        role,
        layer,
        part: Part::WEIGHT,
        experts,
        dtype: DType::BF16,
        dims,
    }
}

/// The mean square that the fixture gives channel `c` of expert `e`.
fn mean(e: usize, c: usize) -> f32 {
    (e + 1) as f32 * (c + 1) as f32 / 8.0
}

fn importance(file: &Imatrix, tensor: &TensorInfo) -> Option<Vec<Vec<f32>>> {
    let moments = file.moments(tensor).unwrap()?;
    assert!(moments.iter().all(|m| m.hessian.is_empty()));
    Some(moments.iter().map(|m| m.importance.clone()).collect())
}

#[test]
fn both_forms_give_the_same_means() {
    for name in ["small.gguf", "small.dat"] {
        let file = Imatrix::open(&fixture(name)).unwrap();
        // Query, key and value read one input; gate and up too.
        for (role, layer, cols) in [
            (Role::ATTN_Q, 0, 8),
            (Role::ATTN_K, 0, 8),
            (Role::ATTN_V, 0, 8),
            (Role::ATTN_OUTPUT, 0, 12),
            (Role::FFN_DOWN, 0, 5),
            (Role::OUTPUT, 0, 8),
            (Role::TOKEN_EMBD, 0, 8),
        ] {
            let found = importance(&file, &tensor(role, layer, 0, cols)).unwrap();
            assert_eq!(found.len(), 1, "{name} {role}");
            for (c, v) in found[0].iter().enumerate() {
                assert!((v - mean(0, c)).abs() <= 1e-6 * mean(0, c), "{name} {role} {c}: {v}");
            }
        }
        assert_eq!(importance(&file, &tensor(Role::ATTN_Q, 1, 0, 8)), None);
        assert_eq!(importance(&file, &tensor(Role::ATTN_NORM, 0, 0, 8)), None);
        assert_eq!(importance(&file, &tensor(Role::MOE_DOWN, 1, 4, 4)), None, "no expert saw anything");
        let bias = TensorInfo { part: Part::BIAS, ..tensor(Role::ATTN_Q, 0, 0, 8) };
        assert_eq!(importance(&file, &bias), None);
        assert_eq!(file.datasets()[0], "calibration.txt");
        let digest = file.sha256(&|| false).unwrap();
        assert_eq!(
            digest[..],
            <sha2::Sha256 as sha2::Digest>::digest(std::fs::read(fixture(name)).unwrap())[..]
        );
    }
}

#[test]
fn experts_have_sets_of_their_own() {
    let counts = [1024.0, 0.0, 4096.0, 3.0];
    let total: f64 = counts.iter().sum();
    for role in [Role::MOE_GATE, Role::MOE_UP] {
        let gguf =
            importance(&Imatrix::open(&fixture("small.gguf")).unwrap(), &tensor(role, 1, 4, 8)).unwrap();
        let dat = importance(&Imatrix::open(&fixture("small.dat")).unwrap(), &tensor(role, 1, 4, 8)).unwrap();
        for c in 0..8 {
            let own = |e: usize| if counts[e] > 0.0 { f64::from(mean(e, c)) } else { 0.0 };
            let all: f64 = (0..4).map(|e| counts[e] / total * own(e)).sum();
            for e in 0..4 {
                let share = counts[e] / (counts[e] + 128.0);
                let wanted = share * own(e) + (1.0 - share) * all;
                assert!((f64::from(gguf[e][c]) - wanted).abs() < 1e-6 * wanted, "{e} {c}: {}", gguf[e][c]);
                let wanted = if e == 1 { 1.0 } else { mean(e, c) };
                assert!((dat[e][c] - wanted).abs() <= 1e-6 * wanted, "{e} {c}: {}", dat[e][c]);
            }
        }
    }
}

#[test]
fn other_models_are_refused_and_gaps_listed() {
    let file = Imatrix::open(&fixture("small.gguf")).unwrap();
    let fitting = [
        tensor(Role::ATTN_Q, 0, 0, 8),
        tensor(Role::FFN_DOWN, 0, 0, 5),
        tensor(Role::FFN_DOWN, 7, 0, 5),
        tensor(Role::MOE_GATE, 1, 4, 8),
        tensor(Role::ATTN_NORM, 0, 0, 8),
    ];
    let coverage = file.coverage(&fitting).unwrap();
    assert_eq!((coverage.known, coverage.unknown), (3, vec!["blk.7.ffn_down.weight".to_owned()]));
    assert_eq!(file.peak_bytes(&fitting), 4 * 32);
    for wrong in [tensor(Role::ATTN_Q, 0, 0, 9), tensor(Role::MOE_GATE, 1, 5, 8)] {
        let message = file.coverage(std::slice::from_ref(&wrong)).unwrap_err().to_string();
        assert!(message.contains("small.gguf") && message.contains("of another model"), "{message}");
        assert!(file.moments(&wrong).is_err());
    }
}

/// What opening `bytes` says, or reading everything in it.
fn refusal(bytes: &[u8]) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    std::fs::write(&path, bytes).unwrap();
    let file = Imatrix::open(&path)?;
    for (role, layer, experts, cols) in [
        (Role::ATTN_Q, 0, 0, 8),
        (Role::ATTN_OUTPUT, 0, 0, 12),
        (Role::FFN_DOWN, 0, 0, 5),
        (Role::MOE_GATE, 1, 4, 8),
        (Role::OUTPUT, 0, 0, 8),
    ] {
        file.moments(&tensor(role, layer, experts, cols))?;
    }
    Ok(())
}

#[track_caller]
fn refused(bytes: &[u8], says: &[&str]) {
    let message = refusal(bytes).unwrap_err().to_string();
    assert!(says.iter().all(|s| message.contains(s)), "{message}");
}

#[test]
fn damaged_dat_files_are_refused_with_the_byte() {
    let good = std::fs::read(fixture("small.dat")).unwrap();
    assert!(refusal(&good).is_ok());
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    // Entry 0: length at 4, name of 24 at 8, calls at 32, count at 36, values from 40.
    assert_eq!(&good[8..32], b"blk.0.attn_output.weight");
    refused(&with(0, &0i32.to_le_bytes()), &["byte 0", "count of entries is 0"]);
    refused(&with(0, &(-1i32).to_le_bytes()), &["byte 0", "-1"]);
    refused(&with(0, &i32::MAX.to_le_bytes()), &["byte 0", "allowed 1 to 262144"]);
    refused(&with(0, &100i32.to_le_bytes()), &["byte"]);
    refused(&with(4, &0i32.to_le_bytes()), &["byte 4", "length of name of entry 0 is 0"]);
    refused(&with(4, &513i32.to_le_bytes()), &["byte 4", "513"]);
    refused(&with(8, &[0xff]), &["byte 8", "no UTF-8"]);
    refused(&with(8, b"/"), &["looks like a path"]);
    refused(&with(32, &(-5i32).to_le_bytes()), &["byte 32", "calls", "-5"]);
    refused(&with(36, &0i32.to_le_bytes()), &["byte 36", "count of values"]);
    refused(&with(36, &i32::MAX.to_le_bytes()), &["byte 40", "8589934588 bytes"]);
    refused(&with(40, &f32::NAN.to_le_bytes()), &["attn_output", "value 0 is NaN"]);
    refused(&with(44, &(-1f32).to_le_bytes()), &["value 1 is -1"]);
    refused(&[&good[..], &[0]].concat(), &["1 bytes follow"]);
    refused(&good[..3], &["byte 0", "3 are left"]);
    refused(b"not at all what was asked for", &["byte 0", "no importance matrix"]);
    // Older files end with the entries, or with the chunks.
    let trailer = 4 + 4 + b"calibration.txt".len();
    assert!(refusal(&good[..good.len() - trailer]).is_ok());
    assert!(refusal(&good[..good.len() - trailer + 4]).is_ok());
    // Twice the same name.
    let first = &good[4..40 + 48];
    refused(&[&2i32.to_le_bytes(), first, first].concat(), &["byte 88", "a second entry"]);
}

#[test]
fn gguf_files_of_other_kinds_are_refused() {
    let model = fixture("../gguf/all_types.gguf");
    let message = Imatrix::open(&model).err().unwrap().to_string();
    assert!(message.contains("all_types.gguf") && message.contains("general.type is None"), "{message}");
    let good = std::fs::read(fixture("small.gguf")).unwrap();
    let rename = |from: &str, to: &str| {
        let mut changed = good.clone();
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        changed
    };
    refused(&rename("attn_q.weight.counts", "attn_q.weight.xounts"), &["attn_q.weight.counts beside it"]);
    refused(&rename("attn_q.weight.in_sum2", "attn_q.weight.xn_sum2"), &["attn_q.weight.in_sum2 beside it"]);
    refused(&rename("output.weight.in_sum2", "output.weight.out_sum"), &["blk.0.attn_output.weight"]);
    refused(&rename("imatrix", "imxtrix"), &["general.type is Some(\"imxtrix\")"]);
    refused(&good[..good.len() / 2], &["byte"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn changed_files_are_read_or_refused(name in prop::sample::select(vec!["small.dat", "small.gguf"]), at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = refusal(&bytes);
        bytes.truncate(cut.index(bytes.len()).max(1));
        let _ = refusal(&bytes);
    }
}
