#!/usr/bin/env python3
"""Mutation testing of squizd-spec with one build for all mutants (docs/mutants.md).

    scripts/mutants.py WORK [--jobs N] [--only TEXT] [--again missed]

`cargo mutants` finds the mutants; mutants/ writes each as a branch that SQUIZD_MUTANT takes; those that have no
such branch, or do not compile as one, are applied and built one at a time. WORK keeps the copy of the tree, the
builds and the results, so that a second call goes on where the first stopped. Needs cargo-mutants, and nightly's
const_eval_select for constant functions (RUSTC_BOOTSTRAP, for this copy alone).
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "squizd-spec"
# Cheap ones first: the first that fails ends a mutant.
ORDER = ["squizd_spec", "toy", "spec_text", "appendices", "limits", "places", "compressed", "mapped", "verdicts", "structure", "allocation"]
SECONDS, MEMORY = 120, 8 << 30
ENVIRONMENT = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": "--cap-lints=allow"}

SWITCH = """
static MUTANT: std::sync::LazyLock<usize> =
    std::sync::LazyLock::new(|| std::env::var("SQUIZD_MUTANT").map_or(usize::MAX, |v| v.parse().unwrap()));
const fn no_mutant(_: usize) -> bool { false }
fn is_mutant(number: usize) -> bool { *MUTANT == number }
pub(crate) const fn mutant(number: usize) -> bool {
    core::intrinsics::const_eval_select((number,), no_mutant, is_mutant)
}
"""


def cargo(tree, *args, **env):
    return subprocess.run(["cargo", *args], cwd=tree, env={**os.environ, **env}, capture_output=True, text=True)


def copy_tree(tree):
    """Makes `tree` what git has here, touching no file that is the same."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        target, content = tree / name, (ROOT / name).read_bytes()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def errors(output):
    """(file, byte) of every error of a build, and the names of its programs."""
    found, programs, texts = [], {}, []
    for line in output.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            programs[message["target"]["name"]] = message["executable"]
        inner = message.get("message")
        if message.get("reason") == "compiler-message" and inner["level"] == "error":
            places = [(s["file_name"], s["byte_start"]) for s in inner["spans"] if s["is_primary"]]
            found.append(places)
            texts.append(inner["rendered"])
    return found, programs, texts


def one_build(work):
    """Builds the programs with all mutants that can be branches; their paths, and the numbers of those that cannot."""
    tree = work / "tree"
    env = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(work / "target")}
    left_out = work / "left-out.json"
    out = set(json.loads(left_out.read_text())) if left_out.exists() else set()
    listed = work / "mutants.json"
    while True:
        copy_tree(tree)
        left_out.write_text(json.dumps(sorted(out)))
        tool = ["run", "-q", "--manifest-path", f"{ROOT}/mutants/Cargo.toml", "--", listed, left_out, tree]
        written = cargo(ROOT, *map(str, tool), CARGO_TARGET_DIR=str(work / "tool"))
        if written.returncode:
            sys.exit(written.stderr)
        written = json.loads(written.stdout)
        lib = tree / PACKAGE / "src/lib.rs"
        text = lib.read_text()
        switch = "#![feature(core_intrinsics, const_eval_select)]\n#![allow(internal_features, unsafe_code)]\n"
        lib.write_text(text.replace("#![cfg_attr(", switch + "#![cfg_attr(", 1) + SWITCH)
        for form in (["check", "--lib"], ["test", "--no-run", "--lib", "--tests"]):
            built = cargo(tree, *form, "-p", PACKAGE, "--message-format=json", **env)
            found, programs, texts = errors(built.stdout)
            if built.returncode:
                break
        else:
            built = {"programs": programs, "alone": sorted(out | set(written["without"]))}
            (work / "built.json").write_text(json.dumps(built))
            return
        wrong = set()
        for file, byte in [place for places in found for place in places]:
            wrong |= {n for n, f, a, b in written["branches"] if f == file and a <= byte < b}
        print(f"{len(found)} errors, {len(wrong)} mutants that do not compile", flush=True)
        if not wrong:
            sys.exit("\n".join(texts)[:8000] or built.stderr)
        out |= wrong


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_programs(programs, folder, number=None):
    """What becomes of a mutant: `missed`, or how and by which program it was caught."""
    env = {k: v for k, v in os.environ.items() if k != "SQUIZD_MUTANT"}
    if number is not None:
        env["SQUIZD_MUTANT"] = str(number)
    for name in filter(programs.get, ORDER):
        try:
            done = subprocess.run([programs[name], "-q"], cwd=folder, env=env, preexec_fn=limits, timeout=SECONDS,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return "timeout", name
        if done.returncode:
            return "caught", name
    return "missed", None


def one_alone(work, mutant):
    """Applies one mutant as cargo-mutants does, builds, runs."""
    tree = work / "alone"
    copy_tree(tree)
    subprocess.run(["patch", "-s", "-p0"], cwd=tree, input=mutant["diff"], text=True, check=True)
    env = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(work / "target"), "CARGO_INCREMENTAL": "1"}
    if cargo(tree, "check", "--lib", "-p", PACKAGE, **env).returncode:
        return "unviable", None
    outcome = ("missed", None)
    # The unit tests alone build in half the time, and often suffice.
    for form in (["--lib"], ["--tests"]):
        built = cargo(tree, "test", "--no-run", *form, "-p", PACKAGE, "--message-format=json", **env)
        if built.returncode:
            return "unviable", None
        programs = errors(built.stdout)[1]
        outcome = run_programs(programs, tree / PACKAGE)
        if outcome[0] != "missed":
            break
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="mutants whose name has this text")
    parser.add_argument("--again", default="", help="runs those once more that ended so, e.g. missed")
    parser.add_argument("--built", action="store_true", help="with the programs of the call before")
    parser.add_argument("--branches-only", action="store_true", help="not those that need a build of their own")
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    listed = work / "mutants.json"
    if not listed.exists():
        listed.write_text(cargo(ROOT, "mutants", "--list", "--json", "-p", PACKAGE).stdout)
    mutants = json.loads(listed.read_text())
    if not given.built:
        one_build(work)
    built = json.loads((work / "built.json").read_text())
    programs, alone = built["programs"], set(built["alone"])
    print(f"{len(mutants)} mutants, {len(alone)} of them without a branch", flush=True)
    if run_programs(programs, work / "tree" / PACKAGE)[0] != "missed":
        sys.exit("the tests fail without a mutant")

    results = work / "results.jsonl"
    known = {}
    if results.exists():
        known = {r["name"]: r for r in map(json.loads, results.read_text().splitlines())}
    left = [(n, m) for n, m in enumerate(mutants) if given.only in m["name"]]
    left = [(n, m) for n, m in left if m["name"] not in known or known[m["name"]]["result"] == given.again]
    started = time.monotonic()

    def keep(number, outcome):
        record = {"name": mutants[number]["name"], "number": number, "result": outcome[0], "by": outcome[1]}
        known[record["name"]] = record
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")

    with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        folder = work / "tree" / PACKAGE
        futures = {pool.submit(run_programs, programs, folder, n): n for n, _ in left if n not in alone}
        for future in concurrent.futures.as_completed(futures):
            keep(futures[future], future.result())
    for n, mutant in left:
        if n in alone and not given.branches_only:
            keep(n, one_alone(work, mutant))
    print(f"{len(left)} mutants in {time.monotonic() - started:.0f} s")
    for result in ("caught", "timeout", "missed", "unviable"):
        names = sorted(r["name"] for r in known.values() if r["result"] == result)
        (work / f"{result}.txt").write_text("".join(n + "\n" for n in names))
        print(f"{result:>9} {len(names)}")


if __name__ == "__main__":
    main()
