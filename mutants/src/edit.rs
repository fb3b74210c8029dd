//! Insertions into a text, each perhaps belonging to a mutant.

use std::{collections::BTreeMap, ops::Range};

/// Something to insert.
pub struct Piece {
    text: String,
    mutant: Option<usize>,
}

impl Piece {
    /// Text that every mutant shares.
    pub fn shared(text: impl Into<String>) -> Self {
        Self { text: text.into(), mutant: None }
    }

    /// Text that only runs as this mutant.
    pub fn of(mutant: usize, text: impl Into<String>) -> Self {
        Self { text: text.into(), mutant: Some(mutant) }
    }
}

/// A text and what is inserted into it.
pub struct Edits<'a> {
    text: &'a str,
    lines: Vec<usize>,
    /// What closes an expression before a place, innermost first, and what
    /// opens one after it, outermost first.
    closing: BTreeMap<usize, Vec<Piece>>,
    opening: BTreeMap<usize, Vec<Piece>>,
    removed: BTreeMap<usize, usize>,
}

impl<'a> Edits<'a> {
    /// Nothing inserted yet.
    pub fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, lines, closing: BTreeMap::new(), opening: BTreeMap::new(), removed: BTreeMap::new() }
    }

    /// Byte of a line (from 1) and column in characters (from 0).
    pub fn byte(&self, line: usize, column: usize) -> usize {
        let start = self.lines[line - 1];
        start + self.text[start..].chars().take(column).map(char::len_utf8).sum::<usize>()
    }

    /// The text of these bytes.
    pub fn source(&self, range: &Range<usize>) -> &'a str {
        &self.text[range.clone()]
    }

    /// Begins something at `at`; what is inserted later there lies within it.
    pub fn open(&mut self, at: usize, pieces: Vec<Piece>) {
        self.opening.entry(at).or_default().extend(pieces);
    }

    /// Ends something at `at`; what is inserted later there lies around it,
    /// if expressions are visited from the innermost to the outermost.
    pub fn close(&mut self, at: usize, pieces: Vec<Piece>) {
        self.closing.entry(at).or_default().extend(pieces);
    }

    /// Puts `pieces` in the place of these bytes.
    pub fn replace(&mut self, range: &Range<usize>, pieces: Vec<Piece>) {
        self.removed.insert(range.start, range.end);
        self.open(range.start, pieces);
    }

    /// The new text, and where each mutant's pieces lie in it.
    pub fn finish(self) -> (String, Vec<(usize, Range<usize>)>) {
        let (mut out, mut places) = (String::new(), Vec::new());
        let mut stops: Vec<usize> = self.closing.keys().chain(self.opening.keys()).copied().collect();
        stops.sort_unstable();
        stops.dedup();
        let mut from = 0;
        for stop in stops {
            out.push_str(&self.text[from.min(stop)..stop]);
            let before = self.closing.get(&stop).into_iter().flatten();
            for piece in before.chain(self.opening.get(&stop).into_iter().flatten()) {
                let start = out.len();
                out.push_str(&piece.text);
                places.extend(piece.mutant.map(|number| (number, start..out.len())));
            }
            from = self.removed.get(&stop).copied().unwrap_or(stop);
        }
        out.push_str(&self.text[from..]);
        (out, places)
    }
}
