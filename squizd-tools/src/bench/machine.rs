//! What the machine is, and what memory this process has used of it.

use serde::Serialize;
use std::{fs, path::Path};

/// The machine a report is from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Processor, as the system names it.
    pub processor: String,
    /// Logical processors this process may use.
    pub processors: usize,
    /// Memory in bytes, where the system says.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub system: String,
    /// Tasks that ran or waited to run in the last minute (load average) when the
    /// benchmark began: above a few tenths, others were at work.
    pub load: Option<f64>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let named = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, n)| n));
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            processor: named.unwrap_or(std::env::consts::ARCH).trim().to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_bytes: kilobytes("/proc/meminfo", "MemTotal:"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            load: load.and_then(|l| l.split(' ').next()?.parse().ok()),
        }
    }
}

/// A line `KEY   123 kB` of a file under `/proc`, in bytes.
fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes of the largest cache of the first processor, where the system says.
pub(super) fn cache_bytes() -> Option<u64> {
    let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let sizes =
        fs::read_dir(folder).ok()?.filter_map(|e| fs::read_to_string(e.ok()?.path().join("size")).ok());
    sizes.filter_map(|s| size(s.trim())).max()
}

/// `32K`, `260M` in bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (text.strip_suffix('K')?, 10),
        b'M' => (text.strip_suffix('M')?, 20),
        b'G' => (text.strip_suffix('G')?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

/// Most resident memory of this process since its start or the last
/// [`forget_peak`].
pub(super) fn peak_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// Counts peak memory anew from here on; whether the system does so.
pub(super) fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_linux_writes_them() {
        assert_eq!((size("48K"), size("260M"), size("64")), (Some(48 << 10), Some(260 << 20), Some(64)));
        assert_eq!((size(""), size("K"), size("x")), (None, None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_counts_what_was_touched() {
        let block = vec![1u8; 64 << 20];
        assert!(std::hint::black_box(&block).iter().step_by(4096).all(|b| *b == 1));
        assert!(peak_bytes().unwrap() >= 64 << 20);
        // Forgetting the past does not forget what is there.
        if forget_peak() {
            assert!(std::hint::black_box(&block).len() == 64 << 20 && peak_bytes().unwrap() >= 64 << 20);
        }
    }
}
