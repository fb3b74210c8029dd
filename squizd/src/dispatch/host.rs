//! What the operating system tells of processor and memory.
//!
//! Linux: `/proc` and the memory limits of the control groups this process is
//! in. macOS: the commands `sysctl` and `vm_stat`. Elsewhere nothing is known.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Main memory in bytes; 0 where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// All of it, or this process's limit where that is less.
    pub total: u64,
    /// What can be taken without swapping, by this process.
    pub available: u64,
}

impl MemoryInfo {
    /// Looks at this machine, now.
    pub fn probe() -> Self {
        if cfg!(target_os = "macos") { macos() } else { linux(Path::new("/")) }
    }
}

/// Vendor and name of the processor; empty where they are not told.
pub(super) fn processor() -> (String, String) {
    if cfg!(target_os = "macos") {
        let brand = command("sysctl", &["-n", "machdep.cpu.brand_string"]);
        let vendor = if brand.starts_with("Apple") { "Apple" } else { "" };
        return (vendor.to_owned(), brand.trim().to_owned());
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |names: &[&str]| names.iter().find_map(|n| colon_field(&text, n)).unwrap_or_default().to_owned();
    (field(&["vendor_id", "CPU implementer"]), field(&["model name", "Model", "CPU part"]))
}

/// What tells the installed graphics drivers from others, without starting
/// them: the kernel, the driver modules, and the manifests by which a Vulkan
/// loader finds drivers.
pub fn driver_versions() -> String {
    if cfg!(target_os = "macos") {
        return command("sysctl", &["-n", "kern.osversion"]).trim().to_owned();
    }
    let mut parts = Vec::new();
    for path in ["/proc/sys/kernel/osrelease", "/proc/driver/nvidia/version", "/sys/module/amdgpu/version"] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        parts.extend(text.lines().next().map(str::to_owned));
    }
    for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"] {
        parts.extend(std::env::var(name).ok().map(|value| format!("{name}={value}")));
    }
    let mut manifests: Vec<String> = ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            let age = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(format!("{} {} {}", entry.file_name().to_string_lossy(), metadata.len(), age.as_secs()))
        })
        .collect();
    manifests.sort_unstable();
    parts.extend(manifests);
    parts.join("; ")
}

/// The output of a command; empty if it cannot be run.
fn command(name: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(name).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

/// The first `name : value` of a text.
fn colon_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// `sysctl -n hw.memsize` and the pages that `vm_stat` counts as free, inactive
/// or speculative.
fn macos() -> MemoryInfo {
    let total = command("sysctl", &["-n", "hw.memsize"]).trim().parse().unwrap_or(0);
    MemoryInfo { total, available: vm_stat(&command("vm_stat", &[])) }
}

fn vm_stat(text: &str) -> u64 {
    let page =
        text.split_once("page size of ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    let pages =
        |name| colon_field(text, name).and_then(|v| v.trim_end_matches('.').parse::<u64>().ok()).unwrap_or(0);
    let free = ["Pages free", "Pages inactive", "Pages speculative"].map(pages);
    free.iter().sum::<u64>().saturating_mul(page.unwrap_or(0))
}

/// `/proc/meminfo`, and less where a control group allows less. `root` is where
/// the file system begins.
fn linux(root: &Path) -> MemoryInfo {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let kilobytes = |name| {
        let value = colon_field(&text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        value.checked_mul(1024)
    };
    let mut memory = MemoryInfo {
        total: kilobytes("MemTotal").unwrap_or(0),
        available: kilobytes("MemAvailable").unwrap_or(0),
    };
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in groups.lines() {
        // `0::/path` of version 2, `4:memory:/path` of version 1.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (folder, names) = if controllers.is_empty() {
            ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file"])
        } else if controllers.split(',').any(|c| c == "memory") {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
            ("sys/fs/cgroup/memory", names)
        } else {
            continue;
        };
        let mut at = root.join(folder);
        memory = memory.within(&at, names);
        for part in path.split('/').filter(|p| !p.is_empty() && *p != "..") {
            at.push(part);
            memory = memory.within(&at, names);
        }
    }
    memory
}

impl MemoryInfo {
    /// Less, where the control group at `folder` has a limit; file pages that
    /// the kernel would give up do not count as used.
    fn within(self, folder: &Path, [limit, usage, inactive]: [&str; 3]) -> Self {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| text(name).and_then(|t| t.trim().parse::<u64>().ok());
        let Some(limit) = number(limit) else { return self };
        let stat = text("memory.stat").unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == inactive).then(|| value.trim().parse::<u64>().ok())?
        });
        let used = number(usage).unwrap_or(0).saturating_sub(reclaimable.unwrap_or(0));
        Self { total: self.total.min(limit), available: self.available.min(limit.saturating_sub(used)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    800 kB\n";

    #[test]
    fn linux_without_limits() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", MEMINFO);
        write(root.path(), "proc/self/cgroup", "0::/a/b\n");
        write(root.path(), "sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(linux(root.path()), MemoryInfo { total: 1000 << 10, available: 800 << 10 });
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", MEMINFO);
        write(root.path(), "proc/self/cgroup", "0::/a/b\n");
        write(root.path(), "sys/fs/cgroup/a/memory.max", "500000\n");
        write(root.path(), "sys/fs/cgroup/a/memory.current", "450000\n");
        write(root.path(), "sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300000\n");
        write(root.path(), "sys/fs/cgroup/a/b/memory.max", "600000\n");
        write(root.path(), "sys/fs/cgroup/a/b/memory.current", "100\n");
        assert_eq!(linux(root.path()), MemoryInfo { total: 500_000, available: 350_000 });
    }

    #[test]
    fn control_groups_of_version_1() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", MEMINFO);
        write(root.path(), "proc/self/cgroup", "5:cpu:/x\n4:memory:/x\n");
        write(root.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(root.path(), "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "300000\n");
        write(root.path(), "sys/fs/cgroup/memory/x/memory.usage_in_bytes", "400000\n");
        assert_eq!(linux(root.path()), MemoryInfo { total: 300_000, available: 0 });
    }

    #[test]
    fn nothing_is_known_of_an_empty_system() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(linux(root.path()), MemoryInfo::default());
    }

    #[test]
    fn vm_stat_counts_pages() {
        let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   10.\n\
                    Pages active:  99.\nPages inactive:   5.\nPages speculative: 1.\n";
        assert_eq!(vm_stat(text), 16 * 16384);
        assert_eq!(vm_stat(""), 0);
    }
}
