//! Compiles many mutants into one program: each becomes a branch that
//! `SQUIZD_MUTANT=NUMBER` takes, so that one build serves them all.
//!
//!     squizd-mutants MUTANTS.json LEFT-OUT.json TREE
//!
//! reads what `cargo mutants --list --json` found, and rewrites the files of
//! TREE (a copy!) in place; prints, as JSON, where each mutant's branch lies
//! (`[number, file, first byte, end]`) and which have none. A mutant's number
//! is its place in the list; those of LEFT-OUT are not written.

mod edit;
mod find;

use edit::Edits;
use serde_json::{Value, json};
use std::{collections::BTreeMap, error::Error, fs, path::Path};

/// One entry of the list.
pub struct Mutant {
    /// Place in the list.
    pub number: usize,
    /// Kind of change.
    pub genre: String,
    /// Line and column, from 1, of what is replaced.
    pub start: (usize, usize),
    /// What takes its place.
    pub replacement: String,
}

fn mutant(number: usize, entry: &Value) -> Option<(String, Mutant)> {
    let place = |key: &str| entry["span"]["start"][key].as_u64().map(|n| n as usize);
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let start = (place("line")?, place("column")?);
    let mutant = Mutant { number, genre: text("genre")?, start, replacement: text("replacement")? };
    Some((text("file")?, mutant))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, list, left_out, tree] = arguments.as_slice() else {
        return Err("usage: squizd-mutants MUTANTS.json LEFT-OUT.json TREE".into());
    };
    let list: Vec<Value> = serde_json::from_slice(&fs::read(list)?)?;
    let left_out: Vec<usize> = serde_json::from_slice(&fs::read(left_out)?)?;
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for (number, entry) in list.iter().enumerate().filter(|(n, _)| !left_out.contains(n)) {
        let (file, mutant) = mutant(number, entry).ok_or("not an entry of cargo-mutants' list")?;
        files.entry(file).or_default().push(mutant);
    }
    let (mut branches, mut without) = (Vec::new(), Vec::new());
    for (file, mutants) in files {
        let path = Path::new(tree).join(&file);
        let text = fs::read_to_string(&path)?;
        let mut edits = Edits::new(&text);
        without.extend(find::write(&text, &mutants, &mut edits)?);
        let (text, places) = edits.finish();
        fs::write(&path, text)?;
        branches
            .extend(places.into_iter().map(|(number, range)| json!([number, file, range.start, range.end])));
    }
    println!("{}", json!({ "branches": branches, "without": without }));
    Ok(())
}
