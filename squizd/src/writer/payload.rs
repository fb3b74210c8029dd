//! Positional payload writes, and digests computed behind the encoder's back.

use crate::{Error, Result, codec::PayloadSink};
use sha2::{Digest, Sha256};
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

/// Hashes finished payloads on a thread of its own, reading them back from the
/// page cache while the next tensor is encoded.
pub(super) struct Hasher {
    jobs: Sender<(u64, u64)>,
    worker: JoinHandle<Result<Vec<[u8; 32]>>>,
}

impl Hasher {
    pub(super) fn new(file: File) -> Self {
        let (jobs, queue) = channel();
        Self { jobs, worker: std::thread::spawn(move || hash_all(&file, &queue)) }
    }

    /// Queues the payload at absolute `offset`.
    pub(super) fn push(&self, offset: u64, length: u64) {
        // A send fails only if the worker has stopped on an error, which
        // `finish` reports.
        let _ = self.jobs.send((offset, length));
    }

    /// Waits for all digests, in the order they were queued.
    pub(super) fn finish(self) -> Result<Vec<[u8; 32]>> {
        drop(self.jobs);
        self.worker.join().map_err(|_| Error::invalid("the hashing thread stopped unexpectedly"))?
    }
}

fn hash_all(file: &File, queue: &Receiver<(u64, u64)>) -> Result<Vec<[u8; 32]>> {
    let mut buffer = vec![0; 1 << 20];
    let mut digests = Vec::new();
    for (offset, length) in queue {
        let mut hasher = Sha256::new();
        let mut done = 0;
        while done < length {
            let step = (length - done).min(buffer.len() as u64) as usize;
            let chunk = buffer.get_mut(..step).unwrap_or_default();
            file.read_exact_at(chunk, offset + done).map_err(Error::io("reading a payload back"))?;
            hasher.update(&*chunk);
            done += step as u64;
        }
        digests.push(hasher.finalize().into());
    }
    Ok(digests)
}
