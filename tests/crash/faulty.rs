//! A source that fails when told to, and a conversion of it.

use squizd::{
    Error, Result,
    calibration::Calibration,
    codec::InputMoments,
    convert::{Interrupted, Outcome, Progress, convert},
    model::ModelConfig,
    plan::{Plan, Recipe},
    source::{SourceProvenance, TensorInfo, TensorSource},
};
use squizd_tools::source::{self, MappingOptions, model_source::ModelSource};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// What happens at a read.
pub(crate) enum Fault {
    /// Nothing; reads are counted.
    None,
    /// SIGKILL to this process.
    Kill,
    /// A panic, as in an encoder.
    Panic,
    /// An error of the operating system.
    Io(i32),
    /// Somebody asks to stop.
    Cancel,
    /// Somebody appends to this file.
    Append(PathBuf),
}

/// A source whose read number `at` (from 1) brings about `fault`.
pub(crate) struct Faulty {
    inner: ModelSource,
    fault: Fault,
    at: u64,
    reads: AtomicU64,
    cancelled: AtomicBool,
}

impl Faulty {
    pub(crate) fn new(model: &Path, fault: Fault, at: u64) -> Self {
        let inner = source::open(model, MappingOptions::default()).unwrap();
        Self { inner, fault, at, reads: AtomicU64::new(0), cancelled: AtomicBool::new(false) }
    }

    /// Reads so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn read(&self) -> Result<()> {
        if self.reads.fetch_add(1, Ordering::Relaxed) + 1 != self.at {
            return Ok(());
        }
        match &self.fault {
            Fault::None => Ok(()),
            Fault::Kill => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                    .unwrap();
                Ok(())
            }
            Fault::Panic => panic!("a planted panic"),
            Fault::Io(number) => {
                Err(Error::io("reading weights")(std::io::Error::from_raw_os_error(*number)))
            }
            Fault::Cancel => {
                self.cancelled.store(true, Ordering::Relaxed);
                Err(Error::Cancelled)
            }
            Fault::Append(path) => {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(b" ").unwrap();
                Ok(())
            }
        }
    }

    /// Converts to `target` with `codec`.
    pub(crate) fn convert(&self, codec: &str, target: &Path, interrupted: Interrupted) -> Result<Outcome> {
        self.convert_calibrated(codec, None, target, interrupted)
    }

    /// The same with a calibration.
    pub(crate) fn convert_calibrated(
        &self,
        codec: &str,
        calibration: Option<&dyn Calibration>,
        target: &Path,
        interrupted: Interrupted,
    ) -> Result<Outcome> {
        let recipe = Recipe::new(codec.parse()?);
        let plan = Plan::choose(self, &recipe)?;
        convert(self, &plan, &recipe, calibration, target, interrupted, self)
    }
}

impl Progress for Faulty {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl TensorSource for Faulty {
    fn model(&self) -> &ModelConfig {
        self.inner.model()
    }
    fn tensors(&self) -> &[TensorInfo] {
        self.inner.tensors()
    }
    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.read()?;
        self.inner.read_f32(index, rows, out)
    }
    fn read_native(&self, index: usize, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        self.read()?;
        self.inner.read_native(index, rows)
    }
    fn tokenizer_files(&self) -> &BTreeMap<String, Vec<u8>> {
        self.inner.tokenizer_files()
    }
    fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template()
    }
    fn source_files(&self) -> &BTreeMap<String, String> {
        self.inner.source_files()
    }
    fn provenance(&self) -> &SourceProvenance {
        self.inner.provenance()
    }
    fn stamp(&self) -> Result<Vec<u8>> {
        self.inner.stamp()
    }
    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        self.inner.hash_files(stop)
    }
}

/// A calibration that knows no tensor.
pub(crate) struct Empty;

impl Calibration for Empty {
    fn moments(&self, _: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        Ok(None)
    }
    fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        Ok([7; 32])
    }
}
