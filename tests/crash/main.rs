//! Conversions that end too early, whatever ends them: the target is as it was
//! or complete, and what stays beside it can be gone on with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod command;
mod faulty;

use faulty::{Empty, Fault, Faulty};
use rustix::io::Errno;
use squizd::{
    Error,
    convert::Interrupted::{Refuse, Resume},
    writer::unfinished,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes of an uninterrupted conversion to INT4, and the reads it took.
fn whole() -> (&'static [u8], u64) {
    static WHOLE: OnceLock<(Vec<u8>, u64)> = OnceLock::new();
    let (bytes, reads) = WHOLE.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("m.squizd");
        let source = Faulty::new(&tiny(), Fault::None, 0);
        source.convert("int4", &target, Refuse).unwrap();
        assert_eq!(files_in(folder.path()), ["m.squizd"]);
        (fs::read(target).unwrap(), source.reads())
    });
    (bytes, *reads)
}

/// A folder with the work of a conversion that failed halfway, and the target.
fn halfway() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    let (_, reads) = whole();
    let source = Faulty::new(&tiny(), Fault::Io(Errno::IO.raw_os_error()), reads / 2);
    let e = source.convert("int4", &target, Refuse).unwrap_err();
    assert!(matches!(e, Error::Io { .. }), "{e}");
    assert_eq!(files_in(folder.path()), ["m.squizd.part", "m.squizd.part.journal"]);
    assert!(unfinished(&target).unwrap().tensors >= 5);
    (folder, target)
}

/// Goes on with what lies beside `target`; how many tensors were taken over.
fn resume(target: &Path, expected: &[u8]) -> usize {
    let outcome = Faulty::new(&tiny(), Fault::None, 0).convert("int4", target, Resume).unwrap();
    assert!(fs::read(target).unwrap() == expected, "other bytes than without interruption");
    assert_eq!(files_in(target.parent().unwrap()), ["m.squizd"]);
    outcome.taken_over
}

/// Not a test: the process that [`killed_anywhere`] starts and loses.
#[test]
#[ignore = "started by killed_anywhere_and_resumed"]
fn killed_process() {
    let Ok(at) = std::env::var("SQUIZD_KILL_AT") else { return };
    let target = std::env::var("SQUIZD_KILL_TARGET").unwrap();
    let source = Faulty::new(&tiny(), Fault::Kill, at.parse().unwrap());
    source.convert("int4", Path::new(&target), Resume).unwrap();
}

#[test]
fn killed_anywhere_and_resumed_the_bytes_are_the_same() {
    let (expected, reads) = whole();
    for threads in ["1", "2"] {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("m.squizd");
        let mut most = 0;
        // Each kill strikes what the one before left.
        for at in [1, reads / 3, 2, reads / 4, 3] {
            let killed = Command::new(std::env::current_exe().unwrap())
                .args(["killed_process", "--exact", "--ignored"])
                .env("SQUIZD_KILL_AT", at.to_string())
                .env("SQUIZD_KILL_TARGET", &target)
                .env("RAYON_NUM_THREADS", threads)
                .output()
                .unwrap();
            assert_eq!(killed.status.code(), None, "{}", String::from_utf8_lossy(&killed.stdout));
            assert!(!target.exists());
            let tensors = unfinished(&target).map_or(0, |work| work.tensors);
            assert!(tensors >= most, "{tensors} after {most}");
            most = tensors;
        }
        assert!(most > 5, "{most}");
        let taken_over = resume(&target, expected);
        assert!(taken_over >= most, "{taken_over} of {most}");
    }
}

/// What it is, what it does to the work file and its journal, and whether some work survives it.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>, &mut Vec<u8>), bool);

#[test]
fn torn_and_lost_writes_are_found_and_encoded_again() {
    let (expected, _) = whole();
    let flip = |bytes: &mut Vec<u8>, at: usize| bytes[at] ^= 1;
    let damages: [Damage<'_>; 7] = [
        ("none", &|_, _| (), true),
        ("a torn tensor after the finished ones", &|part, _| part.extend(vec![0x55; 70_000]), true),
        ("the end of the payloads did not arrive", &|part, _| part.truncate(part.len() * 2 / 3), true),
        ("a byte of the first payload", &|part, _| flip(part, 16_384 + 5), false),
        ("the journal's last entry is cut", &|_, journal| journal.truncate(journal.len() - 10), true),
        ("the journal's first entry", &|_, journal| flip(journal, 200), false),
        ("the journal ends in zeros", &|_, journal| journal.extend([0; 500]), true),
    ];
    for (what, damage, some_left) in damages {
        let (_folder, target) = halfway();
        let work = unfinished(&target).unwrap();
        let (mut part, mut journal) = (fs::read(&work.part).unwrap(), fs::read(&work.journal).unwrap());
        damage(&mut part, &mut journal);
        fs::write(&work.part, part).unwrap();
        fs::write(&work.journal, journal).unwrap();
        let taken_over = resume(&target, expected);
        assert!(taken_over <= work.tensors && (taken_over > 0) == some_left, "{what}: {taken_over}");
    }
}

#[test]
fn stale_and_foreign_work_is_refused_and_left_alone() {
    let (folder, target) = halfway();
    let kept = || {
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        (read("m.squizd.part"), read("m.squizd.part.journal"))
    };
    let before = kept();
    let refused = |result: squizd::Result<squizd::convert::Outcome>, says: &str| {
        let e = result.unwrap_err();
        assert!(matches!(e, Error::Occupied(_)) && e.to_string().contains(says), "{e}");
        assert!(kept() == before, "the work was touched: {says}");
    };
    let source = Faulty::new(&tiny(), Fault::None, 0);
    refused(source.convert("int4", &target, Refuse), "go on with --resume");
    refused(source.convert("q8", &target, Resume), "was begun with other options");
    refused(
        source.convert_calibrated("int4", Some(&Empty), &target, Resume),
        "was begun with another calibration",
    );
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let other = Faulty::new(copy.path(), Fault::None, 0);
    refused(other.convert("int4", &target, Resume), "from another source, or the source was changed since");
    fs::write(folder.path().join("m.squizd.part.journal"), "of somebody else").unwrap();
    let before = kept();
    let e = source.convert("int4", &target, Resume).unwrap_err();
    assert!(matches!(e, Error::Occupied(_)) && e.to_string().contains("is in the way"), "{e}");
    assert!(kept() == before);
}

#[test]
fn errors_before_the_first_tensor_and_refusals_leave_nothing() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    fs::write(&target, "old").unwrap();
    let (_, reads) = whole();
    for (fault, at, interrupted) in [
        (Fault::Io(Errno::IO.raw_os_error()), 1, Resume),
        (Fault::Cancel, 1, Resume),
        (Fault::Cancel, reads / 2, Refuse),
    ] {
        Faulty::new(&tiny(), fault, at).convert("int4", &target, interrupted).unwrap_err();
        assert_eq!(files_in(folder.path()), ["m.squizd"]);
        assert_eq!(fs::read(&target).unwrap(), b"old");
    }
    let source = Faulty::new(&tiny(), Fault::Panic, reads / 2);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(source.convert("int4", &target, Resume));
    }));
    assert!(caught.is_err());
    assert_eq!(files_in(folder.path()), ["m.squizd"]);
    assert_eq!(fs::read(&target).unwrap(), b"old");
}

#[test]
fn interrupted_with_resume_the_work_stays() {
    let (expected, reads) = whole();
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    let source = Faulty::new(&tiny(), Fault::Cancel, reads / 2);
    assert!(matches!(source.convert("int4", &target, Resume), Err(Error::Cancelled)));
    let work = unfinished(&target).unwrap();
    assert_eq!(resume(&target, expected), work.tensors);
}

#[test]
fn a_source_that_changes_meanwhile_is_refused() {
    let (_, reads) = whole();
    for at in [1, reads / 2, reads] {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
            fs::copy(tiny().join(name), model.join(name)).unwrap();
        }
        let weights = model.join("model.safetensors");
        let source = Faulty::new(&model, Fault::Append(weights), at);
        let e = source.convert("int4", &folder.path().join("m.squizd"), Resume).unwrap_err();
        assert_eq!(e.code().map(|c| c.0), Some("source-changed"), "{e}");
        assert_eq!(files_in(folder.path()), ["model"]);
    }
}
