//! What the runtime allocates, counted by the allocator: nothing per token once
//! a session runs, and in all what is predicted.

#![allow(unsafe_code, reason = "a counting allocator is one")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod synthetic;

use squizd::calibration::{Collected, CollectedSink, Detail, collect, memory, session_options};
use squizd::codec::{Activation, CODECS, Encoded, Precision, codec};
use squizd::dispatch::Subject;
use squizd::model::ModelConfig;
use squizd::runtime::{InputShape, KvType, MemoryNeed, Model, Run, Session, SessionOptions, StoredSize};
use squizd_spec::{CodecId, Matrix};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};
use synthetic::{Shape, Synthetic};

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

const SHAPE: Shape =
    Shape { hidden: 256, ffn: 512, heads: 8, kv_heads: 2, head_dim: 32, vocab: 1000, layers: 2 };

fn config() -> ModelConfig {
    SHAPE.config().unwrap()
}

fn synthetic(id: CodecId) -> Synthetic {
    SHAPE.weights(codec(id).unwrap()).unwrap()
}

impl Synthetic {
    /// A product with every matrix, on the calling thread.
    fn multiply(&self, precision: Precision) {
        for t in self.0.values().filter(|t| t.dims.len() == 2) {
            let matrix = Matrix::of(&t.dims).unwrap();
            let x = vec![1.0; matrix.cols as usize];
            let mut y = vec![0.0; matrix.rows as usize];
            let tensor = Encoded { name: "random", matrix, params: &t.params, data: &t.data };
            codec(t.codec).unwrap().matvec(&tensor, &Activation::new(&x, precision), 0..matrix.rows, &mut y);
        }
    }
}

fn sizes(weights: &Synthetic) -> impl Iterator<Item = StoredSize<'_>> {
    weights.0.values().map(|t| StoredSize {
        subject: Subject { codec: t.codec, params: &t.params, matrix: Matrix::of(&t.dims).unwrap() },
        vector: t.dims.len() == 1,
        bytes: t.data.len() as u64,
    })
}

#[test]
fn a_token_allocates_nothing() {
    let _alone = ALONE.lock();
    // On a thread of the pool: handing it work from outside takes a queue block
    // of rayon's every 63 times.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for codec in CODECS {
        let (id, weights) = (codec.id(), SHAPE.weights(*codec).unwrap());
        let model = Model::new(&config(), &&weights).unwrap();
        for (kv, precision) in
            [(KvType::F32, Precision::F32), (KvType::F16, Precision::Q8), (KvType::Q8, Precision::Q8)]
        {
            let options = SessionOptions { context: 300, kv, precision, ..SessionOptions::default() };
            let mut session = Session::new(&model, options).unwrap();
            // A thread makes memory of its own when it first gets work, which may be
            // late; here each has had some before anything counts.
            pool.broadcast(|_| weights.multiply(precision));
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

/// Forgets what is collected.
struct Nowhere;

impl CollectedSink for Nowhere {
    fn input(&mut self, _: &InputShape, _: &[Collected]) -> squizd::Result<()> {
        Ok(())
    }

    fn window_done(&mut self) -> squizd::Result<()> {
        Ok(())
    }
}

#[test]
fn calibration_takes_what_was_predicted() {
    let _alone = ALONE.lock();
    let threads = 2;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {});
    let weights = synthetic(CodecId::INT4);
    let model = Model::new(&config(), &&weights).unwrap();
    let windows: Vec<Vec<u32>> = (0..6).map(|i| (i..i + 200).collect()).collect();
    let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    for detail in [Detail::Hessian, Detail::Importance] {
        let run = Run { session: session_options(200), sessions: 1, logits: 1, threads };
        let need = MemoryNeed::predict(&config(), sizes(&weights), &run);
        let predicted = need.kv_cache + need.scratch + memory(&config(), detail, 1200);
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        pool.install(|| collect(&model, &windows, detail, &mut Nowhere)).unwrap();
        let used = (PEAK.load(Relaxed) - before) as u64;
        assert!((predicted / 2..=predicted + (64 << 10)).contains(&used), "{detail:?}: {used}, {predicted}");
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
