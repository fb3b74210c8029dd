//! Progress on stderr: silent when it is no terminal or when asked to be.

use super::Common;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar over `total` weights.
pub(super) fn bar(common: Common, total: u64, what: &'static str) -> ProgressBar {
    let off = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    if common.quiet
        || off("NO_COLOR")
        || off("HF_HUB_DISABLE_PROGRESS_BARS")
        || !std::io::stderr().is_terminal()
    {
        return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    }
    let style = "{prefix} [{bar:32}] {percent:>3}% {per_sec} eta {eta} {msg}";
    let style = ProgressStyle::with_template(style)
        .map_or_else(|_| ProgressStyle::default_bar(), |s| s.progress_chars("=> "));
    ProgressBar::new(total).with_style(style).with_prefix(what)
}
