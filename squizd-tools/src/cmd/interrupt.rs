//! Interruption by SIGINT, SIGTERM and SIGHUP: asked for, not forced, so that
//! commands can clean up.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on the signals only set a flag.
pub(super) fn watch() {
    // A second handler cannot be installed; the first one serves as well.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed));
}

/// Whether a signal came.
pub(super) fn requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
