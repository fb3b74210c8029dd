//! `fixtures/hostile/corpus.json`: recipes of files that must be refused.

use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// One part of a file; the file is their concatenation.
#[derive(Clone, Debug)]
enum Piece {
    /// Bytes of the base file.
    Base(usize, usize),
    /// Zero bytes.
    Zero(usize),
    /// A text, so many times.
    Repeated(usize, String),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let parts = Vec::<serde_json::Value>::deserialize(d)?;
        let number = |i: usize| parts.get(i).and_then(serde_json::Value::as_u64).map(|n| n as usize);
        let text = |i: usize| parts.get(i).and_then(serde_json::Value::as_str).map(str::to_owned);
        let piece = match text(0).as_deref() {
            Some("base") => number(1).zip(number(2)).map(|(a, b)| Self::Base(a, b)),
            Some("zero") => number(1).map(Self::Zero),
            Some("rep") => number(1).zip(text(2)).map(|(n, t)| Self::Repeated(n, t)),
            Some("text") => text(1).map(|t| Self::Bytes(t.into_bytes())),
            Some("hex") => text(1).and_then(|t| unhex(&t)).map(Self::Bytes),
            _ => None,
        };
        piece.ok_or_else(|| D::Error::custom(format!("not a piece: {parts:?}")))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

/// How one file is made.
#[derive(Clone, Debug, Deserialize)]
struct Recipe {
    #[serde(default)]
    base: Option<String>,
    /// A file of `fixtures/`, instead of pieces.
    #[serde(default)]
    file: Option<String>,
    #[serde(default, rename = "recipe")]
    pieces: Vec<Piece>,
}

/// What a reader must answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Expect {
    /// The check that finds it: `parse`, `root`, `hash`, `metadata`, `decode`,
    /// `numerics`, `load` (.squizd); `read` (one file), `open` (a model).
    pub level: String,
    /// Finding code, where the corpus states one.
    #[serde(default)]
    pub code: Option<String>,
    /// Absolute byte offset of the field at fault: `None` where unstated,
    /// `Some(None)` where there is none to state.
    #[serde(default, deserialize_with = "stated")]
    pub offset: Option<Option<u64>>,
    /// What the error's text must name.
    pub field: String,
    /// `invalid`, `unsupported`, `limit` or `truncated`.
    pub kind: String,
    /// Everything that the independent reader finds, `code@offset`, sorted.
    #[serde(default)]
    pub findings: Vec<String>,
}

#[allow(clippy::option_option, reason = "null says that there is no offset, absence that none is stated")]
fn stated<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(d).map(Some)
}

impl Expect {
    /// The command line's exit code for this kind.
    pub fn exit(&self) -> i32 {
        if self.kind == "unsupported" { 3 } else { 1 }
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Entry {
    id: String,
    class: u32,
    expect: Expect,
    #[serde(flatten)]
    file: Recipe,
    #[serde(default)]
    files: BTreeMap<String, Recipe>,
    #[serde(default)]
    open: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Table {
    bases: BTreeMap<String, Recipe>,
    cases: Vec<Entry>,
}

/// One hostile file, or a folder of files.
#[derive(Clone, Debug)]
pub struct Case {
    /// `target/name`.
    pub id: String,
    /// Number in the list of reject classes (`fixtures/hostile/README.md`).
    pub class: u32,
    /// What a reader must answer.
    pub expect: Expect,
    /// The file, or the folder's files.
    pub input: Input,
}

/// Bytes of a case.
#[derive(Clone, Debug)]
pub enum Input {
    /// One file.
    File(Vec<u8>),
    /// Files by name, and which of them (or `.`) is opened.
    Folder(BTreeMap<String, Vec<u8>>, String),
}

impl Case {
    /// `squizd`, `gguf`, `safetensors`, `index`, `config`, `folder`,
    /// `tokenizer` or `template`.
    pub fn target(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }

    /// The file's bytes; empty for a folder.
    pub fn bytes(&self) -> &[u8] {
        match &self.input {
            Input::File(bytes) => bytes,
            Input::Folder(..) => &[],
        }
    }
}

/// The corpus: valid files by name, and the cases.
#[derive(Debug)]
pub struct Corpus {
    /// Valid files that the cases are made from.
    pub bases: BTreeMap<String, Vec<u8>>,
    /// The hostile files.
    pub cases: Vec<Case>,
}

/// The repository's `fixtures` folder.
pub fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures"))
}

impl Corpus {
    /// Reads `fixtures/hostile/corpus.json`.
    ///
    /// # Errors
    /// Text for a person: what could not be read or made.
    pub fn load() -> Result<Self, String> {
        let path = fixtures().join("hostile/corpus.json");
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let table: Table = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut bases = BTreeMap::new();
        // First those that need no other.
        for second in [false, true] {
            for (name, recipe) in table.bases.iter().filter(|(_, r)| r.base.is_some() == second) {
                let bytes = recipe.make(&bases)?;
                bases.insert(name.clone(), bytes);
            }
        }
        let cases = table.cases.into_iter().map(|e| e.make(&bases)).collect::<Result<_, _>>()?;
        Ok(Self { bases, cases })
    }

    /// Cases of one target.
    pub fn of(&self, target: &'static str) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |c| c.target() == target)
    }
}

impl Recipe {
    fn make(&self, bases: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, String> {
        if let Some(file) = &self.file {
            return fs::read(fixtures().join(file)).map_err(|e| format!("{file}: {e}"));
        }
        let base = match &self.base {
            Some(name) => bases.get(name).ok_or_else(|| format!("no base {name}"))?.as_slice(),
            None => &[],
        };
        let mut out = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Base(a, b) => {
                    out.extend(base.get(*a..*b).ok_or_else(|| format!("base has no bytes {a}..{b}"))?);
                }
                Piece::Zero(n) => out.resize(out.len() + n, 0),
                Piece::Repeated(n, text) => out.extend(text.repeat(*n).as_bytes()),
                Piece::Bytes(bytes) => out.extend(bytes),
            }
        }
        Ok(out)
    }
}

impl Entry {
    fn make(self, bases: &BTreeMap<String, Vec<u8>>) -> Result<Case, String> {
        let input = match self.open {
            Some(open) => {
                let made = |(name, r): (&String, &Recipe)| Ok((name.clone(), r.make(bases)?));
                Input::Folder(self.files.iter().map(made).collect::<Result<_, String>>()?, open)
            }
            None => Input::File(self.file.make(bases).map_err(|e| format!("{}: {e}", self.id))?),
        };
        Ok(Case { id: self.id, class: self.class, expect: self.expect, input })
    }
}
