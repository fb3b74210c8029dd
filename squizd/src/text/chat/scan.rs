//! A look at a template's tags before the compiler sees them.
//!
//! minijinja's parser and code generator recurse without a limit over `elif`
//! chains and left-associative operators, so their lengths are bounded here;
//! tags that name other templates are refused; transformers' `generation`
//! block, which only marks training spans, becomes a block that minijinja knows.
//!
//! And every value that gets a name (`set`, loop and macro variables) is passed
//! through a function that bounds its size ([`super::growth`]): minijinja's
//! budget does not see a list that holds itself twice, many times over.
//!
//! ```text
//! {% set x = e -%}         {% set x = __squizd_value((e)) -%}
//! {% set ns.x = e %}       {% set ns.x = __squizd_attribute((e)) %}
//! {% for a, b in e -%}     {% for a, b in e -%}{% set a = __squizd_value((a)) -%}...
//! ```

use crate::{Error, Result};

/// Longest template, in bytes (the longest known have 30 KB).
const MAX_SOURCE: usize = 256 << 10;
/// Longest line, in bytes, after the rewriting: minijinja counts columns in 16
/// bits, and its syntax errors add one.
const MAX_LINE: usize = 65_000;
/// Open blocks, counting each `elif` and `else` of an open `if`.
const MAX_DEPTH: usize = 128;
/// Symbols of one tag: names, numbers, strings, operators.
const MAX_SYMBOLS: usize = 8192;
/// Open brackets within one tag.
const MAX_BRACKETS: usize = 64;

/// Checks `source` and rewrites `generation` blocks.
pub(super) fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        return Err(Error::refused(
            "template-size",
            format!("chat template: {} bytes, at most {MAX_SOURCE} are allowed", source.len()),
        ));
    }
    let mut scan =
        Scan { source, at: 0, out: String::with_capacity(source.len()), open: Vec::new(), depth: 0 };
    while let Some(found) = scan.find_tag() {
        match found {
            Tag::Comment => scan.skip_past("#}"),
            Tag::Expression => {
                scan.expression("}}", Binding::None)?;
            }
            Tag::Block => scan.block()?,
        }
    }
    let Scan { at, mut out, .. } = scan;
    out.push_str(source.get(at..).unwrap_or_default());
    if let Some((line, text)) = out.lines().enumerate().find(|(_, text)| text.len() > MAX_LINE) {
        return Err(Error::refused(
            "template-size",
            format!(
                "chat template: line {} has {} bytes, at most {MAX_LINE} are allowed",
                line + 1,
                text.len()
            ),
        ));
    }
    Ok(out)
}

/// Prefix of the guards' names.
const RESERVED: &str = "__squizd_";

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

/// Where in a tag variables get their values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Binding {
    /// Nowhere.
    None,
    /// After the first `=` outside of brackets.
    Set,
    /// In the names before `in`.
    For,
    /// In the names of the first brackets, each after `(` or `,`.
    Parameters,
}

/// What the symbols of a tag amount to.
struct Symbols<'a> {
    assigns: bool,
    /// Loop or macro variables.
    names: Vec<&'a str>,
    /// The sign before the tag's end.
    sign: &'a str,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn error(&self, code: &'static str, what: &str) -> Error {
        let line = 1 + self.source.get(..self.at).unwrap_or_default().matches('\n').count();
        Error::refused(code, format!("chat template, line {line}: {what}")).at(self.at as u64)
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

    /// Copies the symbols of a tag, and its end; guards what `binding` names.
    fn expression(&mut self, end: &str, binding: Binding) -> Result<Symbols<'a>> {
        let mut symbols = Symbols { assigns: false, names: Vec::new(), sign: "" };
        let (mut count, mut brackets) = (0usize, 0usize);
        let (mut binds, mut before, mut dotted) = (binding != Binding::None, ' ', false);
        loop {
            let rest = self.rest();
            let sign = rest.get(..usize::from(rest.starts_with(['-', '+']))).unwrap_or_default();
            if brackets == 0 && rest.get(sign.len()..).is_some_and(|r| r.starts_with(end)) {
                if symbols.assigns && binding == Binding::Set {
                    self.out.push_str("))");
                }
                self.copy(sign.len() + end.len());
                return Ok(Symbols { sign, ..symbols });
            }
            let Some(c) = rest.chars().next() else {
                // The compiler reports the missing end.
                return Ok(symbols);
            };
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match c {
                '\'' | '"' => string_length(rest, c),
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                c => c.len_utf8(),
            };
            let symbol = rest.get(..length).unwrap_or_default();
            if symbol.starts_with(RESERVED) {
                return Err(self
                    .error("template-reserved", &format!("names that begin with {RESERVED} are reserved")));
            }
            self.copy(length);
            match c {
                '(' | '[' | '{' => brackets += 1,
                ')' | ']' | '}' => {
                    brackets = brackets.saturating_sub(1);
                    binds &= binding != Binding::Parameters || brackets > 0;
                }
                '.' => dotted = true,
                '=' if brackets == 0 && binds && binding == Binding::Set => {
                    self.out.push_str(if dotted { " __squizd_attribute((" } else { " __squizd_value((" });
                    (symbols.assigns, binds) = (true, false);
                }
                c if is_word(c) && binds => match binding {
                    Binding::For if symbol == "in" => binds = false,
                    Binding::For => symbols.names.push(symbol),
                    Binding::Parameters if brackets == 1 && matches!(before, '(' | ',') => {
                        symbols.names.push(symbol);
                    }
                    _ => {}
                },
                _ => {}
            }
            if !c.is_whitespace() {
                (count, before) = (count + 1, c);
            }
            if brackets > MAX_BRACKETS {
                return Err(self.error(
                    "template-depth",
                    &format!("more than {MAX_BRACKETS} brackets inside each other"),
                ));
            }
            if count > MAX_SYMBOLS {
                return Err(
                    self.error("template-size", &format!("a tag has more than {MAX_SYMBOLS} symbols"))
                );
            }
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
            "with" => {
                return Err(
                    self.error("template-forbidden", "`with` is not available to chat templates: use `set`")
                );
            }
            "include" | "import" | "from" | "extends" => {
                return Err(self.error(
                    "template-forbidden",
                    &format!("`{name}` is not allowed: a template may not load others"),
                ));
            }
            "generation" | "endgeneration" => {
                self.out.push_str(if name == "generation" { "if true" } else { "endif" });
                self.at += length;
            }
            _ => self.copy(length),
        }
        let binding = match name {
            "set" => Binding::Set,
            "for" => Binding::For,
            "macro" => Binding::Parameters,
            "call" if self.rest().trim_start().starts_with('(') => Binding::Parameters,
            _ => Binding::None,
        };
        let symbols = self.expression("%}", binding)?;
        for name in &symbols.names {
            let guard = format!("{{% set {name} = __squizd_value(({name})) {}%}}", symbols.sign);
            self.out.push_str(&guard);
        }
        match name {
            "raw" => {
                let rest = self.rest();
                let end = rest.match_indices("{%").find(|(i, _)| {
                    let tag = rest.get(i + 2..).unwrap_or_default();
                    tag.trim_start_matches(['-', '+']).trim_start().starts_with("endraw")
                });
                self.copy(end.map_or(rest.len(), |(i, _)| i));
            }
            "for" | "if" | "macro" | "call" | "filter" | "block" | "autoescape" | "generation" => {
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
            return Err(self.error(
                "template-depth",
                &format!("more than {MAX_DEPTH} blocks and branches inside each other"),
            ));
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
            "{% raw %}{% include 'x' %}{% endraw %}{{ {'a': {}} }}{% set x %}{% endset %}",
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
    fn guards_every_binding() {
        for (source, guarded) in [
            ("{%- set x = a == b -%}", "{%- set x = __squizd_value(( a == b ))-%}"),
            ("{%set n.x={'a': 1}%}", "{%set n.x= __squizd_attribute(({'a': 1}))%}"),
            ("{% set a, b = c, d %}", "{% set a, b = __squizd_value(( c, d ))%}"),
            (
                "{% for a, (b, c) in d.items() if a -%}",
                "{% for a, (b, c) in d.items() if a -%}{% set a = __squizd_value((a)) -%}{% set b = __squizd_value((b)) -%}{% set c = __squizd_value((c)) -%}",
            ),
            (
                "{% macro m(a, b=[c, d]) %}",
                "{% macro m(a, b=[c, d]) %}{% set a = __squizd_value((a)) %}{% set b = __squizd_value((b)) %}",
            ),
            ("{% call(a) m(b) %}", "{% call(a) m(b) %}{% set a = __squizd_value((a)) %}"),
            ("{% call m(b) %}", "{% call m(b) %}"),
        ] {
            assert_eq!(prepare(source).unwrap(), guarded);
        }
        assert!(message("{% set __squizd_value = 1 %}").contains("reserved"));
        assert!(message("{% with a = [a, a] %}{% endwith %}").contains("`with` is not available"));
    }

    #[test]
    fn refuses_other_templates_by_line() {
        for name in ["include", "import", "from", "extends"] {
            let found = message(&format!("a\n{{%- {name} 'x' %}}"));
            assert_eq!(
                found,
                format!(
                    "chat template, line 2: `{name}` is not allowed: a template may not load others [template-forbidden]"
                )
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
