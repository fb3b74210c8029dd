//! The directives that put kernels together.

use super::{KERNELS, SOURCES};
use std::fmt::{self, Write as _};

/// What a kernel is assembled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Constants, in the order in which they are declared.
    pub constants: Vec<(&'static str, u32)>,
    /// Flags that are set.
    pub flags: Vec<&'static str>,
}

impl Options {
    /// Adds or replaces a constant.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        match self.constants.iter_mut().find(|(n, _)| *n == name) {
            Some(constant) => constant.1 = value,
            None => self.constants.push((name, value)),
        }
        self
    }

    /// Sets a flag.
    #[must_use]
    pub fn flag(mut self, name: &'static str) -> Self {
        if !self.flags.contains(&name) {
            self.flags.push(name);
        }
        self
    }

    /// The value of a constant.
    pub fn constant(&self, name: &str) -> Option<u32> {
        self.constants.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

/// A kernel could not be put together: a mistake in its text or its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

/// The WGSL of a kernel of [`KERNELS`].
///
/// # Errors
/// If there is no kernel of this name, or a directive names a file or constant
/// that is not there.
pub fn assemble(name: &str, options: &Options) -> Result<String, TemplateError> {
    let kernel = KERNELS
        .iter()
        .find(|k| k.name == name)
        .ok_or_else(|| TemplateError(format!("there is no kernel {name:?}")))?;
    let mut out = String::new();
    let set = |flag| options.flags.contains(&flag);
    if set("F16") || set("COOP") {
        out.push_str("enable f16;\n");
    }
    if set("COOP") {
        out.push_str("enable wgpu_cooperative_matrix;\n");
    }
    for (name, value) in &options.constants {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "const {name}: u32 = {value}u;");
    }
    let mut assembly = Assembly { codec: kernel.codec, options, used: Vec::new(), out };
    assembly.file(kernel.frame)?;
    Ok(assembly.out)
}

/// The text of the file `name`: `built_in`, or with feature `live` what now lies
/// in the folder `SQUIZD_SHADERS`.
#[cfg(feature = "live")]
fn text_of(name: &str, built_in: &'static str) -> Result<std::borrow::Cow<'static, str>, TemplateError> {
    let Some(folder) = std::env::var_os("SQUIZD_SHADERS") else { return Ok(built_in.into()) };
    let path = std::path::Path::new(&folder).join(format!("{name}.wgsl"));
    let text = std::fs::read_to_string(&path);
    text.map(Into::into).map_err(|e| TemplateError(format!("{}: {e}", path.display())))
}

#[cfg(not(feature = "live"))]
#[expect(clippy::unnecessary_wraps, reason = "its twin can fail")]
fn text_of(_: &str, built_in: &'static str) -> Result<&'static str, TemplateError> {
    Ok(built_in)
}

struct Assembly<'a> {
    codec: &'static str,
    options: &'a Options,
    used: Vec<&'a str>,
    out: String,
}

/// A line's directive, if it is one.
fn directive(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//:").map(str::trim)
}

impl Assembly<'_> {
    fn file(&mut self, name: &str) -> Result<(), TemplateError> {
        let name = if name == "CODEC" { self.codec } else { name };
        let (name, text) = SOURCES
            .iter()
            .find(|(n, _)| *n == name)
            .ok_or_else(|| TemplateError(format!("there is no file {name:?}")))?;
        let text = text_of(name, text)?;
        if self.used.contains(name) {
            return Ok(());
        }
        self.used.push(name);
        let lines: Vec<&str> = text.lines().collect();
        self.lines(&lines).map_err(|e| TemplateError(format!("{name}.wgsl: {e}")))
    }

    fn lines(&mut self, lines: &[&str]) -> Result<(), TemplateError> {
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            at += 1;
            let Some(text) = directive(line) else {
                self.out.push_str(line);
                self.out.push('\n');
                continue;
            };
            let mut words = text.split_whitespace();
            let (verb, first, second) =
                (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next());
            match verb {
                "use" => self.file(first)?,
                "if" => {
                    let (inner, other, rest) = block(lines, at)?;
                    at = rest;
                    let wanted = !first.starts_with('!');
                    let mut any = first.trim_start_matches('!').split('|');
                    let set = any.any(|flag| self.options.flags.contains(&flag));
                    self.lines(if set == wanted { inner } else { other })?;
                }
                "each" => {
                    let (inner, _, rest) = block(lines, at)?;
                    at = rest;
                    let name = second.unwrap_or_default();
                    let count = name.parse().ok().or_else(|| self.options.constant(name));
                    let count = count
                        .ok_or_else(|| TemplateError(format!("{text:?}: there is no constant {name:?}")))?;
                    for turn in 0..count {
                        let turned: Vec<String> = inner
                            .iter()
                            .map(|l| l.replace(&format!("${first}"), &turn.to_string()))
                            .collect();
                        let turned: Vec<&str> = turned.iter().map(String::as_str).collect();
                        self.lines(&turned)?;
                    }
                }
                _ => return Err(TemplateError(format!("{text:?} is not a directive here"))),
            }
        }
        Ok(())
    }
}

/// Lines of a block, and of its `else`, opened before `at`, and where it ends.
type Block<'l, 't> = (&'l [&'t str], &'l [&'t str], usize);

fn block<'l, 't>(lines: &'l [&'t str], at: usize) -> Result<Block<'l, 't>, TemplateError> {
    let (mut depth, mut split) = (0, None);
    for (i, line) in lines.iter().enumerate().skip(at) {
        match directive(line).and_then(|d| d.split_whitespace().next()) {
            Some("if" | "each") => depth += 1,
            Some("else") if depth == 0 => split = Some(i),
            Some("end") if depth == 0 => {
                let inner = &lines[at..split.unwrap_or(i)];
                return Ok((inner, split.map_or(&[], |s| &lines[s + 1..i]), i + 1));
            }
            Some("end") => depth -= 1,
            _ => {}
        }
    }
    Err(TemplateError("a block has no end".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, options: &Options) -> Result<String, TemplateError> {
        let mut assembly = Assembly { codec: "", options, used: Vec::new(), out: String::new() };
        let lines: Vec<&str> = text.lines().collect();
        assembly.lines(&lines).map(|()| assembly.out)
    }

    #[test]
    fn blocks_nest_and_turns_count() {
        let options = Options::default().with("N", 2).flag("A");
        let text = "//: each i N\nx$i\n//: if A\ny$i\n//: else\nz\n//: end\n//: each k 2\n$i-$k\n//: end\n//: end\n//: if !A\nw\n//: end\n//: if B|A\nv\n//: end\n//: if !B|A\nu\n//: end";
        assert_eq!(expand(text, &options).unwrap(), "x0\ny0\n0-0\n0-1\nx1\ny1\n1-0\n1-1\nv\n");
    }

    #[test]
    fn mistakes_are_named() {
        let options = Options::default();
        for (text, part) in [
            ("//: if A\n", "no end"),
            ("//: each i N\n//: end", "no constant \"N\""),
            ("//: use nothing", "no file \"nothing\""),
            ("//: end", "not a directive"),
        ] {
            let message = expand(text, &options).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!(assemble("no_such", &options).is_err());
    }

    #[test]
    fn kernels_have_their_files() {
        for kernel in KERNELS {
            for file in [kernel.frame, kernel.codec].into_iter().filter(|f| !f.is_empty()) {
                assert!(SOURCES.iter().any(|(n, _)| *n == file), "{}: {file}", kernel.name);
            }
        }
    }
}
