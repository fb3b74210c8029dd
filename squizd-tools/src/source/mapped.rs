//! One weight file, memory-mapped read-only. The only `unsafe` of the sources.
//!
//! Mapping a file that someone else may write is a promise this process
//! cannot keep alone: contents changed under the mapping give wrong weights,
//! and truncation raises SIGBUS. So every access first compares size, times
//! and identity with those seen at opening ([`MappedFile::slice`]); a change
//! in the instant after that check remains possible and is the user's to avoid.
#![allow(unsafe_code, reason = "mmap and madvise, each block with its proof")]

use memmap2::{Mmap, MmapOptions, UncheckedAdvice};
use sha2::{Digest, Sha256};
use squizd::{Error, Result};
use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A page fault maps more than its page: an aligned window of 64 KiB, or the
/// page cache's whole folio of up to 2 MiB. Ranges are dropped together with
/// what faults in them mapped around them; dropping just the range was measured
/// to leave a third of the file resident.
const FAULT_WINDOW: usize = 1 << 21;

/// What must not change while a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(m: &Metadata) -> Self {
        Self { device: m.dev(), inode: m.ino(), bytes: m.size(), modified: (m.mtime(), m.mtime_nsec()) }
    }
}

/// A regular file mapped into memory.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    identity: Identity,
}

impl MappedFile {
    /// Opens and maps `path` (symlinks are followed: the Hugging Face cache
    /// consists of them).
    ///
    /// # Errors
    /// Anything but a regular, non-empty file is refused before a byte is read;
    /// FIFOs never block the open.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let seen = std::fs::metadata(path).map_err(Error::io(format!("opening {shown}")))?;
        refuse_special(path, seen.file_type())?;
        let file = OpenOptions::new()
            .read(true)
            // A FIFO swapped in between the two calls must not block either.
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(Error::io(format!("opening {shown}")))?;
        let opened = file.metadata().map_err(Error::io(format!("reading the size of {shown}")))?;
        refuse_special(path, opened.file_type())?;
        if opened.len() == 0 {
            return Err(Error::refused(
                "source-empty",
                format!("{shown} is empty: was its download interrupted?"),
            ));
        }
        let length = usize::try_from(opened.len()).map_err(|_| {
            Error::unsupported(format!("{shown} has {} bytes, more than this platform can map", opened.len()))
        })?;
        // SAFETY: the mapping is read-only and shared, of a regular file held
        // open by `self.file` for at least as long. That nobody else writes or
        // truncates it meanwhile cannot be enforced; `slice` detects it as far
        // as possible and the module documentation states the rest.
        let map = unsafe { MmapOptions::new().len(length).map(&file) }
            .map_err(Error::io(format!("mapping {shown}")))?;
        Ok(Self { path: path.to_owned(), file, map, identity: Identity::of(&opened) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File name without directories.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.identity.bytes
    }

    /// Name and state of the file now, one line.
    ///
    /// # Errors
    /// If the file was changed since it was opened.
    pub fn stamp(&self) -> Result<String> {
        self.recheck()?;
        let Identity { inode, bytes, modified: (seconds, nanoseconds), .. } = self.identity;
        Ok(format!("{:?} {bytes} {seconds}.{nanoseconds:09} {inode}\n", self.name()))
    }

    /// Compares the file with how it was opened.
    fn recheck(&self) -> Result<()> {
        let shown = self.path.display();
        let now = self.file.metadata().map_err(Error::io(format!("checking {shown}")))?;
        if Identity::of(&now) == self.identity {
            return Ok(());
        }
        Err(Error::refused(
            "source-changed",
            format!("{shown} was changed while it was being read: convert again once nothing writes to it"),
        ))
    }

    /// SHA-256 of the file, read past the mapping so that no page of it
    /// becomes resident. `stop` is asked before every mebibyte.
    ///
    /// # Errors
    /// If reading fails, the file was cut short, or `stop` said so.
    pub fn sha256(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        let mut buffer = vec![0; 1 << 20];
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < self.identity.bytes {
            if stop() {
                return Err(Error::Cancelled);
            }
            let step = (self.identity.bytes - at).min(buffer.len() as u64);
            let chunk = buffer.get_mut(..step as usize).unwrap_or_default();
            let context = || format!("hashing {}", self.path.display());
            self.file.read_exact_at(chunk, at).map_err(Error::io(context()))?;
            hasher.update(&*chunk);
            at += step;
        }
        Ok(hasher.finalize().into())
    }

    /// The whole file.
    pub fn contents(&self) -> Result<&[u8]> {
        self.slice(0..self.identity.bytes)
    }

    /// Bytes `range` of the file.
    ///
    /// # Errors
    /// The range leaves the file, or the file was changed since it was opened.
    pub fn slice(&self, range: Range<u64>) -> Result<&[u8]> {
        self.recheck()?;
        usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| self.map.get(start..end))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{}: bytes {}..{} lie outside the file's {}",
                    self.path.display(),
                    range.start,
                    range.end,
                    self.identity.bytes
                ))
            })
    }

    /// Drops the resident pages in and just around `range`. They are read again
    /// from the file when next used, so this only costs time when wrong.
    pub fn release(&self, range: Range<u64>) {
        let length = self.map.len();
        let start = usize::try_from(range.start).unwrap_or(length).min(length);
        let end = usize::try_from(range.end).unwrap_or(length).min(length);
        if start < end {
            let start = start - start % FAULT_WINDOW;
            let end = end.checked_next_multiple_of(FAULT_WINDOW).unwrap_or(length).min(length);
            // SAFETY: the range is in bounds, and the mapping is MAP_SHARED,
            // read-only and backed by a file: after MADV_DONTNEED an access
            // faults the same bytes in again, so slices that are still
            // borrowed read unchanged contents.
            let advised =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            // Advice that the kernel declines changes memory use, not results.
            drop(advised);
        }
    }
}

fn refuse_special(path: &Path, kind: FileType) -> Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "not a regular file"
    };
    Err(Error::refused(
        "source-kind",
        format!("{} is {what}; a weight file must be a regular file", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn refusal(path: &Path) -> String {
        MappedFile::open(path).unwrap_err().to_string()
    }

    #[test]
    fn special_files_are_refused_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("pipe.gguf");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(refusal(&fifo).contains("pipe.gguf is a FIFO"));
        assert!(refusal(Path::new("/dev/random")).contains("is a character device"));
        assert!(refusal(dir.path()).contains("is a directory"));
        let empty = dir.path().join("empty.gguf");
        File::create(&empty).unwrap();
        assert!(refusal(&empty).contains("empty.gguf is empty"));
        assert!(refusal(&dir.path().join("absent")).contains("absent: No such file"));
    }

    #[test]
    fn slices_are_checked_and_survive_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.bin");
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let held = file.slice(4000..9000).unwrap();
        file.release(0..20_000);
        file.release(5..u64::MAX);
        assert_eq!(held, &bytes[4000..9000]);
        assert_eq!(file.contents().unwrap(), bytes);
        let outside = file.slice(19_999..20_001).unwrap_err().to_string();
        assert!(outside.ends_with("bytes 19999..20001 lie outside the file's 20000"), "{outside}");
        assert_eq!((file.name().as_str(), file.bytes()), ("w.bin", 20_000));
    }

    /// Resident KiB of the mapping of `path` in this process.
    #[cfg(target_os = "linux")]
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|l| !l.ends_with(path.to_str().unwrap()));
        let rss = lines.find_map(|l| l.strip_prefix("Rss:")).unwrap();
        rss.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_ranges_of_any_size_leave_nothing_resident() {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(8 << 20).unwrap();
        let mapped = MappedFile::open(f.path()).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!(sum(mapped.contents().unwrap()), 0);
        assert_eq!(resident(f.path()), 8 << 10);
        mapped.release(0..mapped.bytes());
        for start in (0..mapped.bytes()).step_by(41_000) {
            let end = (start + 41_000).min(mapped.bytes());
            assert_eq!(sum(mapped.slice(start..end).unwrap()), 0);
            assert!(resident(f.path()) > 0);
            mapped.release(start..end);
        }
        assert_eq!(resident(f.path()), 0);
    }

    #[test]
    fn a_file_truncated_after_opening_is_an_error_not_a_fault() {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(&[7; 9000]).unwrap();
        let mapped = MappedFile::open(f.path()).unwrap();
        f.as_file().set_len(10).unwrap();
        assert!(mapped.slice(8000..8001).unwrap_err().to_string().contains("was changed while"));
    }
}
