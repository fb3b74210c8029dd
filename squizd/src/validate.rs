//! Parallel validation with the codecs plugged in.

use crate::codec::{Encoded, codec};
use crate::metadata::Metadata;
use rayon::prelude::*;
use squizd_spec::{
    ErrorKind, Inspect, Level, Limits, MAX_FINDINGS, SectionKind, SquizdError, SquizdRef, TensorView,
    contents, hash_jobs, section_bytes, structure,
};

/// Checks payloads with the codecs of this build.
#[derive(Clone, Copy, Debug)]
pub struct CodecInspect;

impl Inspect for CodecInspect {
    fn decode(&self, tensor: &TensorView<'_>) -> squizd_spec::Result<()> {
        let path = format!("tensor '{}'", tensor.name);
        let Some(codec) = codec(tensor.codec) else {
            let message = format!("{} cannot be decoded by this build", tensor.codec);
            return Err(SquizdError::new(ErrorKind::Unsupported, "tensor-codec", tensor.offset, message)
                .within(&path));
        };
        codec
            .check(&Encoded::of(tensor))
            .map_err(|v| SquizdError::invalid(v.code, tensor.offset + v.offset, v.message).within(&path))
    }

    fn numerics(&self, tensor: &TensorView<'_>) -> squizd_spec::Result<()> {
        let encoded = Encoded::of(tensor);
        let Some(codec) = codec(tensor.codec) else { return Ok(()) };
        let cols = encoded.matrix.cols as usize;
        let mut row = vec![0.0; cols];
        for r in 0..encoded.matrix.rows {
            let path = || format!("tensor '{}'", tensor.name);
            codec
                .decode(&encoded, r..r + 1, &mut row)
                .map_err(|e| SquizdError::invalid("decode", tensor.offset, e.to_string()).within(&path()))?;
            if let Some(c) = row.iter().position(|v| !v.is_finite()) {
                let message = format!(
                    "decoded weight at row {r}, column {c} is {}",
                    row.get(c).copied().unwrap_or_default()
                );
                return Err(SquizdError::invalid("not-finite", tensor.offset, message).within(&path()));
            }
        }
        Ok(())
    }
}

/// All findings up to `level`, in file order; empty means valid.
pub fn validate(bytes: &[u8], limits: &Limits, level: Level) -> Vec<SquizdError> {
    let (mut findings, file) = structure(bytes, limits);
    let Some(file) = file else { return findings };
    if level >= Level::Hash {
        let mut jobs: Vec<_> = hash_jobs(&file).into_iter().enumerate().collect();
        // Longest first, so that no thread is left alone with the embedding.
        jobs.sort_by_key(|(_, job)| std::cmp::Reverse(job.bytes()));
        let mut found: Vec<_> =
            jobs.par_iter().with_max_len(1).filter_map(|(i, job)| job.run().err().map(|e| (*i, e))).collect();
        found.sort_by_key(|(i, _)| *i);
        findings.extend(found.into_iter().map(|(_, e)| e));
        findings.extend(contents(&file, limits));
        findings.extend(metadata(&file, limits).err());
    }
    if level >= Level::Decode {
        let tensors: Vec<_> = file.tensors().collect();
        let inspect = |t: &TensorView<'_>| {
            CodecInspect.decode(t)?;
            if level >= Level::Numerics { CodecInspect.numerics(t) } else { Ok(()) }
        };
        let found: Vec<_> = tensors.par_iter().with_max_len(1).map(inspect).collect();
        findings.extend(found.into_iter().filter_map(Result::err));
    }
    findings.truncate(MAX_FINDINGS);
    findings
}

/// The metadata section: JSON of the known schema, canonical, and agreeing with
/// the header.
fn metadata(file: &SquizdRef<'_>, limits: &Limits) -> squizd_spec::Result<()> {
    let bytes = section_bytes(file, SectionKind::METADATA, limits)?.unwrap_or_default();
    let at = file.section(SectionKind::METADATA).map_or(0, |s| s.offset());
    let malformed = |e: String| SquizdError::invalid("metadata-json", at, e);
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| malformed(format!("metadata section is not valid: {e}")))?;
    let parsed = Metadata::from_bytes(&bytes).map_err(|e| malformed(e.to_string()))?;
    let not_canonical = |what: &str| Err(SquizdError::invalid("metadata-canonical", at, what));
    if serde_json_canonicalizer::to_vec(&value).ok().as_deref() != Some(&*bytes) {
        return not_canonical("metadata is not canonical JSON (RFC 8785)");
    }
    // RFC 8785 fixes how values are written; that absent members are absent,
    // and not null or their default, makes the hyper-parameters' one form.
    if serde_json::to_value(&parsed.model).ok().map(canonical_form)
        != value.get("model").cloned().map(canonical_form)
    {
        return not_canonical("metadata.model is not in its one form: members that say nothing are left out");
    }
    let (header, model) = (file.header(), &parsed.model);
    let pairs = [
        ("num_layers", u64::from(header.num_layers.get()), u64::from(model.num_layers)),
        ("hidden_dim", u64::from(header.hidden_dim.get()), u64::from(model.hidden_size)),
        ("num_heads", u64::from(header.num_heads.get()), u64::from(model.num_heads)),
        ("vocab_size", u64::from(header.vocab_size.get()), u64::from(model.vocab_size)),
        ("arch", u64::from(header.arch), u64::from(model.arch().0)),
    ];
    match pairs.iter().find(|(_, a, b)| a != b) {
        Some((field, a, b)) => Err(SquizdError::invalid(
            "metadata-disagrees",
            at,
            format!("the header's {field} is {a}, metadata.model says {b}"),
        )),
        None => Ok(()),
    }
}

/// Canonical bytes: equal for numbers that JSON writes alike (`10000`, `10000.0`).
fn canonical_form(value: serde_json::Value) -> Option<Vec<u8>> {
    serde_json_canonicalizer::to_vec(&value).ok()
}
