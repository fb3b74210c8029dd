//! How much memory a run needs, before anything is allocated.

use super::cache::KvType;
use super::linear::strip_rows;
use super::session::SessionOptions;
use crate::codec::panel::Inputs;
use crate::codec::{Panel, Precision, codec};
use crate::dispatch::Subject;
use crate::model::ModelConfig;
use crate::simd::level;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use squizd_spec::SquizdRef;

/// Memory in bytes, by what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryNeed {
    /// Payloads, mapped from the file: resident once they have been read, and
    /// the first to go where memory is short.
    pub weights: u64,
    /// What codecs for keeping unpack to, and vectors as `f32`.
    pub unpacked: u64,
    /// Keys and values of all positions of all sequences.
    pub kv_cache: u64,
    /// Buffers of the forward pass, of all sequences and threads.
    pub scratch: u64,
}

/// What is going to be run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Options of each session.
    pub session: SessionOptions,
    /// Sessions side by side.
    pub sessions: usize,
    /// Positions whose logits are computed together: 1 to generate,
    /// [`LOGITS_BATCH`](super::forward::LOGITS_BATCH) to score.
    pub logits: usize,
    /// Threads.
    pub threads: usize,
}

impl Run {
    /// One session that generates, on the current thread pool.
    pub fn generating(session: SessionOptions) -> Self {
        Self { session, sessions: 1, logits: 1, threads: rayon::current_num_threads() }
    }

    /// One session that scores every position, on the current thread pool.
    pub fn scoring(session: SessionOptions) -> Self {
        Self { logits: super::forward::LOGITS_BATCH, ..Self::generating(session) }
    }
}

/// A stored tensor as far as memory is concerned.
#[derive(Clone, Copy, Debug)]
pub struct StoredSize<'a> {
    /// Codec, parameters, shape.
    pub subject: Subject<'a>,
    /// It has one dimension: it is decoded at load.
    pub vector: bool,
    /// Payload bytes.
    pub bytes: u64,
}

impl MemoryNeed {
    /// The need of a file's tensors under a model's hyper-parameters.
    pub fn of_file(file: &SquizdRef<'_>, config: &ModelConfig, run: &Run) -> Self {
        let sizes = file.descs().filter_map(|t| {
            let vector = t.dims.len() == 1;
            Subject::of(&t).map(|subject| StoredSize { subject, vector, bytes: t.length })
        });
        Self::predict(config, sizes, run)
    }

    /// The need of tensors under a model's hyper-parameters.
    pub fn predict<'a>(
        config: &ModelConfig,
        tensors: impl IntoIterator<Item = StoredSize<'a>>,
        run: &Run,
    ) -> Self {
        let mut need = Self::default();
        let mut forms = Forms::default();
        for StoredSize { subject, vector, bytes } in tensors {
            let unpacked = codec(subject.codec).and_then(|c| c.unpacked(subject.matrix, subject.params));
            let unpacked = if vector {
                subject.matrix.elements().saturating_mul(4)
            } else {
                unpacked.map_or(0, |u| u.bytes)
            };
            if !vector {
                forms.add(&subject, run.session.precision);
            }
            need.weights = need.weights.saturating_add(bytes);
            need.unpacked = need.unpacked.saturating_add(unpacked);
        }
        let sessions = run.sessions as u64;
        let (heads, dim) = (usize::from(config.num_kv_heads), config.head_dim as usize);
        let layer = run.session.kv.layer_bytes(heads, dim, run.session.context).unwrap_or(u64::MAX);
        need.kv_cache = layer.saturating_mul(config.num_layers.into()).saturating_mul(sessions);
        let threads =
            (run.threads as u64).saturating_mul(thread_floats(config, run, forms)).saturating_mul(4);
        need.scratch = session_bytes(config, run, forms).saturating_mul(sessions).saturating_add(threads);
        need
    }

    /// What this and `other` need at the same time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            unpacked: self.unpacked.saturating_add(other.unpacked),
            kv_cache: self.kv_cache.saturating_add(other.kv_cache),
            scratch: self.scratch.saturating_add(other.scratch),
        }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        [self.weights, self.unpacked, self.kv_cache, self.scratch].iter().fold(0, |a, b| a.saturating_add(*b))
    }

    /// Refuses what does not fit `available` bytes.
    ///
    /// # Errors
    /// One with code `memory` that says what is needed for what, what there is,
    /// and what helps.
    pub fn check(&self, available: u64) -> Result<()> {
        if self.total() <= available {
            return Ok(());
        }
        let megabytes = |n: u64| format!("{:.1} MB", n as f64 / 1e6);
        Err(Error::refused_unsupported(
            "memory",
            format!(
                "{} of memory are needed (weights {}, unpacked {}, key/value cache {}, buffers {}), {} are free: \
                 use a smaller --ctx-size, --kv q8 where the command has it, or --force to try all the same",
                megabytes(self.total()),
                megabytes(self.weights),
                megabytes(self.unpacked),
                megabytes(self.kv_cache),
                megabytes(self.scratch),
                megabytes(available)
            ),
        ))
    }
}

/// The forms that inputs of a batch take: floats, or rounded to 8 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    floats: bool,
    rounded: bool,
}

impl Forms {
    fn add(&mut self, subject: &Subject<'_>, precision: Precision) {
        let panels = codec(subject.codec).is_some_and(|c| c.has_panels(subject.params, level()));
        let rounded = panels && precision == Precision::Q8;
        self.rounded |= rounded;
        self.floats |= !rounded;
    }

    /// Floats of one of `cols` values, and of the memory that rounded ones take.
    fn input(self, cols: u64) -> u64 {
        let floats = if self.floats { cols } else { 0 };
        let rounded = if self.rounded { Inputs::bytes(cols as usize) as u64 / 4 } else { 0 };
        floats.saturating_add(rounded)
    }
}

/// Buffers of a session: see [`super::session::Buffers`] and
/// [`super::ffn::Scratch`].
fn session_bytes(config: &ModelConfig, run: &Run, forms: Forms) -> u64 {
    let n = run.session.batch.min(run.session.context) as u64;
    let (hidden, vocab) = (u64::from(config.hidden_size), u64::from(config.vocab_size));
    let dim = u64::from(config.head_dim);
    let (query, key) = (u64::from(config.num_heads) * dim, u64::from(config.num_kv_heads) * dim);
    let ffn = u64::from(config.ffn_size);
    let experts = config.moe.as_ref().map_or(0, |moe| {
        let wide = u64::from(moe.expert_ffn_size);
        // Inputs, outputs; scores and routes of 24 bytes.
        2 * hidden + u64::from(moe.num_experts) + 6 * u64::from(moe.experts_per_token) + 2 * wide
    });
    let widest = hidden.max(query).max(key).max(ffn);
    // Residual stream, normed, block; queries and attended; keys and values;
    // gate and up; inputs in their forms, transposed products; rotations of two kinds of layers.
    let token = 3 * hidden + 2 * query + 2 * key + 2 * ffn + experts + widest + forms.input(widest) + 2 * dim;
    let logits = run.logits.min(run.session.context) as u64;
    let transposed = if logits > 1 { logits.saturating_mul(vocab) } else { 0 };
    let floats =
        n.saturating_mul(token).saturating_add(logits.saturating_mul(vocab)).saturating_add(transposed);
    let heads = u64::from(config.num_kv_heads).saturating_mul(attention_floats(dim));
    // Prepared inputs of one product take about four bytes a value.
    floats
        .saturating_add(heads)
        .saturating_add(widest)
        .saturating_mul(4)
        .saturating_add((run.session.context as u64).saturating_mul(4))
}

/// Buffers of attention for one key/value head.
fn attention_floats(dim: u64) -> u64 {
    use super::{attention::ROWS, cache::BLOCK};
    (ROWS * (BLOCK + 2)) as u64 + (ROWS + BLOCK) as u64 * dim
}

/// Buffers of one thread: a strip of unpacked rows, and attention's.
fn thread_floats(config: &ModelConfig, run: &Run, forms: Forms) -> u64 {
    let dim = u64::from(config.head_dim);
    let (query, key) = (u64::from(config.num_heads) * dim, u64::from(config.num_kv_heads) * dim);
    let (hidden, ffn) = (u64::from(config.hidden_size), u64::from(config.ffn_size));
    let wide = config.moe.as_ref().map_or(0, |moe| u64::from(moe.expert_ffn_size));
    let scored = if run.logits > 1 { u64::from(config.vocab_size) } else { 0 };
    let shapes = [
        (query.max(key), hidden),
        (hidden, query),
        (ffn, hidden),
        (hidden, ffn),
        (wide, hidden),
        (hidden, wide),
        (scored, hidden),
    ];
    let strip = |(rows, cols): (u64, u64)| {
        let decoded = strip_rows(rows as usize, cols as usize, run.threads) as u64 * cols;
        let panel = Panel::bytes(cols as usize) as u64 / 4;
        (if forms.floats { decoded } else { 0 }).max(if forms.rounded { panel } else { 0 })
    };
    shapes.into_iter().map(strip).max().unwrap_or(0) + attention_floats(dim)
}

/// The name under which the command line knows it.
impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        })
    }
}
