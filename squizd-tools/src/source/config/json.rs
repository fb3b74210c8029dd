//! Typed access to JSON objects of a model repository, with errors that name
//! file, key and value.

use serde_json::{Map, Value};
use squizd::{Error, Result, json_offset};

/// Largest accepted configuration file.
pub const MAX_CONFIG_BYTES: usize = 16 << 20;

/// Parses a configuration file; `serde_json` caps nesting at 128. Of repeated
/// keys the last one counts, as in Python.
pub fn parse(file: &str, text: &[u8]) -> Result<Map<String, Value>> {
    if text.len() > MAX_CONFIG_BYTES {
        return Err(Error::refused(
            "config-size",
            format!("{file}: {} bytes, {MAX_CONFIG_BYTES} are allowed", text.len()),
        ));
    }
    match serde_json::from_slice(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::refused("config-json", format!("{file}: not a JSON object"))),
        Err(e) => Err(Error::refused("config-json", format!("{file}: {e}")).at(json_offset(text, &e))),
    }
}

/// An object with its place in the file. A key whose value is `null` reads as
/// absent; [`Fields::states`] tells the two apart.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: &'a str,
}

impl<'a> Fields<'a> {
    /// `at` names the object in messages: `config.json`, `config.json text_config`.
    pub fn new(at: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { map, at }
    }

    /// Whether the key is there, be it as `null`.
    pub fn states(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value, if there and not `null`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about `key` that shows the value found.
    pub fn wrong(&self, key: &str, wanted: &str) -> Error {
        let found = self.map.get(key).map_or_else(|| "missing".to_owned(), |v| shorten(&v.to_string()));
        Error::refused("config-value", format!("{}: {key} is {found}; it must be {wanted}", self.at))
    }

    fn typed<T>(&self, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, wanted))
    }

    /// A whole number below 2^32, also if written as `4096.0`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a whole number below 2^32", whole)
    }

    /// A whole number below 2^16.
    pub fn u16(&self, key: &str) -> Result<Option<u16>> {
        self.typed(key, "a whole number below 65536", |v| u16::try_from(whole(v)?).ok())
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "an object", Value::as_object)
    }

    /// A whole number or a list of them.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.typed(key, "a whole number below 2^32, or a list of them", |v| match v {
            Value::Array(items) => items.iter().map(whole).collect(),
            one => Some(vec![whole(one)?]),
        })
    }

    /// Token ids: one or a list. Negative ones, which old files have for
    /// "none", are left out.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| match v.as_i64() {
            Some(n) if n < 0 => Some(None),
            _ => whole(v).map(Some),
        };
        let read = |v: &Value| match v {
            Value::Array(items) => items.iter().map(id).collect::<Option<Vec<_>>>(),
            one => Some(vec![id(one)?]),
        };
        let ids = self.typed(key, "a token id or a list of them", read)?.unwrap_or_default();
        Ok(ids.into_iter().flatten().collect())
    }

    /// A list of finite numbers.
    pub fn f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.typed(key, "a list of finite numbers", |v| {
            v.as_array()?.iter().map(|x| x.as_f64().filter(|x| x.is_finite())).collect()
        })
    }

    /// A list of strings.
    pub fn strs(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }
}

fn whole(value: &Value) -> Option<u32> {
    let from_float = |x: f64| (x.fract() == 0.0 && (0.0..4_294_967_296.0).contains(&x)).then_some(x as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(from_float)).and_then(|n| u32::try_from(n).ok())
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_range_checked() {
        let map =
            parse("c.json", br#"{"a": 4096.0, "b": -1, "c": 4294967296, "d": 1e999, "e": null, "a": 7}"#);
        assert!(map.unwrap_err().to_string().starts_with("c.json: number out of range"));
        let map = parse("c.json", br#"{"a": 1, "a": 4096.0, "b": -1, "c": 4294967296, "e": null}"#).unwrap();
        let f = Fields::new("c.json", &map);
        assert_eq!(f.u32("a").unwrap(), Some(4096));
        assert_eq!(
            f.u32("b").unwrap_err().to_string(),
            "c.json: b is -1; it must be a whole number below 2^32 [config-value]"
        );
        assert!(f.u32("c").is_err());
        assert_eq!(f.u32("e").unwrap(), None);
        assert!(f.states("e") && !f.states("f"));
    }

    #[test]
    fn nesting_is_capped() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        assert!(parse("c.json", deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
        assert!(parse("c.json", b"[]").is_err());
    }
}
