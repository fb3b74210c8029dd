//! Chat templates: messages to the prompt a model was trained on.
//!
//! A template is a program from a stranger. It runs in minijinja with a budget
//! that pays for steps and bytes (`FUEL`), after a scan that bounds what the
//! compiler recurses over ([`scan`]), with a bound on every value it names
//! ([`growth`]), on a thread with a stack for the worst that passes. It cannot
//! read files, load other templates, or learn the time.
//!
//! Blocks, filters and globals are those of transformers'
//! `apply_chat_template`: `trim_blocks`, `lstrip_blocks`, loop controls,
//! Python's string and dictionary methods, `raise_exception`, `strftime_now`,
//! `tojson` in Python's format, and `{% generation %}` as a plain block.

mod date;
mod growth;
mod json;
mod methods;
mod scan;
#[cfg(test)]
mod tests;

pub use date::Date;

use crate::{Error, Result};
use minijinja::{Environment, ErrorKind, State, Value, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// What one rendering may spend: one unit is one instruction, or 64 bytes
/// produced. A conversation of 1 MB takes about 100,000.
const FUEL: u64 = 2_000_000;
/// Longest rendered prompt, in bytes.
const MAX_OUTPUT: usize = 32 << 20;
/// Calls within calls of macros.
const MAX_CALLS: usize = 64;
/// Stack of the compiling and rendering thread: the compiler recurses over a
/// tag's operators, of which [`scan`] lets through thousands. Pages that are
/// not touched cost nothing.
const STACK: usize = 64 << 20;

/// One message of a conversation: `role`, `content`, and whatever else the
/// template reads (`tool_calls`, `reasoning_content`, `name`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, serde_json::Value>);

impl Message {
    /// A text message; roles are `system`, `user`, `assistant`, `tool`.
    pub fn new(role: &str, content: &str) -> Self {
        Self(Map::new()).with("role", role).with("content", content)
    }

    /// Adds or replaces a field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<serde_json::Value>) -> Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }
}

/// What a template may read besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// End with the header of the assistant's reply.
    pub add_generation_prompt: bool,
    /// Tool descriptions as JSON schemas; the template sees `none` if empty.
    pub tools: Vec<serde_json::Value>,
    /// Further variables (`enable_thinking`, `documents`).
    pub variables: Map<String, serde_json::Value>,
    /// The day `strftime_now` tells.
    pub date: Date,
}

/// A compiled chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles `source`; `bos_token` and `eos_token` are the spellings the
    /// template writes (empty for a model without one).
    ///
    /// # Errors
    /// When the template is too long or nests too deep, names another
    /// template, or is not valid Jinja.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let source = scan::prepare(source)?;
        let env = on_large_stack(|| {
            let mut env = Environment::new();
            env.set_syntax(
                SyntaxConfig::builder()
                    .trim_blocks(true)
                    .lstrip_blocks(true)
                    .build()
                    .map_err(|e| describe(&e))?,
            );
            env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
            env.set_fuel(Some(FUEL));
            env.set_recursion_limit(MAX_CALLS);
            env.set_unknown_method_callback(methods::call);
            env.add_filter("tojson", json::tojson);
            env.add_test("iterable", is_iterable);
            env.add_function("raise_exception", raise_exception);
            env.add_template_owned(NAME, source).map_err(|e| describe(&e))?;
            Ok(env)
        })?;
        Ok(Self { env, bos_token: bos_token.to_owned(), eos_token: eos_token.to_owned() })
    }

    /// The prompt for `messages`, with no tools, and the reply's header if
    /// `add_generation_prompt`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_with`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, &RenderOptions { add_generation_prompt, ..RenderOptions::default() })
    }

    /// The prompt for `messages`.
    ///
    /// # Errors
    /// When the template refuses the messages (its own words are in the
    /// error), fails, or exceeds its budget.
    pub fn render_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        on_large_stack(|| {
            let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
            variables.insert("documents", Value::from(()));
            for (name, value) in &options.variables {
                variables.insert(name, json::value(value));
            }
            let tools = match options.tools.as_slice() {
                [] => Value::from(()),
                tools => tools.iter().map(json::value).collect(),
            };
            let (date, bound) = (options.date, growth::Bound::new());
            variables.extend([
                ("messages", messages.iter().map(|m| json::map(&m.0)).collect()),
                ("tools", tools),
                ("add_generation_prompt", Value::from(options.add_generation_prompt)),
                ("bos_token", Value::from(self.bos_token.as_str())),
                ("eos_token", Value::from(self.eos_token.as_str())),
                ("strftime_now", Value::from_function(move |format: &str| date.format(format))),
                (
                    "__squizd_value",
                    Value::from_function(move |state: &State<'_, '_>, v: Value| bound.check(state, v, false)),
                ),
                (
                    "__squizd_attribute",
                    Value::from_function(move |state: &State<'_, '_>, v: Value| bound.check(state, v, true)),
                ),
            ]);
            let mut out = Capped(Vec::new());
            let template = self.env.get_template(NAME).map_err(|e| describe(&e))?;
            template.render_captured_to(Value::from_pairs(variables), &mut out).map_err(|e| describe(&e))?;
            String::from_utf8(out.0)
                .map_err(|e| Error::refused("template-error", format!("chat template: {e}")))
        })
    }
}

/// Runs `work` on a thread of its own with [`STACK`] bytes of stack.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(Error::io("starting the thread for the chat template"))?
            .join()
            .unwrap_or_else(|_| {
                Err(Error::refused("template-error", "chat template: the template engine failed"))
            })
    })
}

/// Jinja's `iterable`: `none`, unlike an undefined value, is not.
fn is_iterable(value: &Value) -> bool {
    use minijinja::value::ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), String | Seq | Map | Iterable | Undefined)
}

/// `raise_exception` of transformers.
#[allow(clippy::needless_pass_by_value, reason = "minijinja's function signature")]
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
}

/// Marks an error as the template's own.
const REFUSAL: &str = "the template refuses the messages: ";

/// An error with the template's line, or the template's own words.
fn describe(error: &minijinja::Error) -> Error {
    let detail = error.detail().unwrap_or_default();
    if detail.starts_with(REFUSAL) {
        return Error::refused("template-refused", format!("chat template: {detail}"));
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::refused(
            "template-fuel",
            format!("chat template: it does more work than {FUEL} steps, which no known template needs"),
        );
    }
    let line = error.line().map(|l| format!(", line {l}")).unwrap_or_default();
    let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
    let code = if error.kind() == ErrorKind::SyntaxError { "template-syntax" } else { "template-error" };
    Error::refused(code, format!("chat template{line}: {}: {detail}{cause}", error.kind()))
}

/// A buffer that refuses to grow past [`MAX_OUTPUT`].
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.0.len() {
            return Err(io::Error::other(format!("the prompt would exceed {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
