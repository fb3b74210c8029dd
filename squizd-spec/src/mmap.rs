//! A file held for parsing: mapped read-only, or read into memory.
//!
//! The crate's only unsafe code. A mapping of a file that another process
//! truncates while it is read raises SIGBUS; [`FileBytes::read`] does not, at
//! the price of a copy.
#![allow(unsafe_code, reason = "memory-mapping is unsafe; the one block below carries its proof")]

use crate::{ErrorKind, Result, SquizdError};
use alloc::{format, vec::Vec};
use core::ops::Deref;
use std::{
    fs::{File, Metadata},
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

enum Bytes {
    Mapped(memmap2::Mmap),
    Heap(Vec<u8>),
}

/// The bytes of one regular file.
pub struct FileBytes {
    bytes: Bytes,
    file: File,
    path: PathBuf,
    identity: Identity,
}

/// What must not change while the bytes are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    /// Device and inode, where there are such.
    place: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let place = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let place = (0, 0);
        Self { place, length: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl FileBytes {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the path is not a readable regular file.
    pub fn map(path: &Path) -> Result<Self> {
        Self::open(path, |file, _| {
            // SAFETY: the mapping is read-only and its length is the file's at
            // this moment. Rust's aliasing rules would be broken
            // by a process that writes the file meanwhile; that cannot be
            // excluded by any program, is stated in the documentation, and can
            // be detected with `recheck` or avoided with `read`.
            unsafe { memmap2::Mmap::map(file) }.map(Bytes::Mapped)
        })
    }

    /// Reads `path` into memory: immune to changes of the file.
    ///
    /// # Errors
    /// As [`FileBytes::map`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::open(path, |file, length| {
            let mut heap = Vec::new();
            let want = usize::try_from(length).unwrap_or(usize::MAX);
            heap.try_reserve_exact(want).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
            // A file that grows meanwhile is seen as it was opened.
            file.take(length).read_to_end(&mut heap)?;
            Ok(Bytes::Heap(heap))
        })
    }

    fn open(path: &Path, load: impl FnOnce(&File, u64) -> std::io::Result<Bytes>) -> Result<Self> {
        // Opening a FIFO would block, so the kind is checked before as well as after.
        let regular = |m: &Metadata| {
            if m.is_file() { Ok(()) } else { Err(std::io::Error::other("not a regular file")) }
        };
        let opened = std::fs::metadata(path)
            .and_then(|m| regular(&m))
            .and_then(|()| File::open(path))
            .and_then(|file| file.metadata().and_then(|m| regular(&m).map(|()| (file, m))))
            .and_then(|(file, m)| load(&file, m.len()).map(|bytes| (file, m, bytes)));
        match opened {
            Ok((file, metadata, bytes)) => {
                Ok(Self { bytes, file, path: path.to_owned(), identity: Identity::of(&metadata) })
            }
            Err(e) => Err(io_error(path, &e)),
        }
    }

    /// Confirms that the file behind the bytes is still as it was opened, and
    /// still the one at its path.
    ///
    /// # Errors
    /// `file-changed` if device, inode, length or modification time differ;
    /// `file-io` if the path leads nowhere any more.
    pub fn recheck(&self) -> Result<()> {
        let fails = |e| io_error(&self.path, &e);
        let open = Identity::of(&self.file.metadata().map_err(fails)?);
        let at_path = Identity::of(&std::fs::metadata(&self.path).map_err(fails)?);
        let Some(now) = [open, at_path].into_iter().find(|now| *now != self.identity) else {
            return Ok(());
        };
        Err(SquizdError::new(
            ErrorKind::Io,
            "file-changed",
            0,
            format!(
                "{} changed while it was in use: was {:?}, is {now:?}",
                self.path.display(),
                self.identity
            ),
        ))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cold]
fn io_error(path: &Path, error: &std::io::Error) -> SquizdError {
    SquizdError::new(ErrorKind::Io, "file-io", 0, format!("cannot read {}: {error}", path.display()))
}

impl Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Heap(heap) => heap,
        }
    }
}
