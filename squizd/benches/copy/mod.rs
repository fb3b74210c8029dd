//! A copy with stores around the caches: beyond them it can be the fastest.
#![allow(unsafe_code, reason = "stores that the language has no safe form of")]

/// Copies `from` to `to`, which begins at a multiple of 16 bytes; bytes behind the
/// last 16 are left out.
pub(crate) fn streaming(from: &[u8], to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        assert!(to.as_ptr().addr().is_multiple_of(16));
        for (a, b) in from.as_chunks::<16>().0.iter().zip(to.as_chunks_mut::<16>().0) {
            // SAFETY: SSE2 is the baseline; 16 bytes each, `to` aligned.
            unsafe { _mm_stream_si128(b.as_mut_ptr().cast(), _mm_loadu_si128(a.as_ptr().cast())) }
        }
        // SAFETY: SSE is the baseline.
        unsafe { _mm_sfence() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    to[..from.len()].copy_from_slice(from);
}
