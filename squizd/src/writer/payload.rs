//! Positional payload writes, and digests computed behind the encoder's back.

use super::journal::Journal;
use crate::{
    Error, Result,
    codec::{EncodeStats, PayloadSink},
};
use sha2::{Digest, Sha256};
use squizd_spec::layout::TensorRecord;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

/// A window of the file that begins at a tensor's payload.
pub(super) struct FileSink<'a> {
    file: &'a File,
    base: u64,
}

impl<'a> FileSink<'a> {
    pub(super) fn new(file: &'a File, base: u64) -> Self {
        Self { file, base }
    }
}

impl PayloadSink for FileSink<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.base + offset).map_err(Error::io("writing the payload"))
    }
}

/// A payload that is written.
pub(super) struct Written {
    /// Its record, but for the digest.
    pub(super) record: TensorRecord,
    /// Absolute offset.
    pub(super) at: u64,
    /// Energy and error, for the journal.
    pub(super) stats: EncodeStats,
}

type Digests = Vec<[u8; 32]>;

/// Hashes finished payloads on a thread of its own, reading them back from the
/// page cache while the next tensor is encoded, and notes them in the journal.
pub(super) struct Hasher {
    /// Present until the worker is waited for.
    running: Option<(Sender<Written>, JoinHandle<Result<Digests>>)>,
}

impl Hasher {
    /// `digests` are those of the tensors before the first that will be pushed.
    pub(super) fn new(file: File, journal: Option<Journal>, digests: Digests) -> Self {
        let (jobs, queue) = channel();
        let worker = std::thread::spawn(move || hash_all(&file, journal, digests, &queue));
        Self { running: Some((jobs, worker)) }
    }

    /// Queues a payload.
    ///
    /// # Errors
    /// Those of the thread, if it has stopped on one.
    pub(super) fn push(&mut self, written: Written) -> Result<()> {
        let sent = self.running.as_ref().is_some_and(|(jobs, _)| jobs.send(written).is_ok());
        if sent { Ok(()) } else { self.finish().map(drop) }
    }

    /// Waits for all digests, in the order of the tensors.
    pub(super) fn finish(&mut self) -> Result<Digests> {
        let stopped = || Error::invalid("the hashing thread stopped unexpectedly");
        let (jobs, worker) = self.running.take().ok_or_else(stopped)?;
        drop(jobs);
        worker.join().map_err(|_| stopped())?
    }
}

fn hash_all(
    file: &File,
    mut journal: Option<Journal>,
    mut digests: Digests,
    queue: &Receiver<Written>,
) -> Result<Digests> {
    let mut buffer = vec![0; 1 << 20];
    for Written { mut record, at, stats } in queue {
        record.sha256 = digest_of(file, at, record.payload_length.get(), &mut buffer, &|| false)?;
        if let Some(journal) = &mut journal {
            journal.append(&record, stats)?;
        }
        digests.push(record.sha256);
    }
    Ok(digests)
}

/// SHA-256 of `length` bytes at `at`, read through `buffer`. `stop` is asked
/// before every bufferful.
///
/// # Errors
/// If reading fails, or `stop` said so.
pub(super) fn digest_of(
    file: &File,
    at: u64,
    length: u64,
    buffer: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut done = 0;
    while done < length {
        if stop() {
            return Err(Error::Cancelled);
        }
        let step = (length - done).min(buffer.len() as u64) as usize;
        let chunk = buffer.get_mut(..step).unwrap_or_default();
        file.read_exact_at(chunk, at + done).map_err(Error::io("reading a payload back"))?;
        hasher.update(&*chunk);
        done += step as u64;
    }
    Ok(hasher.finalize().into())
}
