//! Files held for parsing: mapped and read alike, and changes are noticed.

#![cfg(feature = "mmap")]
#![allow(clippy::unwrap_used, reason = "test code")]

use squizd_spec::{ErrorKind, FileBytes, Limits, SquizdRef};
use std::{
    fs,
    path::{Path, PathBuf},
};

const TOY: &[u8] = include_bytes!("../../fixtures/golden/v1/toy-2layer.squizd");

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("squizd-spec-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, TOY).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const WAYS: [fn(&Path) -> squizd_spec::Result<FileBytes>; 2] = [FileBytes::map, FileBytes::read];

#[test]
fn mapped_and_read_are_the_files_bytes() {
    let folder = Folder::new("bytes");
    let path = folder.file("toy.squizd");
    for open in WAYS {
        let file = open(&path).unwrap();
        assert!(*file == *TOY);
        assert_eq!(file.path(), path);
        assert_eq!(SquizdRef::parse(&file, &Limits::DEFAULT).unwrap().tensor_count(), 21);
        file.recheck().unwrap();
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = Folder::new("none");
    for open in WAYS {
        for path in [folder.0.clone(), folder.0.join("absent")] {
            let e = open(&path).err().unwrap();
            assert_eq!((e.kind(), e.code().0, e.offset()), (ErrorKind::Io, "file-io", 0));
            assert!(e.message().contains(&path.display().to_string()), "{e}");
        }
    }
}

#[test]
fn changes_are_noticed() {
    let folder = Folder::new("changes");
    let code = |file: &FileBytes| file.recheck().err().map(|e| (e.kind(), e.code().0));
    let changed = Some((ErrorKind::Io, "file-changed"));
    let path = folder.file("toy.squizd");
    let file = FileBytes::read(&path).unwrap();
    assert_eq!(code(&file), None);
    // Another file in its place, of the same bytes; the open one is as it was.
    fs::rename(folder.file("other"), &path).unwrap();
    assert_eq!(code(&file), changed);
    let file = FileBytes::read(&path).unwrap();
    fs::write(&path, &TOY[1..]).unwrap();
    assert_eq!(code(&file), changed);
    let file = FileBytes::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(code(&file), Some((ErrorKind::Io, "file-io")));
}
