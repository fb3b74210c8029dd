//! `squizd validate FILE`.

use crate::{Exit, Failure, output};
use serde_json::json;
use squizd_spec::{Level, Limits, SquizdError};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// File to check
    file: PathBuf,
    /// How deep to look
    #[arg(long, value_enum, default_value_t = Depth::Hash)]
    level: Depth,
    /// Print findings as JSON
    #[arg(long)]
    json: bool,
    /// Read the file into memory instead of mapping it (safe against changes meanwhile)
    #[arg(long)]
    in_memory: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Depth {
    /// Header, tables and their digests; reads no payload
    Structure,
    /// Also every SHA-256 and all padding
    Hash,
    /// Also every payload's codes and scales
    Decode,
    /// Also every decoded weight
    Numerics,
}

impl Depth {
    fn level(self) -> Level {
        match self {
            Self::Structure => Level::Structure,
            Self::Hash => Level::Hash,
            Self::Decode => Level::Decode,
            Self::Numerics => Level::Numerics,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Hash => "hash",
            Self::Decode => "decode",
            Self::Numerics => "numerics",
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let bytes = super::open(&args.file, args.in_memory)?;
    let findings = squizd::validate::validate(&bytes, &Limits::DEFAULT, args.level.level());
    bytes.recheck()?;
    let exit = verdict(&findings);
    let file = args.file.display().to_string();
    if args.json {
        let list: Vec<_> = findings.iter().map(to_json).collect();
        output::json(&json!({
            "file": file,
            "level": args.level.name(),
            "valid": exit == Exit::Done,
            "findings": list,
        }))?;
        return Ok(exit);
    }
    for finding in &findings {
        output::line(finding)?;
    }
    let level = args.level.name();
    output::line(match exit {
        Exit::Done => format!("{file}: valid ({level}, {})", output::bytes(bytes.len() as u64)),
        Exit::Unsupported => format!("{file}: uses something this build does not know ({level})"),
        _ => format!("{file}: INVALID, {} finding(s) at level {level}", findings.len()),
    })?;
    Ok(exit)
}

/// Any violation makes the file invalid; otherwise anything unknown makes it unsupported.
fn verdict(findings: &[SquizdError]) -> Exit {
    let exits: Vec<Exit> = findings.iter().map(Exit::from).collect();
    [Exit::Negative, Exit::Usage, Exit::Unsupported]
        .into_iter()
        .find(|e| exits.contains(e))
        .unwrap_or(Exit::Done)
}

fn to_json(e: &SquizdError) -> serde_json::Value {
    json!({ "code": e.code().0, "offset": e.offset(), "path": e.context(), "message": e.message() })
}
