//! A file that appears whole or not at all.

use crate::{Error, Result};
use rustix::fs::OFlags;
use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
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
    /// Removed with the temporary, whichever way it goes.
    companion: Option<PathBuf>,
    /// Whether dropping removes the temporary.
    disposable: bool,
}

/// The temporary file of `target`.
pub(super) fn part_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().map(OsString::from).unwrap_or_default();
    name.push(".part");
    target.with_file_name(name)
}

impl AtomicFile {
    /// Creates or takes over the temporary file, empty.
    ///
    /// # Errors
    /// If the target is a symbolic link or not a regular file, its folder is
    /// not writable, or another process is writing it.
    pub fn create(target: &Path) -> Result<Self> {
        let mut file = Self::open(target)?;
        file.claim(0)?;
        Ok(file)
    }

    /// Opens and locks the temporary file with what it holds. Until it is
    /// claimed, dropping leaves it alone.
    pub(super) fn open(target: &Path) -> Result<Self> {
        check_target(target)?;
        let part = part_of(target);
        if let Ok(metadata) = std::fs::symlink_metadata(&part)
            && !metadata.is_file()
        {
            return Err(Error::occupied(format!("{} is in the way and not a regular file", part.display())));
        }
        // Between opening and locking, another writer may have renamed the file
        // into place; a lock on what is no longer the temporary is worthless.
        loop {
            let file = lock(&part, target)?;
            if is_same_file(&file, &part) {
                return Ok(Self {
                    file,
                    part,
                    target: target.to_owned(),
                    companion: None,
                    disposable: false,
                });
            }
        }
    }

    /// Keeps the first `length` bytes; from now on dropping removes the file.
    pub(super) fn claim(&mut self, length: u64) -> Result<()> {
        self.set_len(length)?;
        self.disposable = true;
        Ok(())
    }

    /// Leaves the temporary for another run, if a companion says what is in it.
    pub(super) fn keep(&mut self) {
        self.disposable = self.companion.is_none();
    }

    /// Ties another file's life to the temporary's.
    pub(super) fn accompany(&mut self, path: &Path) {
        self.companion = Some(path.to_owned());
    }

    /// The temporary's path.
    pub(super) fn part(&self) -> &Path {
        &self.part
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
        self.put_in_place()
    }

    /// As [`AtomicFile::commit`], for who has to deal with a failure.
    pub(super) fn put_in_place(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(format!("flushing {}", self.part.display())))?;
        check_target(&self.target)?;
        std::fs::rename(&self.part, &self.target).map_err(Error::io(format!(
            "renaming {} to {}",
            self.part.display(),
            self.target.display()
        )))?;
        self.disposable = false;
        self.remove_companion();
        let folder = folder_of(&self.target);
        File::open(folder)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io(format!("flushing folder {}", folder.display())))
    }

    /// A companion that stays behind is overwritten by the next run.
    fn remove_companion(&self) {
        if let Some(path) = &self.companion {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.disposable {
            // Nothing to report to: the error that led here is already on its way.
            let _ = std::fs::remove_file(&self.part);
            self.remove_companion();
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
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(part)
        .map_err(Error::io(format!("creating {}", part.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::occupied(format!(
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
