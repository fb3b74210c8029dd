//! Calibration files written, read back, and damaged.

use super::*;
use squizd::{
    calibration::{Calibration, Collected, CollectedSink, Detail, Shared},
    runtime::InputShape,
    source::TensorInfo,
};
use squizd_spec::{DType, Part, Role, canonical_name};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

const INPUTS: [InputShape; 2] = [
    InputShape { role: Role::ATTN_Q, layer: Some(0), experts: 0, width: 3 },
    InputShape { role: Role::MOE_GATE, layer: Some(0), experts: 2, width: 2 },
];

fn origin() -> Origin {
    Origin { model: "toy".into(), family: "qwen3moe".into(), tokens: 128, ctx: 64, ..Origin::default() }
}

fn set(count: u64, triangle: &[f32], diagonal: &[f32]) -> Collected {
    Collected { count, importance: diagonal.to_vec(), triangle: triangle.to_vec() }
}

fn write(path: &Path, detail: Detail) -> [u8; 32] {
    let layout = Layout::new(&INPUTS, detail, &origin()).unwrap();
    let mut go_on = || Ok(());
    let mut writer = CalibrationWriter::create(path, &layout, INPUTS.to_vec(), detail, &mut go_on).unwrap();
    let keep = |mut c: Collected| {
        if detail == Detail::Importance {
            c.triangle.clear();
        }
        c
    };
    let q = keep(set(128, &[1.0, 0.5, 0.25, 2.0, -1.0, 3.0], &[1.0, 2.0, 3.0]));
    let experts = [set(128, &[4.0, 1.0, 8.0], &[4.0, 8.0]), set(0, &[0.0; 3], &[0.0; 2])];
    writer.input(&INPUTS[0], &[q]).unwrap();
    writer.input(&INPUTS[1], &experts.map(keep)).unwrap();
    let digest = writer.finish().unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), layout.length);
    digest
}

fn tensor(role: Role, dims: &[u64]) -> TensorInfo {
    TensorInfo {
        name: canonical_name(role, Some(0), Part::WEIGHT),
        source_name: String::new(),
        role,
        layer: Some(0),
        part: Part::WEIGHT,
        experts: if dims.len() == 3 { dims[0] as u16 } else { 0 },
        dtype: DType::F32,
        dims: dims.to_vec(),
    }
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.calib");
    (folder, path)
}

#[test]
fn moments_come_back_whole_and_shared() {
    let (_folder, path) = temporary();
    let digest = write(&path, Detail::Hessian);
    let file = CalibrationFile::open(&path).unwrap();
    assert_eq!((file.origin(), file.has_hessians()), (&origin(), true));
    assert_eq!(file.sha256(&|| false).unwrap(), digest);
    let [q, v, gate] = [(Role::ATTN_Q, &[5, 3][..]), (Role::ATTN_V, &[1, 3]), (Role::MOE_UP, &[2, 7, 2])]
        .map(|(r, d)| tensor(r, d));
    let moments = file.moments(&q).unwrap().unwrap();
    assert_eq!(moments[0].importance, [1.0, 2.0, 3.0]);
    assert_eq!(moments[0].hessian, [1.0, 0.5, 0.25, 0.5, 2.0, -1.0, 0.25, -1.0, 3.0]);
    let shared = Shared::new(&file, false);
    let [a, b] = [&q, &v].map(|t| shared.moments(t).unwrap().unwrap());
    assert!(Arc::ptr_eq(&a, &b), "one input is read once");
    assert_eq!(*a, moments);
    // The expert that saw nothing has the mean of all; the other has seen half
    // of what the prior counts for, which is its own mean.
    let experts = file.moments(&gate).unwrap().unwrap();
    assert_eq!(experts.len(), 2);
    for expert in &experts {
        assert_eq!(
            (&expert.importance[..], &expert.hessian[..]),
            (&[4.0, 8.0][..], &[4.0, 1.0, 1.0, 8.0][..])
        );
    }
    assert_eq!(file.moments(&tensor(Role::ATTN_NORM, &[3])).unwrap(), None);
    assert_eq!(file.moments(&tensor(Role::FFN_DOWN, &[3, 3])).unwrap(), None);
    assert_eq!(file.peak_bytes(&[q.clone(), gate.clone()]), 4 * 12);
    let coverage = file.coverage(&[q, gate, tensor(Role::FFN_DOWN, &[3, 3])]).unwrap();
    assert_eq!(coverage, Coverage { known: 2, unknown: vec!["blk.0.ffn_down.weight".into()] });
    for other in [tensor(Role::ATTN_K, &[5, 4]), tensor(Role::MOE_GATE, &[3, 7, 2])] {
        let message = file.coverage(std::slice::from_ref(&other)).unwrap_err().to_string();
        assert!(message.contains(&other.name) && message.contains("another model (toy)"), "{message}");
        assert!(file.moments(&other).is_err());
    }
}

#[test]
fn diagonals_alone_are_files_too() {
    let (_folder, path) = temporary();
    write(&path, Detail::Importance);
    let file = CalibrationFile::open(&path).unwrap();
    assert!(!file.has_hessians());
    let moments = file.moments(&tensor(Role::ATTN_Q, &[5, 3])).unwrap().unwrap();
    assert_eq!((moments[0].importance.len(), moments[0].hessian()), (3, None));
}

#[test]
fn unfinished_files_leave_nothing() {
    let (folder, path) = temporary();
    let layout = Layout::new(&INPUTS, Detail::Importance, &origin()).unwrap();
    let mut stop = || Err(Error::Cancelled);
    let mut writer =
        CalibrationWriter::create(&path, &layout, INPUTS.to_vec(), Detail::Importance, &mut stop).unwrap();
    assert!(matches!(writer.window_done(), Err(Error::Cancelled)));
    assert!(writer.input(&INPUTS[1], &[]).unwrap_err().to_string().contains("blk.0.moe_gate.input"));
    assert!(writer.finish().is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The header's JSON changed by `change`, the data kept.
fn tampered(change: impl Fn(String) -> String) -> squizd::Result<CalibrationFile> {
    let (_folder, path) = temporary();
    write(&path, Detail::Hessian);
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json = change(String::from_utf8(bytes[8..end].to_vec()).unwrap());
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.extend(&bytes[end..]);
    fs::write(&path, file).unwrap();
    CalibrationFile::open(&path)
}

#[test]
fn foreign_and_damaged_files_are_refused_by_name() {
    assert!(tampered(|json| json).is_ok());
    for (from, to, part) in [
        ("squizd-calibration", "squizd-imagination", "format"),
        (r#""version":"1""#, r#""version":"2""#, "version"),
        (r#""tokens":"128""#, r#""tokens":"-1""#, "tokens"),
        ("attn_q.input.hessian", "attn_q.input.lemons", "blk.0.attn_q.input.lemons"),
        ("attn_q.input.tokens", "attn_k.input.tokens", "attn_q.input needs"),
        (r#""F32","shape":[1,6]"#, r#""I32","shape":[1,6]"#, "must be F32"),
        (r#""shape":[1,6]"#, r#""shape":[2,3]"#, "blk.0.attn_q.input.hessian"),
        (r#""shape":[1,3]"#, r#""shape":[3,1]"#, "blk.0.attn_q.input.tokens"),
    ] {
        let changed = tampered(|json| {
            assert!(json.contains(from), "{json}");
            json.replace(from, to)
        });
        let message = changed.err().unwrap_or_else(|| panic!("{to} is accepted")).to_string();
        assert!(message.contains(part) && message.contains("m.calib"), "{message}");
    }
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let (_folder, path) = temporary();
        write(&path, Detail::Importance);
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        // After the count comes the first input's importance.
        bytes[header + 8..header + 12].copy_from_slice(&bad.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let file = CalibrationFile::open(&path).unwrap();
        let message = file.moments(&tensor(Role::ATTN_Q, &[5, 3])).unwrap_err().to_string();
        assert!(
            message.contains("blk.0.attn_q.input.importance") && message.contains("must be finite"),
            "{message}"
        );
    }
}
