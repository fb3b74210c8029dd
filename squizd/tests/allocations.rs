//! What the runtime allocates, counted by the allocator: nothing per token once
//! a session runs, and in all what is predicted.

#![allow(unsafe_code, reason = "a counting allocator is one")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use squizd::codec::{EncodeOptions, PayloadSink, Precision, Request, Rows, codec};
use squizd::dispatch::Subject;
use squizd::model::ModelConfig;
use squizd::runtime::{KvType, MemoryNeed, Model, Run, Session, SessionOptions, Stored, StoredSize, Weights};
use squizd_spec::{CodecId, DType, Matrix, Params, Part, Role};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    borrow::Cow,
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

fn changed(bytes: i64) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call goes to the system's allocator with the arguments as they
// came; the counters have no influence on what is returned.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        changed(layout.size() as i64);
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        changed(layout.size() as i64);
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        changed(size as i64 - layout.size() as i64);
        // SAFETY: the caller's contract is System's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        changed(-(layout.size() as i64));
        // SAFETY: the caller's contract is System's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

struct Random(Matrix);

impl Rows for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn matrix(&self) -> Matrix {
        self.0
    }

    fn dtype(&self) -> DType {
        DType::BF16
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        for (i, v) in out.iter_mut().enumerate() {
            let x = ((rows.start * self.0.cols) as f32 + i as f32) * 0.37;
            *v = f32::from_bits((x.sin() * 0.1).to_bits() & 0xffff_0000);
        }
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

#[derive(Default)]
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().unwrap();
        let end = (offset as usize + bytes.len()).max(data.len());
        data.resize(end, 0);
        data[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct Tensor {
    dims: Vec<u64>,
    codec: CodecId,
    params: Params,
    data: Vec<u8>,
}

#[derive(Default)]
struct Synthetic(HashMap<(Role, Option<u16>), Tensor>);

impl<'w> Weights<'w> for &'w Synthetic {
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>> {
        let tensor = self.0.get(&(role, layer)).filter(|_| part == Part::WEIGHT)?;
        Some(Stored {
            name: "random",
            dims: tensor.dims.clone(),
            codec: tensor.codec,
            params: &tensor.params,
            data: &tensor.data,
        })
    }
}

const HIDDEN: u64 = 256;
const FFN: u64 = 512;
const KV: u64 = 64;
const VOCAB: u64 = 1000;
const LAYERS: u16 = 2;

fn config() -> ModelConfig {
    serde_json::from_value(serde_json::json!({
        "family": "llama", "hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": 8, "num_kv_heads": 2,
        "head_dim": 32, "ffn_size": FFN, "vocab_size": VOCAB, "max_positions": 4096, "norm_eps": 1e-5,
        "activation": "silu", "tie_embeddings": true, "rope": { "theta": 1e4, "dim": 32 }, "tokens": {},
    }))
    .unwrap()
}

fn synthetic(id: CodecId) -> Synthetic {
    let mut model = Synthetic::default();
    let mut add = |role, layer, dims: &[u64]| {
        let id = if dims.len() == 1 { CodecId::RAW_BF16 } else { id };
        let codec = codec(id).unwrap();
        let rows = Random(Matrix::of(dims).unwrap());
        let request = Request::from(EncodeOptions::default());
        let params = codec.plan(&rows, &request).unwrap();
        let payload = Payload::default();
        let (length, _) = codec.encode(&rows, &params, &request, &payload).unwrap();
        let mut data = payload.0.into_inner().unwrap();
        data.resize(length as usize, 0);
        model.0.insert((role, layer), Tensor { dims: dims.to_vec(), codec: id, params, data });
    };
    add(Role::TOKEN_EMBD, None, &[VOCAB, HIDDEN]);
    add(Role::OUTPUT_NORM, None, &[HIDDEN]);
    for layer in (0..LAYERS).map(Some) {
        add(Role::ATTN_NORM, layer, &[HIDDEN]);
        add(Role::FFN_NORM, layer, &[HIDDEN]);
        add(Role::ATTN_Q, layer, &[HIDDEN, HIDDEN]);
        add(Role::ATTN_K, layer, &[KV, HIDDEN]);
        add(Role::ATTN_V, layer, &[KV, HIDDEN]);
        add(Role::ATTN_OUTPUT, layer, &[HIDDEN, HIDDEN]);
        add(Role::FFN_GATE, layer, &[FFN, HIDDEN]);
        add(Role::FFN_UP, layer, &[FFN, HIDDEN]);
        add(Role::FFN_DOWN, layer, &[HIDDEN, FFN]);
    }
    model
}

fn sizes(weights: &Synthetic) -> impl Iterator<Item = StoredSize<'_>> {
    weights.0.values().map(|t| StoredSize {
        subject: Subject { codec: t.codec, params: &t.params, matrix: Matrix::of(&t.dims).unwrap() },
        vector: t.dims.len() == 1,
        bytes: t.data.len() as u64,
    })
}

/// Codecs whose kernels have no memory of their own.
const STEADY: [CodecId; 10] = [
    CodecId::RAW_F32,
    CodecId::RAW_F16,
    CodecId::RAW_BF16,
    CodecId::ZPLANES,
    CodecId::Q8,
    CodecId::INT4,
    CodecId::INT3,
    CodecId::INT2,
    CodecId::MXFP4,
    CodecId::TCA_TBE,
];

#[test]
fn a_token_allocates_nothing() {
    let _alone = ALONE.lock();
    // On a thread of the pool: handing it work from outside takes a queue block
    // of rayon's every 63 times.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for id in STEADY.into_iter().chain([CodecId::HYBRID]) {
        let weights = synthetic(id);
        let model = Model::new(&config(), &&weights).unwrap();
        for (kv, precision) in
            [(KvType::F32, Precision::F32), (KvType::F16, Precision::Q8), (KvType::Q8, Precision::Q8)]
        {
            let options = SessionOptions { context: 300, kv, precision, ..SessionOptions::default() };
            let mut session = Session::new(&model, options).unwrap();
            let calls = pool.install(|| {
                session.forward(&[1, 2, 3, 4, 5, 6]).unwrap();
                for token in 0..40 {
                    session.forward(&[token]).unwrap();
                }
                let before = CALLS.load(Relaxed);
                for token in 0..200 {
                    session.forward(&[token]).unwrap();
                }
                CALLS.load(Relaxed) - before
            });
            assert_eq!(calls, 0, "{id} {kv} {precision:?}: allocations in 200 tokens");
        }
    }
}

#[test]
fn memory_is_what_was_predicted() {
    let _alone = ALONE.lock();
    let threads = 2;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {});
    for id in [CodecId::INT4, CodecId::ZPLANES] {
        let weights = synthetic(id);
        let config = config();
        for kv in [KvType::F32, KvType::F16, KvType::Q8] {
            let session = SessionOptions { context: 1000, kv, precision: Precision::Q8, batch: 256 };
            let run = Run { session, sessions: 1, logits: 1, threads };
            let need = MemoryNeed::predict(&config, sizes(&weights), &run);
            assert_eq!(need.weights, weights.0.values().map(|t| t.data.len() as u64).sum::<u64>());

            let start = LIVE.load(Relaxed);
            let model = Model::new(&config, &&weights).unwrap();
            let unpacked = LIVE.load(Relaxed) - start;
            // Beside the numbers: names, tables.
            let slack = 32 << 10;
            let predicted = need.unpacked as i64;
            assert!(
                (predicted..predicted + slack).contains(&unpacked),
                "{id}: {unpacked}, predicted {predicted}"
            );

            let before = LIVE.load(Relaxed);
            PEAK.store(before, Relaxed);
            let mut open = Session::new(&model, session).unwrap();
            let prompt: Vec<u32> = (0..900).collect();
            pool.install(|| {
                open.forward(&prompt).unwrap();
                open.forward(&[1]).unwrap();
            });
            let used = PEAK.load(Relaxed) - before;
            let predicted = (need.kv_cache + need.scratch) as i64;
            // Buffers grow by doubling at most; the cache is reserved exactly.
            let (low, high) = (predicted * 7 / 10, predicted + need.scratch as i64 / 4 + slack);
            assert!((low..=high).contains(&used), "{id} {kv}: {used}, predicted {predicted}: {need:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let _alone = ALONE.lock();
    let weights = synthetic(CodecId::Q8);
    let session = SessionOptions { context: 4096, ..SessionOptions::default() };
    let need = MemoryNeed::predict(&config(), sizes(&weights), &Run::generating(session));
    // Keys and values of 2 layers, 64 wide, in f32; keys in whole blocks of 32.
    assert_eq!(need.kv_cache, 2 * 2 * 64 * 4 * 4096);
    need.check(need.total()).unwrap();
    let error = need.check(need.total() - 1).unwrap_err();
    assert_eq!(error.code().map(|c| c.to_string()), Some("memory".to_owned()));
    let text = error.to_string();
    assert!(text.contains("--ctx-size") && text.contains("--force") && text.contains("4.2 MB"), "{text}");
    // An absurd context is refused too, without overflow.
    let session = SessionOptions { context: usize::MAX, ..session };
    MemoryNeed::predict(&config(), sizes(&weights), &Run::generating(session))
        .check(u64::MAX - 1)
        .unwrap_err();
}
