//! A planned conversion, from source to file.

mod curves;
mod fingerprint;

use crate::{
    Error, Result,
    calibration::{Calibration, Shared},
    codec::{EncodeStats, Guide, InputMoments, Request, Rows, codec},
    metadata::{FormatInfo, Metadata, Provenance},
    plan::{Plan, PlannedTensor, Reason, Recipe},
    source::{TensorInfo, TensorSource},
    writer::{Finished, HeaderInfo, Section, Work, Writer},
};
use squizd_spec::{
    CodecId, DType, Hex, Matrix, SectionKind,
    appendix::Bundle,
    layout::{HEADER_SIZE, PAGE, SectionEntry, TensorRecord},
};
use std::{
    borrow::Cow,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

pub use curves::{TensorCurve, WHOLE, rd_curves, together};

/// Told how a conversion goes on; all methods may be called from any thread.
pub trait Progress: Sync {
    /// A tensor begins.
    fn tensor(&self, info: &TensorInfo, planned: &PlannedTensor) {
        let _ = (info, planned);
    }
    /// `weights` more weights have been encoded.
    fn advance(&self, weights: u64) {
        let _ = weights;
    }
    /// Whether to stop; asked often.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// No progress wanted.
#[derive(Clone, Copy, Debug)]
pub struct Silent;
impl Progress for Silent {}

/// What became of one tensor.
#[derive(Clone, Debug)]
pub struct TensorOutcome {
    /// Stored name.
    pub name: String,
    /// Codec.
    pub codec: CodecId,
    /// Weights.
    pub weights: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Energy and error.
    pub stats: EncodeStats,
}

/// What became of a conversion.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Tensors in file order.
    pub tensors: Vec<TensorOutcome>,
    /// How many of them, from the first, an interrupted conversion had finished.
    pub taken_over: usize,
    /// The file.
    pub file: Finished,
}

/// What to do with the work of an interrupted conversion to the same target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// Refuse to overwrite it; leave none when interrupted.
    Refuse,
    /// Go on with it, if it is of the same source, recipe, calibration and
    /// version of this crate; leave work when interrupted.
    Resume,
}

/// Converts `source` into `target` as planned. Encoders get what `calibration`
/// knows of each tensor's inputs; at most one tensor's moments are in memory.
///
/// The bytes are the same whether the work was interrupted or not.
///
/// # Errors
/// Nothing is left at or beside the target but what was there before, except
/// that after [`Error::Io`], and after [`Error::Cancelled`] with
/// [`Interrupted::Resume`], the finished tensors stay in a temporary file
/// ([`crate::writer::unfinished`]).
pub fn convert(
    source: &dyn TensorSource,
    plan: &Plan,
    recipe: &Recipe,
    calibration: Option<&dyn Calibration>,
    target: &Path,
    interrupted: Interrupted,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let failed = AtomicBool::new(false);
    let stop = || progress.is_cancelled() || failed.load(Ordering::Relaxed);
    let resume = interrupted == Interrupted::Resume;
    let before = source.stamp()?;
    let calibrated = calibration.map(|c| c.sha256(&stop)).transpose()?;
    let fingerprint = fingerprint::of(source, &before, plan, recipe, calibrated.as_ref())?;
    let mut later: Vec<_> = tokenizer(source)?.into_iter().collect();
    let kinds: Vec<_> = later.iter().map(|s| s.kind).chain([SectionKind::METADATA]).collect();
    let mut header = HeaderInfo::of(source.model());
    header.calibration_hash = calibrated.as_ref().map_or(0, first_bytes);
    let work = Work { fingerprint: &fingerprint, resume, stop: &stop };
    let mut writer = Writer::journaled(target, header, source.tensors(), &kinds, Some(work))?;
    let taken_over = writer.written();
    let encoded = std::thread::scope(|scope| {
        let hashing = scope.spawn(|| source.hash_files(&stop));
        let shared = calibration.map(|c| Shared::new(c, source.model().tie_embeddings));
        let tensors = encode_all(source, plan, shared.as_ref(), &mut writer, progress);
        failed.store(tensors.is_err(), Ordering::Relaxed);
        let hashed =
            hashing.join().unwrap_or_else(|_| Err(Error::invalid("hashing the source stopped unexpectedly")));
        let (tensors, files) = tensors.and_then(|tensors| Ok((tensors, hashed?)))?;
        // Digests and weights are of the same bytes only if nobody wrote them meanwhile.
        if source.stamp()? != before {
            return Err(Error::refused("source-changed", "the source was changed while it was being read"));
        }
        Ok((tensors, Digests { files, calibration: calibrated }))
    });
    let (tensors, digests) = match encoded {
        Ok(done) => done,
        Err(e) => {
            writer.abandon(matches!(e, Error::Io { .. }) || (resume && matches!(e, Error::Cancelled)));
            return Err(e);
        }
    };
    let metadata = metadata(source, recipe, &digests).to_bytes()?;
    later.push(Section::plain(SectionKind::METADATA, metadata));
    Ok(Outcome { tensors, taken_over, file: writer.finish(&later)? })
}

/// A digest's first eight bytes.
fn first_bytes(sha256: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *sha256;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The tokenizer section, where the model has a tokenizer.
fn tokenizer(source: &dyn TensorSource) -> Result<Option<Section>> {
    if source.tokenizer_files().is_empty() {
        return Ok(None);
    }
    let files = source.tokenizer_files().iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    Section::zstd(SectionKind::TOKENIZER, &Bundle::write(files)?).map(Some)
}

/// Bytes of the file beside its payloads, at most: header, tables, tokenizer,
/// metadata, and the padding around them.
///
/// # Errors
/// If the tokenizer cannot be compressed or the metadata not be written.
pub fn overhead(source: &dyn TensorSource, recipe: &Recipe) -> Result<u64> {
    let names: u64 = source.tensors().iter().map(|t| t.name.len() as u64).sum();
    let records = source.tensors().len() as u64 * size_of::<TensorRecord>() as u64;
    let directory = 8 * size_of::<SectionEntry>() as u64;
    let digests =
        Digests { files: vec![[0; 32]; source.provenance().files.len()], calibration: Some([0; 32]) };
    let texts = metadata(source, recipe, &digests).to_bytes()?.len() as u64;
    let tokenizer = tokenizer(source)?.map_or(0, |s| s.stored.len() as u64);
    // One page in front of the payload, one behind it, one for the alignment of
    // the other sections.
    Ok(HEADER_SIZE + directory + names + records + texts + tokenizer + 3 * PAGE)
}

/// SHA-256 of what a conversion reads.
struct Digests {
    files: Vec<[u8; 32]>,
    calibration: Option<[u8; 32]>,
}

fn encode_all(
    source: &dyn TensorSource,
    plan: &Plan,
    calibration: Option<&Shared<'_>>,
    writer: &mut Writer,
    progress: &dyn Progress,
) -> Result<Vec<TensorOutcome>> {
    let info = |planned: &PlannedTensor| {
        let info = source.tensors().get(planned.index);
        info.ok_or_else(|| Error::invalid("the plan does not belong to this source"))
    };
    let mut tensors = Vec::with_capacity(plan.tensors.len());
    for (planned, (codec, bytes, stats)) in plan.tensors.iter().zip(writer.taken_over()) {
        let info = info(planned)?;
        progress.advance(info.elements());
        tensors.push(TensorOutcome {
            name: info.name.clone(),
            codec,
            weights: info.elements(),
            bytes,
            stats,
        });
    }
    for planned in plan.tensors.iter().skip(tensors.len()) {
        let info = info(planned)?;
        progress.tensor(info, planned);
        tensors.push(encode(source, info, planned, calibration, writer, progress)?);
    }
    Ok(tensors)
}

fn encode(
    source: &dyn TensorSource,
    info: &TensorInfo,
    planned: &PlannedTensor,
    calibration: Option<&Shared<'_>>,
    writer: &mut Writer,
    progress: &dyn Progress,
) -> Result<TensorOutcome> {
    let rows = SourceRows { source, info, index: planned.index, progress };
    let codec = codec(planned.codec)
        .ok_or_else(|| Error::unsupported(format!("this build has no codec {}", planned.codec)))?;
    // What is stored exactly has no error to weigh.
    let calibration = calibration.filter(|_| codec.takes_guide() && planned.reason != Reason::Imported);
    let moments = calibration.map(|c| c.moments(info)).transpose()?.flatten();
    let parts: Vec<&InputMoments> = moments.iter().flat_map(|m| m.iter()).collect();
    let guide = guide(info, &parts)?;
    let request = Request { options: planned.options, guide };
    let params = codec.plan(&rows, &request)?;
    let mut bytes = 0;
    let stats = writer.tensor(planned.codec, &params, |sink| {
        let (length, stats) = codec.encode(&rows, &params, &request, sink)?;
        bytes = length;
        Ok((length, stats))
    })?;
    Ok(TensorOutcome {
        name: info.name.clone(),
        codec: planned.codec,
        weights: info.elements(),
        bytes,
        stats,
    })
}

/// What calibration says of the rows of `info`.
fn guide<'a>(info: &TensorInfo, parts: &'a [&'a InputMoments]) -> Result<Guide<'a>> {
    if parts.is_empty() {
        return Ok(Guide::NONE);
    }
    Guide::new(parts, info.rows(), info.cols()).ok_or_else(|| {
        Error::invalid(format!(
            "tensor {}: its shape is {:?}, but the calibration has {} sets of moments of {} channels: it was made \
             with another model",
            info.name,
            info.dims,
            parts.len(),
            parts.first().map_or(0, |p| p.importance.len())
        ))
    })
}

fn metadata(source: &dyn TensorSource, recipe: &Recipe, digests: &Digests) -> Metadata {
    let mut origin = source.provenance().clone();
    for (file, digest) in origin.files.iter_mut().zip(&digests.files) {
        file.sha256 = Some(Hex(digest).to_string());
    }
    Metadata {
        format: FormatInfo::default(),
        model: source.model().clone(),
        source: source.source_files().clone(),
        chat_template: source.chat_template().map(str::to_owned),
        provenance: Provenance {
            source: origin,
            recipe: recipe.to_json(),
            calibration: digests.calibration.map(|d| Hex(&d).to_string()),
        },
    }
}

/// One tensor of the source as the codecs ask for it.
struct SourceRows<'a> {
    source: &'a dyn TensorSource,
    info: &'a TensorInfo,
    index: usize,
    progress: &'a dyn Progress,
}

impl Rows for SourceRows<'_> {
    fn name(&self) -> &str {
        &self.info.name
    }

    fn matrix(&self) -> Matrix {
        Matrix { rows: self.info.rows(), cols: self.info.cols() }
    }

    fn dtype(&self) -> DType {
        self.info.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        if self.progress.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.source.read_f32(self.index, rows, out)
    }

    fn read_native(&self, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        if self.progress.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.source.read_native(self.index, rows)
    }

    fn release(&self, rows: Range<u64>) {
        self.progress.advance((rows.end - rows.start) * self.info.cols());
        self.source.release(self.index, rows);
    }
}

#[cfg(test)]
mod tests;
