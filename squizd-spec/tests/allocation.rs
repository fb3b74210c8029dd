//! What the reader allocates is bounded by the file, whatever the file says:
//! at most eight times its size and one mebibyte at any moment. Counted by
//! the allocator, over the hostile corpus and damaged golden files.

#![allow(unsafe_code, reason = "a counting allocator is one")]
#![allow(clippy::unwrap_used, reason = "test code")]

use squizd_hostile::NoCodecs;
use squizd_spec::{Level, Limits, SquizdRef, Tables, structure, validate};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

fn grew(bytes: usize) {
    let live = LIVE.fetch_add(bytes as u64, Relaxed) + bytes as u64;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call goes to the system's allocator with the arguments as they
// came; the counters have no influence on what is returned.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller's contract is System's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grew(size);
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: the caller's contract is System's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: the caller's contract is System's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one measurement at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Most bytes that `work` held at once.
fn peak<T>(work: impl FnOnce() -> T) -> u64 {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let kept = work();
    let peak = PEAK.load(Relaxed);
    drop(kept);
    peak.saturating_sub(before)
}

const LIMITS: &Limits = &Limits::DEFAULT;

/// Decompressed contents of a section, and the decoder's own memory for it.
const INFLATED: u64 = 2 * ((1 << 20) + (1 << 20));

fn check(name: &str, bytes: &[u8]) {
    let bound = 8 * bytes.len() as u64 + (1 << 20);
    let metadata = peak(|| SquizdRef::parse(bytes, LIMITS).map(|_| ()))
        .max(peak(|| Tables::parse_prefix(bytes, LIMITS).map(|_| ())))
        .max(peak(|| structure(bytes, LIMITS).0));
    assert!(metadata <= bound, "{name}: {metadata} bytes for a file of {}", bytes.len());
    let all = peak(|| validate(bytes, LIMITS, Level::Numerics, &NoCodecs));
    let inflated = bound + INFLATED + 2 * LIMITS.inflate_ratio * bytes.len() as u64;
    assert!(all <= inflated, "{name}: {all} bytes to validate a file of {}", bytes.len());
}

#[test]
fn the_counter_counts() {
    let _one = ONE.lock();
    // The largest of some, for the harness's own threads may free memory meanwhile.
    let largest = (0..16).map(|_| peak(|| vec![0u8; 1 << 20])).max();
    assert!(largest >= Some(1 << 20), "{largest:?}");
    let grown = peak(|| {
        let mut v = vec![1u8; 1000];
        v.resize(100_000, 2);
        v
    });
    assert!((100_000..300_000).contains(&grown), "{grown}");
}

#[test]
fn the_hostile_corpus() {
    let _one = ONE.lock();
    let corpus = squizd_hostile::corpus::Corpus::load().unwrap();
    let mut files = 0;
    for case in corpus.of("squizd") {
        check(&case.id, case.bytes());
        files += 1;
    }
    assert!(files > 400);
}

/// Counts and lengths at their largest in a file too short for them.
#[test]
fn large_claims_in_small_files() {
    let _one = ONE.lock();
    let corpus = squizd_hostile::corpus::Corpus::load().unwrap();
    let toy = &corpus.bases["toy-2layer"];
    let layout = squizd_hostile::seal::Layout::of(toy).unwrap();
    for at in (44..64).chain(256..576).chain(1024..1176) {
        for value in [u64::MAX, 1 << 63, 1 << 40, 1 << 32, 0xffff_ffff, 1 << 20] {
            for width in [2, 4, 8] {
                let mut file = toy.clone();
                file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                layout.seal_front(&mut file);
                check(&format!("byte {at} = {value}"), &file);
            }
        }
    }
    for length in (0..toy.len()).step_by(13) {
        check("truncated", &toy[..length]);
    }
}

/// The most expensive honest table: as many tensors as the bytes hold.
#[test]
fn many_small_tensors() {
    let _one = ONE.lock();
    let corpus = squizd_hostile::corpus::Corpus::load().unwrap();
    let toy = SquizdRef::parse(&corpus.bases["toy-2layer"], LIMITS).unwrap();
    let bytes = squizd_hostile::canonical::encode(&toy);
    let honest = peak(|| structure(&bytes, LIMITS).0);
    assert!(honest < bytes.len() as u64, "{honest} bytes for {} tensors", toy.tensor_count());
}
