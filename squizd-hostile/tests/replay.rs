//! The fuzz targets under `cargo test`: seeds, regressions, and a bounded run
//! of random mutations. `SQUIZD_FUZZ_SECONDS` sets the time of all targets
//! together (default 6), `SQUIZD_FUZZ_SEED` the sequence, `SQUIZD_FUZZ_TARGET`
//! one target alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use squizd_hostile::{
    corpus::Corpus,
    mutate::{Random, mutate},
    targets::{TARGETS, Target},
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// Runs one input. One that fails is saved, and its beginning printed, for
/// machines whose files are lost.
fn run(target: &Target, input: &[u8], which: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path = std::env::temp_dir().join(format!("squizd-fuzz-{}-{}", target.name, std::process::id()));
        fs::write(&path, input).unwrap();
        panic!(
            "target {name} fails on {which}, {bytes} bytes, saved as {}: add it to fuzz/regressions/{name}; it begins {}",
            path.display(),
            input.get(..2048).unwrap_or(input).escape_ascii(),
            name = target.name,
            bytes = input.len(),
        );
    }
}

#[test]
fn every_target_has_its_file_and_seeds() {
    let corpus = Corpus::load().unwrap();
    for target in TARGETS {
        let path = fuzz_folder().join(format!("fuzz_targets/{}.rs", target.name));
        assert!(path.exists(), "{}", path.display());
        assert!((target.seeds)(&corpus).len() >= 2, "{} has no seeds", target.name);
    }
    let files = fs::read_dir(fuzz_folder().join("fuzz_targets")).unwrap().count();
    assert_eq!(files, TARGETS.len());
}

#[test]
fn seeds_and_regressions() {
    let corpus = Corpus::load().unwrap();
    for target in TARGETS {
        for seed in (target.seeds)(&corpus) {
            run(target, &seed, "a seed");
        }
        let folder = fuzz_folder().join("regressions").join(target.name);
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            run(target, &fs::read(&path).unwrap(), &path.display().to_string());
        }
    }
}

#[test]
fn random_mutations() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is {v}")))
    };
    let corpus = Corpus::load().unwrap();
    let only = std::env::var("SQUIZD_FUZZ_TARGET").ok();
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|t| only.as_ref().is_none_or(|name| name == t.name)).collect();
    let each = Duration::from_secs(number("SQUIZD_FUZZ_SECONDS", 6)) / chosen.len().max(1) as u32;
    let seed = number("SQUIZD_FUZZ_SEED", 20_261_123);
    for target in chosen {
        let seeds = (target.seeds)(&corpus);
        let mut random = Random::new(seed);
        let (started, mut runs) = (Instant::now(), 0u64);
        while started.elapsed() < each {
            let one = &seeds[random.below(seeds.len())];
            let other = &seeds[random.below(seeds.len())];
            runs += 1;
            run(target, &mutate(one, other, &mut random), &format!("run {runs} of seed {seed}"));
        }
        eprintln!("{:>14}: {runs} runs in {:.1} s", target.name, started.elapsed().as_secs_f64());
    }
}

/// Writes all seeds into folders for libFuzzer (scripts/fuzz.sh).
#[test]
#[ignore = "writes files: scripts/fuzz.sh asks for it"]
fn write_seeds() {
    let Some(folder) = std::env::var_os("SQUIZD_SEEDS").map(PathBuf::from) else { return };
    let corpus = Corpus::load().unwrap();
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (i, seed) in (target.seeds)(&corpus).iter().enumerate() {
            fs::write(folder.join(format!("{i:05}")), seed).unwrap();
        }
    }
}
