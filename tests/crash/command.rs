//! The same from outside: signals, full disks, limits, other writers.

use super::{files_in, text, tiny, whole};
use squizd::writer::{AtomicFile, unfinished};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const SQUIZD: &str = env!("CARGO_BIN_EXE_squizd");

fn convert(target: &Path, extra: &[&str]) -> Output {
    let mut command = Command::new(SQUIZD);
    command.args(["convert", text(&tiny()), "-o", text(target), "-q"]).args(extra).output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn asked_to_end_it_names_the_work_and_goes_on_with_it() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("m.squizd");
        // The slowest codec, on one thread.
        let args = ["--codec", "sqint2", "--resume", "--threads", "1"];
        let mut child = Command::new(SQUIZD)
            .args(["convert", text(&tiny()), "-o", text(&target), "-q"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while unfinished(&target).is_none()
            && child.try_wait().unwrap().is_none()
            && started.elapsed() < Duration::from_mins(1)
        {
            std::thread::yield_now();
        }
        let pid = child.id().to_string();
        Command::new("kill").args([signal, &pid]).stderr(Stdio::null()).status().unwrap();
        let out = child.wait_with_output().unwrap();
        if out.status.success() {
            continue;
        }
        assert_eq!(out.status.code(), Some(130), "{signal}: {}", stderr(&out));
        assert!(stderr(&out).contains("tensors are kept in"), "{}", stderr(&out));
        assert_eq!(files_in(folder.path()), ["m.squizd.part", "m.squizd.part.journal"]);
        let refused = convert(&target, &["--codec", "sqint2"]);
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("go on with --resume"), "{}", stderr(&refused));
        let resumed = convert(&target, &args);
        assert!(resumed.status.success(), "{}", stderr(&resumed));
        assert!(String::from_utf8_lossy(&resumed.stdout).contains("went on after"));
        assert_eq!(files_in(folder.path()), ["m.squizd"]);
    }
}

#[test]
fn a_file_size_limit_is_an_error_and_no_signal_where_it_is_ignored() {
    let (expected, _) = whole();
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    let script = "trap '' XFSZ; ulimit -f 300; exec \"$0\" convert \"$1\" -o \"$2\" -q --codec int4";
    let out =
        Command::new("bash").args(["-c", script, SQUIZD, text(&tiny()), text(&target)]).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    assert!(stderr(&out).contains("File too large") && stderr(&out).contains("--resume"), "{}", stderr(&out));
    assert_eq!(files_in(folder.path()), ["m.squizd.part", "m.squizd.part.journal"]);
    let resumed = convert(&target, &["--codec", "int4", "--resume"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert!(fs::read(&target).unwrap() == expected);
}

/// Runs a script as root of its own mounts, where the machine allows that.
fn with_mounts(script: &str, folder: &Path) -> Option<Output> {
    let unshared = |script: &str| {
        Command::new("unshare")
            .args(["-rm", "bash", "-euc", script, SQUIZD, text(&tiny()), text(folder)])
            .output()
            .ok()
    };
    if !unshared("mount -t tmpfs tmpfs \"$2\"").is_some_and(|out| out.status.success()) {
        eprintln!("skipped: no file systems can be mounted here");
        return None;
    }
    unshared(script)
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("at");
    fs::create_dir(&at).unwrap();
    let whole = folder.path().join("whole.squizd");
    assert!(convert(&whole, &["--codec", "sqint2"]).status.success());
    // The free space is looked at beforehand, so the disk is filled afterwards,
    // once the journal is begun. A conversion may be quicker than that.
    let script = r#"
        mount -t tmpfs -o size=4m tmpfs "$2"
        "$0" convert "$1" -o "$2/m.squizd" -q --codec sqint2 --threads 1 >/dev/null & pid=$!
        until [ -s "$2/m.squizd.part.journal" ] || ! kill -0 $pid 2>/dev/null; do :; done
        head -c 16m /dev/zero >"$2/fill" 2>/dev/null || true
        code=0; wait $pid || code=$?
        echo "full: $code"
        code=0; "$0" convert "$1" -o "$2/m.squizd" -q --codec sqint2 --resume >/dev/null || code=$?
        echo "still full: $code"
        rm "$2/fill"
        "$0" convert "$1" -o "$2/m.squizd" -q --codec sqint2 --resume >/dev/null
        sha256sum <"$2/m.squizd"
        mount -o remount,ro "$2"
        code=0; "$0" convert "$1" -o "$2/m.squizd" -q --codec q8 || code=$?
        echo "read-only: $code"
        sha256sum <"$2/m.squizd"; ls "$2"
    "#;
    let Some(out) = with_mounts(script, &at) else { return };
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{stdout}{}", stderr(&out));
    let digest = squizd_spec::Hex(&squizd_spec::digest::sha256(&fs::read(whole).unwrap())).to_string();
    let full = stdout.contains("full: 2\nstill full: 2\n");
    assert!(full || stdout.contains("full: 0\n"), "{stdout}{}", stderr(&out));
    assert!(stdout.contains("read-only: 2\n"), "{stdout}");
    assert!(stderr(&out).contains("Read-only file system"), "{}", stderr(&out));
    assert_eq!(stdout.matches(&digest).count(), 2, "{stdout}");
    assert!(stdout.ends_with("\nm.squizd\n"), "{stdout}");
}

#[test]
fn every_kind_of_write_that_fails_leaves_old_file_and_work() {
    let traced = |inject: &str, args: &[&str]| {
        let filter = format!("inject={inject}");
        Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", &filter]).args(args).output().ok()
    };
    if !traced("fsync:error=EIO", &["true"]).is_some_and(|out| out.status.success()) {
        eprintln!("skipped: strace is not installed, or may not trace here");
        return;
    }
    let (expected, _) = whole();
    for (inject, says) in [
        ("pwrite64:error=ENOSPC:when=20+", "No space left on device"),
        ("pwrite64:error=EIO:when=25", "Input/output error"),
        ("pread64:error=EIO:when=25+", "Input/output error"),
        ("ftruncate:error=EFBIG:when=20", "File too large"),
        ("fsync:error=EIO:when=1", "Input/output error"),
        ("/^rename:error=EIO", "Input/output error"),
    ] {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("m.squizd");
        fs::write(&target, "SQZD of old").unwrap();
        let source = tiny();
        let args = ["convert", text(&source), "-o", text(&target), "-q", "--threads", "1"];
        let out = traced(inject, &[&[SQUIZD][..], &args].concat()).unwrap();
        assert_eq!(out.status.code(), Some(2), "{inject}: {}", stderr(&out));
        assert!(stderr(&out).contains(says), "{inject}: {}", stderr(&out));
        assert_eq!(fs::read(&target).unwrap(), b"SQZD of old", "{inject}");
        let work = unfinished(&target);
        let left = if work.is_some() { 3 } else { 1 };
        assert_eq!(files_in(folder.path()).len(), left, "{inject}: {:?}", files_in(folder.path()));
        assert!(work.is_none() || stderr(&out).contains("--resume"), "{inject}: {}", stderr(&out));
        let resumed = convert(&target, &["--resume"]);
        assert!(resumed.status.success(), "{inject}: {}", stderr(&resumed));
        assert!(fs::read(&target).unwrap() == expected, "{inject}");
        assert_eq!(files_in(folder.path()), ["m.squizd"], "{inject}");
    }
}

#[test]
fn one_writer_at_a_time() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    let held = AtomicFile::create(&target).unwrap();
    for extra in [&["--codec", "raw"][..], &["--codec", "raw", "--resume"]] {
        let out = convert(&target, extra);
        assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
        assert!(stderr(&out).contains("another process is writing"), "{}", stderr(&out));
    }
    drop(held);
    assert!(convert(&target, &["--codec", "raw"]).status.success());
    assert_eq!(files_in(folder.path()), ["m.squizd"]);
}

#[test]
fn somebody_elses_part_file_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("m.squizd");
    let part = folder.path().join("m.squizd.part");
    fs::write(&part, "a browser's download").unwrap();
    for extra in [&["--codec", "raw"][..], &["--codec", "raw", "--resume"]] {
        let out = convert(&target, extra);
        assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
        assert!(stderr(&out).contains("is in the way"), "{}", stderr(&out));
        assert_eq!(fs::read_to_string(&part).unwrap(), "a browser's download");
    }
    fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink("elsewhere", &part).unwrap();
    let out = convert(&target, &["--codec", "raw"]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    assert_eq!(files_in(folder.path()), ["m.squizd.part"]);
}

/// A file cut short under its mapping ends the process with a message; read
/// into memory it is not needed any more.
#[cfg(target_os = "linux")]
#[test]
fn a_mapped_file_cut_short() {
    use std::io::Write;
    for in_memory in [false, true] {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("m.squizd");
        assert!(convert(&model, &["--codec", "raw"]).status.success());
        // The command waits for its prompt once the model is open.
        let prompt = folder.path().join("prompt");
        assert!(Command::new("mkfifo").arg(&prompt).status().unwrap().success());
        let child = Command::new(SQUIZD)
            .args(["run", text(&model), "--prompt-file", text(&prompt), "-n", "1"])
            .args(in_memory.then_some("--in-memory"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = fs::OpenOptions::new().write(true).open(&prompt).unwrap();
        fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(4096).unwrap();
        pipe.write_all(b"Once upon a time").unwrap();
        drop(pipe);
        let out = child.wait_with_output().unwrap();
        if in_memory {
            assert!(out.status.success(), "{}", stderr(&out));
        } else {
            assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
            assert!(
                stderr(&out).contains("SIGBUS") && stderr(&out).contains("--in-memory"),
                "{}",
                stderr(&out)
            );
        }
    }
}
