//! JSON in and out: messages as template values, and `tojson` as transformers has it: Python's `json.dumps` with
//! `ensure_ascii=False`, keys in insertion order.

use super::methods::charge;
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind},
};

/// A JSON value as the template sees it.
pub(super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            _ => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(s.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(fields) => map(fields),
    }
}

/// A JSON object as the template sees it, in its order.
pub(super) fn map(fields: &serde_json::Map<String, serde_json::Value>) -> Value {
    Value::from_pairs(fields.iter().map(|(k, v)| (k.as_str(), value(v))))
}

/// Deepest list or map written.
const MAX_DEPTH: usize = 128;
/// Widest indentation.
const MAX_INDENT: usize = 16;

#[allow(clippy::needless_pass_by_value, reason = "minijinja's filter signature")]
/// The filter: `value | tojson`, `value | tojson(indent=4)`.
pub(super) fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(n) => Some(n),
        None => options.get::<Option<usize>>("indent")?,
    };
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    if indent.is_some_and(|n| n > MAX_INDENT) {
        return Err(invalid(format!("tojson: indent is over {MAX_INDENT}")));
    }
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("tojson: separators are two strings".into())),
    };
    let mut writer = Writer { state, indent, item, key, sort_keys, ascii, out: String::new() };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    sort_keys: bool,
    ascii: bool,
    out: String,
}

impl Writer<'_> {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        charge(self.state, text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson: more than {MAX_DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.push(&value.to_string()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                self.push(&python_float(number))
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.push("[")?;
                let mut empty = true;
                for item in value.try_iter()? {
                    self.separate(empty, depth + 1)?;
                    empty = false;
                    self.value(&item, depth + 1)?;
                }
                self.close(empty, depth, "]")
            }
            ValueKind::Map => {
                self.push("{")?;
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_unstable();
                }
                for (i, key) in keys.iter().enumerate() {
                    self.separate(i == 0, depth + 1)?;
                    let text = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                    self.string(&text)?;
                    self.push(self.key)?;
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.is_empty(), depth, "}")
            }
            other => Err(invalid(format!("tojson: {other} has no JSON form"))),
        }
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.push(self.item)?;
        }
        self.new_line(depth)
    }

    fn close(&mut self, empty: bool, depth: usize, end: &str) -> Result<(), Error> {
        if !empty {
            self.new_line(depth)?;
        }
        self.push(end)
    }

    fn new_line(&mut self, depth: usize) -> Result<(), Error> {
        match self.indent {
            Some(indent) => self.push(&format!("\n{:1$}", "", indent * depth)),
            None => Ok(()),
        }
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        charge(self.state, 2 + text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let escape = format!("\\u{unit:04x}");
                        self.out.push_str(&escape);
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// Python's `repr` of a float: shortest digits that round-trip, an exponent
/// below 1e-4 and from 1e16.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        let name = if x.is_nan() { "NaN" } else { "Infinity" };
        return format!("{}{name}", if x < 0.0 { "-" } else { "" });
    }
    if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        for (x, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e100, "1.25e+100"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(python_float(x), text);
        }
    }
}
