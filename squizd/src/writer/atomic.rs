//! A file that appears whole or not at all.

use crate::{Error, Result};
use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

/// A temporary file beside its target, renamed over it by [`AtomicFile::commit`]
/// and removed when dropped without.
///
/// The temporary is `TARGET.part`, held under an exclusive lock: a second
/// writer of the same target is refused, a leftover of a killed one is reused.
pub struct AtomicFile {
    file: File,
    part: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Creates or takes over the temporary file.
    ///
    /// # Errors
    /// If the target is a symbolic link or not a regular file, its folder is
    /// not writable, or another process is writing it.
    pub fn create(target: &Path) -> Result<Self> {
        check_target(target)?;
        let mut name = target.file_name().map(OsString::from).unwrap_or_default();
        name.push(".part");
        let part = target.with_file_name(name);
        if let Ok(metadata) = std::fs::symlink_metadata(&part)
            && !metadata.is_file()
        {
            return Err(Error::invalid(format!("{} is in the way and not a regular file", part.display())));
        }
        // Between opening and locking, another writer may have renamed the file
        // into place; a lock on what is no longer the temporary is worthless.
        loop {
            let file = lock(&part, target)?;
            if is_same_file(&file, &part) {
                file.set_len(0).map_err(Error::io(format!("emptying {}", part.display())))?;
                return Ok(Self { file, part, target: target.to_owned(), committed: false });
            }
        }
    }

    /// The open temporary file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Another handle to the temporary file.
    pub fn reopen(&self) -> Result<File> {
        self.file.try_clone().map_err(Error::io(format!("reopening {}", self.part.display())))
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(Error::io(format!("writing {}", self.part.display())))
    }

    /// Extends or cuts the file.
    pub fn set_len(&self, length: u64) -> Result<()> {
        self.file.set_len(length).map_err(Error::io(format!("extending {}", self.part.display())))
    }

    /// Makes the contents durable and puts them at the target.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(format!("flushing {}", self.part.display())))?;
        check_target(&self.target)?;
        std::fs::rename(&self.part, &self.target).map_err(Error::io(format!(
            "renaming {} to {}",
            self.part.display(),
            self.target.display()
        )))?;
        self.committed = true;
        let folder = folder_of(&self.target);
        File::open(folder)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io(format!("flushing folder {}", folder.display())))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing to report to: the error that led here is already on its way.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// Opens the temporary file and takes its exclusive lock.
fn lock(part: &Path, target: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(part)
        .map_err(Error::io(format!("creating {}", part.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::invalid(format!(
            "another process is writing {}: wait for it, or choose another output",
            target.display()
        ))),
        Err(TryLockError::Error(e)) => Err(Error::io(format!("locking {}", part.display()))(e)),
    }
}

/// Whether the open file is the one at `path`.
fn is_same_file(file: &File, path: &Path) -> bool {
    let id = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(at_path)) => id(open) == id(at_path),
        _ => false,
    }
}

/// The folder a path lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn check_target(target: &Path) -> Result<()> {
    if target.file_name().is_none() {
        return Err(Error::invalid(format!("output {} names no file", target.display())));
    }
    let Ok(metadata) = std::fs::symlink_metadata(target) else { return Ok(()) };
    if metadata.is_symlink() {
        return Err(Error::invalid(format!(
            "output {} is a symbolic link: name the file it should become",
            target.display()
        )));
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!("output {} exists and is not a regular file", target.display())));
    }
    Ok(())
}
