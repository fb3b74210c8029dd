//! Stop strings in text that comes piece by piece.

use crate::{Error, Result};

/// Most stop strings.
const MAX_STOPS: usize = 16;
/// Longest stop string, in bytes.
const MAX_BYTES: usize = 1024;

/// Ends a text at the first stop string, which is not part of it.
///
/// Text that may be the beginning of a stop string is kept back until what
/// follows decides, so the result does not depend on how the text was cut into
/// pieces. The stop string that is complete first wins; of several that end at
/// the same character, the longest.
///
/// ```
/// use squizd::text::StopMatcher;
/// let mut stops = StopMatcher::new(["\nUser:"])?;
/// let mut text = String::new();
/// assert!(!stops.push("Hello.\nUs", &mut text));
/// assert_eq!(text, "Hello.");
/// assert!(stops.push("er: and", &mut text));
/// assert_eq!(text, "Hello.");
/// # Ok::<(), squizd::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// The end of the text so far that some pattern begins with.
    held: String,
}

/// One stop string under Knuth, Morris and Pratt's search (SIAM J. Comput. 6, 1977).
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `border[i]`: length of the longest proper prefix of `bytes` that is a
    /// suffix of `bytes[..=i]`.
    border: Vec<usize>,
    /// Bytes of the pattern that the text so far ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut pattern = Self { border: Vec::with_capacity(bytes.len()), bytes, matched: 0 };
        for i in 0..pattern.bytes.len() {
            if i > 0 {
                pattern.advance(pattern.bytes[i]);
            }
            pattern.border.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    /// Takes one byte of text.
    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.border.get(self.matched - 1).copied().unwrap_or(0);
        }
        if self.bytes.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.matched == self.bytes.len()
    }
}

impl StopMatcher {
    /// A matcher of any of `stops`.
    ///
    /// # Errors
    /// If there are more than 16, or one is empty or longer than 1024 bytes.
    pub fn new(stops: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        let mut patterns = Vec::new();
        for stop in stops {
            let stop = stop.as_ref();
            if stop.is_empty() || stop.len() > MAX_BYTES {
                return Err(Error::invalid(format!(
                    "stop string {} has {} bytes, allowed: 1 to {MAX_BYTES}",
                    patterns.len(),
                    stop.len()
                )));
            }
            if patterns.len() == MAX_STOPS {
                return Err(Error::invalid(format!("more than {MAX_STOPS} stop strings")));
            }
            patterns.push(Pattern::new(stop));
        }
        Ok(Self { patterns, held: String::new() })
    }

    /// Appends to `out` what of the text so far is certain; whether a stop
    /// string ended it. After that, further pieces belong to a new text.
    pub fn push(&mut self, piece: &str, out: &mut String) -> bool {
        let before = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            let mut found = 0;
            for pattern in &mut self.patterns {
                pattern.advance(byte);
                if pattern.is_complete() {
                    found = found.max(pattern.bytes.len());
                }
            }
            if found > 0 {
                self.held.truncate(before + i + 1 - found);
                self.finish(out);
                return true;
            }
        }
        let keep = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        out.extend(self.held.drain(..self.held.len() - keep));
        false
    }

    /// Bytes kept back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Ends the text: what was kept back is no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.patterns.iter_mut().for_each(|p| p.matched = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text handed out after each piece, and whether a stop string was met.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut steps = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let stopped = matcher.push(piece, &mut out);
            steps.push(out);
            if stopped {
                assert_eq!(matcher.held(), 0);
                return (steps, true);
            }
        }
        let mut out = String::new();
        matcher.finish(&mut out);
        steps.push(out);
        (steps, false)
    }

    /// The definition: the first end of any stop string, and there the longest.
    fn expected(stops: &[&str], text: &str) -> (String, bool) {
        for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            if let Some(n) = stops.iter().filter(|s| text[..end].ends_with(**s)).map(|s| s.len()).max() {
                return (text[..end - n].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn keeps_back_only_what_may_become_a_stop_string() {
        assert_eq!(
            run(&["END"], &["a", "E", "N", "x"]),
            (["a", "", "", "ENx", ""].map(String::from).into(), false)
        );
        assert_eq!(run(&["END"], &["aE", "NDb"]), (["a", ""].map(String::from).into(), true));
        assert_eq!(run(&["END"], &["EEN"]), (["E", "EN"].map(String::from).into(), false));
        assert_eq!(run(&["aab"], &["aaab"]), (["a"].map(String::from).into(), true));
        assert_eq!(run(&[], &["x", "y"]), (["x", "y", ""].map(String::from).into(), false));
        assert_eq!(run(&["é!"], &["né", "?"]), (["n", "é?", ""].map(String::from).into(), false));
    }

    #[test]
    fn the_first_to_end_wins_then_the_longest() {
        assert_eq!(run(&["bc", "abcd"], &["xabcd"]).0, ["xa"]);
        assert_eq!(run(&["bc", "abc"], &["xabc"]).0, ["x"]);
    }

    #[test]
    fn refuses_senseless_stops() {
        assert!(StopMatcher::new([""]).unwrap_err().to_string().contains("stop string 0 has 0 bytes"));
        assert!(StopMatcher::new(["a".repeat(1025)]).is_err());
        assert!(StopMatcher::new(vec!["a"; 17]).unwrap_err().to_string().contains("more than 16"));
    }

    proptest! {
        #[test]
        fn cutting_the_text_changes_nothing(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..3, 24),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut pieces = vec![String::new()];
            for (c, cut) in text.chars().zip(cuts) {
                if cut == 0 {
                    pieces.push(String::new());
                }
                pieces.last_mut().unwrap().push(c);
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (steps, stopped) = run(&stops, &pieces);
            prop_assert_eq!((steps.concat(), stopped), expected(&stops, &text));
        }
    }
}
