//! SIGBUS, raised where a mapped file was cut short, or cannot be read.
//!
//! Nothing can be done about the access itself: the instruction that made it
//! has no value to go on with. So the process ends, as for any I/O error with
//! exit code 2, and says why, instead of dying of a signal without a word. What
//! it was writing stays as after SIGKILL. Linux only: elsewhere the same signal
//! also means a stack overflow, which Rust's runtime reports.
#![allow(unsafe_code, reason = "signal handlers have no safe interface; each block with its proof")]

use crate::Exit;

const MESSAGE: &[u8] =
    b"error: a mapped file was cut short or cannot be read (SIGBUS): it was changed or truncated \
while in use, or its disk failed; --in-memory reads a file once and needs it no more\n";

/// From now on SIGBUS ends the process with a message.
pub(super) fn report() {
    // SAFETY: an all-zero `sigaction` is valid: no flags, an empty mask, and a
    // handler set in the next line. `end` has the signature of a handler without
    // SA_SIGINFO, lives as long as the process and calls only functions that are
    // async-signal-safe. The pointers are valid for the call. The signal's
    // former action, Rust's own, only tells stack overflows apart, which are
    // SIGSEGV on Linux.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end as *const () as usize;
        // Failing leaves what was there before: death by the signal.
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn end(_: libc::c_int) {
    // SAFETY: `write` gets a static buffer and its length; both calls are on
    // POSIX's list of async-signal-safe functions. `_exit` runs no destructors,
    // which might need a lock that the interrupted thread holds.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(Exit::Usage as libc::c_int)
    }
}
