//! A look at a template's tags before the compiler sees them.
//!
//! minijinja's parser and code generator recurse without a limit over `elif`
//! chains and left-associative operators, so their lengths are bounded here;
//! tags that name other templates are refused; and transformers' `generation`
//! block, which only marks training spans, becomes a block that minijinja knows.

use crate::{Error, Result};

/// Longest template, in bytes (the longest known have 30 KB).
const MAX_SOURCE: usize = 256 << 10;
/// Open blocks, counting each `elif` and `else` of an open `if`.
const MAX_DEPTH: usize = 128;
/// Symbols of one tag: names, numbers, strings, operators.
const MAX_SYMBOLS: usize = 8192;
/// Open brackets within one tag.
const MAX_BRACKETS: usize = 64;

/// Checks `source` and rewrites `generation` blocks.
pub(super) fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        return Err(Error::invalid(format!(
            "chat template: {} bytes, at most {MAX_SOURCE} are allowed",
            source.len()
        )));
    }
    let mut scan =
        Scan { source, at: 0, out: String::with_capacity(source.len()), open: Vec::new(), depth: 0 };
    while let Some(found) = scan.find_tag() {
        match found {
            Tag::Comment => scan.skip_past("#}"),
            Tag::Expression => {
                scan.expression("}}")?;
            }
            Tag::Block => scan.block()?,
        }
    }
    let Scan { at, mut out, .. } = scan;
    out.push_str(source.get(at..).unwrap_or_default());
    Ok(out)
}

enum Tag {
    Block,
    Expression,
    Comment,
}

struct Scan<'a> {
    source: &'a str,
    /// Everything before is in `out`.
    at: usize,
    out: String,
    /// Depth that each open block adds.
    open: Vec<usize>,
    depth: usize,
}

/// What the symbols of a tag amount to.
#[derive(Default)]
struct Symbols {
    assigns: bool,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn error(&self, what: &str) -> Error {
        let line = 1 + self.source.get(..self.at).unwrap_or_default().matches('\n').count();
        Error::invalid(format!("chat template, line {line}: {what}"))
    }

    /// Copies `bytes` of the source to the output.
    fn copy(&mut self, bytes: usize) {
        let end = (self.at + bytes).min(self.source.len());
        self.out.push_str(self.source.get(self.at..end).unwrap_or_default());
        self.at = end;
    }

    /// Copies up to and including the next opening brace pair.
    fn find_tag(&mut self) -> Option<Tag> {
        let rest = self.rest();
        let (i, tag) = rest.as_bytes().windows(2).enumerate().find_map(|(i, pair)| match pair {
            b"{%" => Some((i, Tag::Block)),
            b"{{" => Some((i, Tag::Expression)),
            b"{#" => Some((i, Tag::Comment)),
            _ => None,
        })?;
        self.copy(i + 2);
        Some(tag)
    }

    fn skip_past(&mut self, end: &str) {
        let rest = self.rest();
        self.copy(rest.find(end).map_or(rest.len(), |i| i + end.len()));
    }

    /// Copies the symbols of a tag, and its end.
    fn expression(&mut self, end: &str) -> Result<Symbols> {
        let mut symbols = Symbols::default();
        let (mut count, mut brackets) = (0usize, 0usize);
        loop {
            let rest = self.rest();
            if brackets == 0
                && rest.trim_start_matches(['-', '+']).starts_with(end)
                && rest.len() >= end.len()
            {
                let sign = usize::from(rest.starts_with(['-', '+']));
                if rest.get(sign..).is_some_and(|r| r.starts_with(end)) {
                    self.copy(sign + end.len());
                    return Ok(symbols);
                }
            }
            let Some(c) = rest.chars().next() else {
                // The compiler reports the missing end.
                return Ok(symbols);
            };
            let length = match c {
                '\'' | '"' => string_length(rest, c),
                c if c.is_alphanumeric() || c == '_' => {
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
                }
                c => c.len_utf8(),
            };
            match c {
                '(' | '[' | '{' => brackets += 1,
                ')' | ']' | '}' => brackets = brackets.saturating_sub(1),
                '=' if brackets == 0 => symbols.assigns = true,
                _ => {}
            }
            count += usize::from(!c.is_whitespace());
            if brackets > MAX_BRACKETS {
                return Err(self.error(&format!("more than {MAX_BRACKETS} brackets inside each other")));
            }
            if count > MAX_SYMBOLS {
                return Err(self.error(&format!("a tag has more than {MAX_SYMBOLS} symbols")));
            }
            self.copy(length);
        }
    }

    /// A block tag, just after its `{%`.
    fn block(&mut self) -> Result<()> {
        let rest = self.rest();
        let space = rest.len() - rest.trim_start_matches(['-', '+']).trim_start().len();
        self.copy(space);
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = rest.get(..length).unwrap_or_default();
        match name {
            "include" | "import" | "from" | "extends" => {
                return Err(self.error(&format!("`{name}` is not allowed: a template may not load others")));
            }
            "generation" | "endgeneration" => {
                self.out.push_str(if name == "generation" { "if true" } else { "endif" });
                self.at += length;
            }
            _ => self.copy(length),
        }
        let symbols = self.expression("%}")?;
        match name {
            "raw" => {
                let rest = self.rest();
                let end = rest.match_indices("{%").find(|(i, _)| {
                    let tag = rest.get(i + 2..).unwrap_or_default();
                    tag.trim_start_matches(['-', '+']).trim_start().starts_with("endraw")
                });
                self.copy(end.map_or(rest.len(), |(i, _)| i));
            }
            "for" | "if" | "macro" | "call" | "filter" | "with" | "block" | "autoescape" | "generation" => {
                self.enter()?;
            }
            "set" if !symbols.assigns => self.enter()?,
            "elif" | "else" => {
                if let Some(last) = self.open.last_mut() {
                    *last += 1;
                    self.deepen()?;
                }
            }
            name if name.starts_with("end") && name != "endraw" => {
                self.depth -= self.open.pop().unwrap_or(0);
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<()> {
        self.open.push(1);
        self.deepen()
    }

    fn deepen(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(&format!("more than {MAX_DEPTH} blocks and branches inside each other")));
        }
        Ok(())
    }
}

/// Bytes of the string literal at the start of `rest`, quotes included.
fn string_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(source: &str) -> String {
        prepare(source).unwrap_err().to_string()
    }

    #[test]
    fn leaves_templates_alone_and_rewrites_generation() {
        for same in [
            "",
            "{{ '}}' }} {# {% include #} text {%- if a == '%}' -%} x {%- else %} {% endif %}",
            "{% raw %}{% include 'x' %}{% endraw %}{% set x = {'a': {'b': 1}} %}{{ {'a': {}} }}",
            "unfinished {{ x",
            "unfinished {% if x == 'a",
        ] {
            assert_eq!(prepare(same).unwrap(), same);
        }
        assert_eq!(
            prepare("{%- generation -%}a{%+ endgeneration %}").unwrap(),
            "{%- if true -%}a{%+ endif %}"
        );
    }

    #[test]
    fn refuses_other_templates_by_line() {
        for name in ["include", "import", "from", "extends"] {
            let found = message(&format!("a\n{{%- {name} 'x' %}}"));
            assert_eq!(
                found,
                format!("chat template, line 2: `{name}` is not allowed: a template may not load others")
            );
        }
    }

    #[test]
    fn bounds_what_the_compiler_recurses_over() {
        let nested = |n| "{% if a %}".repeat(n) + &"{% endif %}".repeat(n);
        assert!(prepare(&nested(128)).is_ok());
        assert!(message(&nested(129)).contains("more than 128 blocks"));
        let chain = |n| format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(n));
        assert!(prepare(&(chain(127) + &chain(127))).is_ok());
        assert!(message(&chain(128)).contains("more than 128 blocks"));
        let sets = |n| "{% set x %}".repeat(n) + &"{% endset %}".repeat(n);
        assert!(message(&sets(129)).contains("more than 128 blocks"));
        assert!(prepare(&"{% set x = 1 %}".repeat(500)).is_ok());
        assert!(message(&format!("{{{{ {} }}}}", "a+".repeat(5000))).contains("8192 symbols"));
        assert!(message(&format!("{{{{ {}", "(".repeat(65))).contains("64 brackets"));
        assert!(message(&" ".repeat(MAX_SOURCE + 1)).contains("bytes, at most"));
    }
}
