//! `squizd caps`: what this machine can do.
//!
//! Looking for GPUs starts their drivers, which takes up to seconds, so what was
//! found is kept in the cache folder until squizd, the processor or a driver
//! changes. Processor and memory are looked at every time.

use crate::{Exit, Failure, output};
use serde::{Deserialize, Serialize};
use squizd::dispatch::{Adapter, Capabilities, adapters, driver_versions};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Look for GPUs again, whatever the cache says
    #[arg(long)]
    refresh: bool,
}

/// What the adapters found depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    squizd: String,
    drivers: String,
    cpu: String,
}

/// The cache file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    schema_version: u32,
    key: Key,
    /// `None` from a build that does not look for GPUs.
    adapters: Option<Vec<Adapter>>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut caps = Capabilities::probe(None);
    let key = Key {
        squizd: env!("CARGO_PKG_VERSION").to_owned(),
        drivers: driver_versions(),
        cpu: format!("{} {} {}", caps.cpu.vendor, caps.cpu.brand, caps.cpu.features.join(" ")),
    };
    let path = cache_file();
    let kept = path.as_deref().filter(|_| !args.refresh).and_then(|path| read(path, &key));
    let found = if let Some(kept) = kept {
        kept.adapters
    } else {
        let found = adapters();
        let kept = Kept { schema_version: output::SCHEMA_VERSION, key, adapters: found };
        if let Some(path) = &path {
            // A cache that cannot be written costs time, no more.
            let _ = write(path, &kept);
        }
        kept.adapters
    };
    caps.gpu = found.is_some();
    caps.adapters = found.unwrap_or_default();
    if args.json {
        output::json(&caps)?;
    } else {
        print(&caps)?;
    }
    Ok(Exit::Done)
}

/// `caps.json` in the cache folder; `None` where there is no home.
fn cache_file() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("squizd/caps.json"))
}

/// What was kept under this key; a damaged file holds nothing.
fn read(path: &Path, key: &Key) -> Option<Kept> {
    const LARGEST: u64 = 1 << 20;
    if std::fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (kept.schema_version == output::SCHEMA_VERSION && kept.key == *key).then_some(kept)
}

/// Replaces the file in one step.
fn write(path: &Path, kept: &Kept) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, serde_json::to_vec(kept)?)?;
    std::fs::rename(&part, path)
}

fn print(caps: &Capabilities) -> Result<(), Failure> {
    let cpu = &caps.cpu;
    let mut rows = vec![
        ("system", format!("{} {}", caps.os, caps.arch)),
        ("cpu", format!("{} ({})", cpu.brand, cpu.vendor)),
    ];
    rows.extend(cpu.chip.iter().map(|chip| ("chip", chip.clone())));
    rows.extend([
        ("threads", cpu.threads.to_string()),
        ("features", cpu.features.join(" ")),
        ("kernels", format!("{} in use ({}), of {}", cpu.level, cpu.level_reason, cpu.levels.join(" "))),
        (
            "memory",
            format!("{}, {} free", output::bytes(caps.memory.total), output::bytes(caps.memory.available)),
        ),
    ]);
    if !caps.gpu {
        rows.push(("gpu", "not looked for: this build has no GPU backend".to_owned()));
    } else if caps.adapters.is_empty() {
        rows.push(("gpu", "none found".to_owned()));
    }
    for a in &caps.adapters {
        let limits: Vec<_> = a.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        rows.push(("gpu", format!("{} ({}, {}; {} {})", a.name, a.backend, a.kind, a.driver, a.driver_info)));
        rows.push(("", a.features.join(" ")));
        rows.push(("", limits.join(", ")));
    }
    for (name, value) in rows {
        output::line(format!("{name:<12} {value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(squizd: &str) -> Key {
        Key { squizd: squizd.to_owned(), drivers: "d".to_owned(), cpu: "c".to_owned() }
    }

    #[test]
    fn the_cache_is_good_for_its_key_and_undamaged_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/caps.json");
        assert_eq!(read(&path, &key("1")), None);
        let adapters = Some(vec![Adapter { name: "a gpu".to_owned(), ..Adapter::default() }]);
        let kept = Kept { schema_version: output::SCHEMA_VERSION, key: key("1"), adapters };
        write(&path, &kept).unwrap();
        assert_eq!(read(&path, &key("1")), Some(kept));
        assert_eq!(read(&path, &key("2")), None);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read(&path, &key("1")), None, "cut at {length}");
        }
    }
}
