//! The work of an interrupted conversion: to be gone on with, or in the way.

use super::{
    atomic::{AtomicFile, part_of},
    journal::{Done, Fingerprint, Found, Journal},
};
use crate::{Error, Result};
use squizd_spec::layout::TensorRecord;
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How to deal with an interrupted run's work.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// What the conversion's bytes depend on.
    pub fingerprint: &'a Fingerprint,
    /// Go on with work that is there, rather than refuse to overwrite it.
    pub resume: bool,
    /// Asked often while the work is read again, whether to give up.
    pub stop: &'a dyn Fn() -> bool,
}

/// An interrupted conversion's work beside its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The temporary file.
    pub part: PathBuf,
    /// The journal.
    pub journal: PathBuf,
    /// Disk space that the temporary file takes.
    pub bytes: u64,
    /// Tensors noted as finished.
    pub tensors: usize,
}

/// What an interrupted conversion to `target` has left that can be gone on with.
pub fn unfinished(target: &Path) -> Option<Unfinished> {
    let part = part_of(target);
    let metadata = std::fs::symlink_metadata(&part).ok().filter(|m| m.is_file() && m.len() > 0)?;
    let journal = Journal::path_of(&part);
    let tensors = Found::read(&journal)?.tensors();
    (tensors > 0).then(|| Unfinished { part, journal, bytes: metadata.blocks() * 512, tensors })
}

/// A temporary file made ready.
pub(super) struct Begun {
    pub(super) file: AtomicFile,
    pub(super) journal: Option<Journal>,
    pub(super) done: Vec<Done>,
}

/// Opens the temporary file of `target`: empty, or with the payloads of an
/// interrupted run.
pub(super) fn begin(
    target: &Path,
    records: &[TensorRecord],
    payload_at: u64,
    work: Option<Work<'_>>,
) -> Result<Begun> {
    let Some(work) = work else {
        return Ok(Begun { file: AtomicFile::create(target)?, journal: None, done: Vec::new() });
    };
    let mut file = AtomicFile::open(target)?;
    let path = Journal::path_of(file.part());
    let length = file.file().metadata().map_err(Error::io("reading the size of the work so far"))?.len();
    let found = if length == 0 { None } else { Some(leftover(file.part(), &path)?) };
    // Where no tensor is finished there is nothing to go on with, or to lose.
    let Some(found) = found.filter(|f| f.tensors() > 0) else {
        file.claim(0)?;
        file.accompany(&path);
        let journal = Journal::create(&path, work.fingerprint)?;
        return Ok(Begun { file, journal: Some(journal), done: Vec::new() });
    };
    let (part, tensors) = (file.part().display(), found.tensors());
    let remove = format!("or begin again by removing {part} and {}", path.display());
    if !work.resume {
        return Err(Error::occupied(format!(
            "{part} holds {tensors} of {} tensors of an interrupted conversion: go on with --resume, {remove}",
            records.len()
        )));
    }
    if let Some(what) = found.differs(work.fingerprint) {
        return Err(Error::occupied(format!(
            "{part} was begun {what}, so this conversion cannot go on with it: repeat that one, {remove}"
        )));
    }
    let done = found.intact(file.file(), records, payload_at, work.stop)?;
    let end = done.last().map_or(0, |d| d.record.payload_offset.get() + d.record.payload_length.get());
    // What follows was being written when the run ended, and reads as zeros from here on.
    let journal = Journal::go_on(&path, &found, done.len())?;
    file.claim(if done.is_empty() { 0 } else { payload_at + end })?;
    file.accompany(&path);
    Ok(Begun { file, journal: Some(journal), done })
}

/// The journal beside a temporary file that is not empty.
fn leftover(part: &Path, journal: &Path) -> Result<Found> {
    Found::read(journal).ok_or_else(|| {
        Error::occupied(format!(
            "{} is in the way: no journal tells what is finished in it, so that it may be no work of squizd; remove or \
             rename it",
            part.display()
        ))
    })
}
