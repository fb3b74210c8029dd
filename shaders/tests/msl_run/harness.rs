//! Compiles the generated kernels as C++ and runs them on the CPU.

use squizd_shaders::msl::{Checks, IMMEDIATES, Metal, SIZES, generate, shipped};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// All kernels of `shaders/msl/` in one program, by their file's stem.
pub(crate) struct Program {
    path: PathBuf,
    kernels: BTreeMap<String, Metal>,
}

/// The program, or nothing where there is no C++ compiler, which is a failure
/// where `SQUIZD_REQUIRE` names `msl`.
pub(crate) fn program() -> Option<&'static Program> {
    static PROGRAM: OnceLock<Option<Program>> = OnceLock::new();
    PROGRAM.get_or_init(build).as_ref()
}

fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    let candidates = named.into_iter().chain(["g++", "c++", "clang++"].map(str::to_owned));
    let found = candidates.into_iter().find(|c| {
        let version = Command::new(c).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|s| s.success())
    });
    if found.is_none() {
        let required = std::env::var("SQUIZD_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r == "msl"), "msl is required and there is no C++ compiler");
        eprintln!("skipped: no C++ compiler");
    }
    found
}

fn build() -> Option<Program> {
    let compiler = compiler()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("msl");
    std::fs::create_dir_all(&folder).unwrap();
    let mut text = "#include \"run.h\"\n".to_owned();
    let mut table = String::new();
    let mut kernels = BTreeMap::new();
    for shipped in shipped() {
        let metal = generate(shipped.kernel, &shipped.options, Checks::Restrict).unwrap();
        let stem = &shipped.stem;
        let file = root.join("msl").join(format!("{stem}.metal"));
        let arguments = arguments(&metal.source).join(", ");
        writeln!(text, "namespace k_{stem} {{\n#include \"{}\"", file.display()).unwrap();
        writeln!(text, "void call(const Call &c, const Thread &t) {{ main_({arguments}); }}\n}}").unwrap();
        writeln!(table, "  if (name == {stem:?}) return serve(k_{stem}::call);").unwrap();
        kernels.insert(shipped.stem, metal);
    }
    writeln!(
        text,
        "int main(int, char **argv) {{\n  std::string name = argv[1];\n{table}  fail(\"no kernel\");\n}}"
    )
    .unwrap();
    let (source, path) = (folder.join("kernels.cpp"), folder.join("kernels"));
    std::fs::write(&source, text).unwrap();
    let mut command = Command::new(&compiler);
    // Without optimisation: arrays without a length are declared with one of 1.
    command.args(["-std=c++20", "-O0", "-Wall", "-Wno-attributes", "-Wno-unknown-attributes"]);
    command
        .args([
            "-Wno-unused",
            "-Wno-literal-suffix",
            "-Wno-user-defined-literals",
            "-Wno-unknown-warning-option",
            "-Werror",
        ])
        .arg("-I")
        .arg(root.join("tests/metal"));
    let output = command.arg("-o").arg(&path).arg(&source).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler}:\n{}", errors.chars().take(6000).collect::<String>());
    Some(Program { path, kernels })
}

/// What the kernel's parameters are given, from the attributes they bear.
fn arguments(source: &str) -> Vec<String> {
    let (_, rest) = source.split_once("kernel void main_(").expect("an entry");
    let (parameters, _) = rest.split_once(") {").expect("its end");
    let mut local = 0;
    let argument = |line: &str| {
        let line = line.trim().trim_start_matches(", ");
        let attribute = line.split_once("[[").map(|(_, a)| a.trim_end_matches("]]"));
        match attribute {
            Some("threadgroup_position_in_grid") => "t.group".to_owned(),
            Some("threadgroups_per_grid") => "t.groups".to_owned(),
            Some("thread_index_in_threadgroup") => "t.index".to_owned(),
            Some("thread_index_in_simdgroup") => "t.lane".to_owned(),
            Some("simdgroup_index_in_threadgroup") => "t.subgroup".to_owned(),
            Some("threads_per_simdgroup") => "t.subgroup_size".to_owned(),
            Some("simdgroups_per_threadgroup") => "t.subgroups".to_owned(),
            Some(bound) if bound.starts_with("buffer(") || bound.starts_with("texture(") => {
                let slot = bound.split_once('(').map_or("", |(_, slot)| slot.trim_end_matches(')'));
                format!("c.buffers[{slot}]")
            }
            None if line.starts_with("threadgroup ") => {
                local += 1;
                format!("c.local[{}]", local - 1)
            }
            _ => panic!("a parameter {line:?}"),
        }
    };
    parameters.trim().lines().map(argument).collect()
}

/// Bytes bound at slots.
pub(crate) type Buffers = BTreeMap<u8, Vec<u8>>;

impl Program {
    /// Runs `grid` threadgroups of a kernel with subgroups of `subgroup`
    /// threads; `numbers` are its immediate data. Returns the buffers afterwards.
    pub(crate) fn run(
        &self,
        stem: &str,
        subgroup: u32,
        grid: [u32; 3],
        numbers: &[u32],
        buffers: &Buffers,
    ) -> Buffers {
        let metal = self.kernels.get(stem).unwrap_or_else(|| panic!("no kernel {stem}"));
        let mut all = buffers.clone();
        for buffer in &metal.buffers {
            assert!(all.contains_key(&buffer.slot), "{stem}: nothing is bound to {}", buffer.name);
        }
        let sizes = metal.sizes.iter().map(|slot| all.get(slot).map_or(0, |b| b.len() as u32));
        let sizes = sizes.flat_map(u32::to_le_bytes).collect();
        let numbers: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(numbers.len(), metal.immediates as usize, "{stem}: bytes of numbers");
        all.insert(IMMEDIATES, numbers);
        all.insert(SIZES, sizes);
        let mut job: Vec<u8> = [metal.threads, subgroup, grid[0], grid[1], grid[2]]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        let lengths = (0..16).map(|slot| all.get(&slot).map_or(0, Vec::len));
        for (slot, length) in lengths.clone().enumerate() {
            job.extend((length as u32).to_le_bytes());
            job.extend(all.get(&(slot as u8)).into_iter().flatten());
        }
        for i in 0..16 {
            job.extend(metal.threadgroup_memory.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        let mut child =
            Command::new(&self.path).arg(stem).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || input.write_all(&job));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{stem}: {}", output.status);
        writer.join().unwrap().unwrap();
        let mut rest = output.stdout.as_slice();
        let mut after = Buffers::new();
        for (slot, length) in lengths.enumerate() {
            let (bytes, tail) = rest.split_at(length);
            after.insert(slot as u8, bytes.to_vec());
            rest = tail;
        }
        for buffer in metal.buffers.iter().filter(|b| !b.write) {
            assert_eq!(after.get(&buffer.slot), all.get(&buffer.slot), "{stem} wrote {}", buffer.name);
        }
        after
    }
}

/// The bytes of floats.
pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Floats from bytes.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
