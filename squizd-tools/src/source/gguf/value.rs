//! GGUF metadata: typed values, and accessors whose errors name the key.

use serde::Serialize;
use squizd::{Error, Result};

/// Many strings in one allocation: a vocabulary of 150,000 tokens costs its
/// text plus four bytes a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    /// Room for `count` strings; the caller has checked the count.
    pub fn with_capacity(count: usize) -> Self {
        Self { text: String::new(), ends: Vec::with_capacity(count) }
    }

    /// Appends; false when the text would pass 4 GiB.
    #[must_use]
    pub fn push(&mut self, s: &str) -> bool {
        let Ok(end) = u32::try_from(self.text.len() + s.len()) else { return false };
        self.text.push_str(s);
        self.ends.push(end);
        true
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)? as usize;
        let start = match i.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl Serialize for Strings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// A metadata array; its elements share one type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is named after its element type")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Str(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn element(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::Str(_) => "string",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }
}

/// One metadata value. Serializes to the plain JSON value (NaN and infinity,
/// which JSON lacks, to `null`).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is named after its type")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// Type and value, shortened, for messages: `string "llama"`, `array of 3 f32`.
    pub fn describe(&self) -> String {
        match self {
            Self::U8(v) => format!("u8 {v}"),
            Self::I8(v) => format!("i8 {v}"),
            Self::U16(v) => format!("u16 {v}"),
            Self::I16(v) => format!("i16 {v}"),
            Self::U32(v) => format!("u32 {v}"),
            Self::I32(v) => format!("i32 {v}"),
            Self::F32(v) => format!("f32 {v}"),
            Self::Bool(v) => format!("bool {v}"),
            Self::Str(v) => {
                let shown: String = v.chars().take(40).collect();
                let more = if shown.len() < v.len() { "..." } else { "" };
                format!("string {shown:?}{more}")
            }
            Self::Array(a) => format!("array of {} {}", a.len(), a.element()),
            Self::U64(v) => format!("u64 {v}"),
            Self::I64(v) => format!("i64 {v}"),
            Self::F64(v) => format!("f64 {v}"),
        }
    }

    /// The value as an integer, whatever the width it was stored in.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    key: String,
    value: Value,
    byte: u64,
}

/// The key-value pairs of a GGUF file, in file order.
///
/// Every typed accessor answers `Ok(None)` for an absent key and an error that
/// names file, key, byte and found value for one of another type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufMetadata {
    file: String,
    entries: Vec<Entry>,
    /// Entry indices in key order.
    by_key: Vec<u32>,
}

impl GgufMetadata {
    /// From parsed pairs `(key, value, byte offset of the pair)`; `Err` holds
    /// key and offset of a repeated key.
    pub fn new(file: String, pairs: Vec<(String, Value, u64)>) -> std::result::Result<Self, (String, u64)> {
        let entries: Vec<Entry> =
            pairs.into_iter().map(|(key, value, byte)| Entry { key, value, byte }).collect();
        let mut sorted: Vec<(u32, &Entry)> = (0u32..).zip(&entries).collect();
        sorted.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        let repeated = sorted.iter().zip(sorted.iter().skip(1)).find(|((_, a), (_, b))| a.key == b.key);
        if let Some((_, (_, again))) = repeated {
            return Err((again.key.clone(), again.byte));
        }
        let by_key = sorted.into_iter().map(|(i, _)| i).collect();
        Ok(Self { file, entries, by_key })
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        let at = |&i: &u32| self.entries.get(i as usize).map_or("", |e| e.key.as_str());
        let found = self.by_key.binary_search_by(|i| at(i).cmp(key)).ok()?;
        self.entries.get(*self.by_key.get(found)? as usize)
    }

    /// The error for a value that is not what the key calls for: names file,
    /// key, byte offset and the value found. For callers that check further
    /// (`wanted`: "at least 1", "one of llama, qwen3").
    pub fn mismatch(&self, key: &str, wanted: &str) -> Error {
        match self.entry(key) {
            Some(e) => Error::refused(
                "gguf-value",
                format!(
                    "{}: byte {}: metadata key `{key}` is {}; it must be {wanted}",
                    self.file,
                    e.byte,
                    e.value.describe()
                ),
            )
            .at(e.byte),
            None => Error::refused(
                "gguf-value",
                format!("{}: metadata key `{key}` is missing; it must be {wanted}", self.file),
            ),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        read(&entry.value).map(Some).ok_or_else(|| self.mismatch(key, wanted))
    }

    /// The value of `key`, untyped.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|e| &e.value)
    }

    /// A non-negative integer of any stored width.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", |v| u64::try_from(v.integer()?).ok())
    }

    /// A float of either width, or an integer.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| match v {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            other => other.integer().map(|i| i as f64),
        })
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| match v {
            Value::Str(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strs(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::Str(s)) => Some(s),
            _ => None,
        })
    }

    /// An array of integers or booleans (0 and 1), or one integer as an array
    /// of one: ggml writes per-layer hyper-parameters as either.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        fn widen<T: Copy + Into<i64>>(v: &[T]) -> Vec<i64> {
            v.iter().map(|&x| x.into()).collect()
        }
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(Array::U8(v)) => Some(widen(v)),
            Value::Array(Array::I8(v)) => Some(widen(v)),
            Value::Array(Array::U16(v)) => Some(widen(v)),
            Value::Array(Array::I16(v)) => Some(widen(v)),
            Value::Array(Array::U32(v)) => Some(widen(v)),
            Value::Array(Array::I32(v)) => Some(widen(v)),
            Value::Array(Array::Bool(v)) => Some(widen(v)),
            Value::Array(Array::I64(v)) => Some(v.clone()),
            Value::Array(Array::U64(v)) => v.iter().map(|&x| i64::try_from(x).ok()).collect(),
            other => Some(vec![i64::try_from(other.integer()?).ok()?]),
        })
    }

    /// An array of floats (f64 rounded to f32).
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Array(Array::F32(v)) => Some(v.clone()),
            Value::Array(Array::F64(v)) => Some(v.iter().map(|&x| x as f32).collect()),
            _ => None,
        })
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|e| (e.key.as_str(), &e.value))
    }

    /// Byte offset of a pair in its file.
    pub fn byte_of(&self, key: &str) -> Option<u64> {
        self.entry(key).map(|e| e.byte)
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Strings {
        let mut s = Strings::with_capacity(items.len());
        assert!(items.iter().all(|item| s.push(item)));
        s
    }

    fn sample() -> GgufMetadata {
        let pairs = vec![
            ("z.count".into(), Value::U32(7), 24),
            ("a.name".into(), Value::Str("llama".into()), 40),
            ("m.eps".into(), Value::F32(1e-5), 60),
            ("m.neg".into(), Value::I16(-3), 80),
            ("t.tokens".into(), Value::Array(Array::Str(strings(&["", "a", "\u{2581}b"]))), 90),
            ("h.per_layer".into(), Value::Array(Array::Bool(vec![true, false])), 120),
            ("h.big".into(), Value::Array(Array::U64(vec![u64::MAX])), 140),
        ];
        GgufMetadata::new("m.gguf".into(), pairs).unwrap()
    }

    #[test]
    fn accessors_read_what_is_there() {
        let m = sample();
        assert_eq!(m.u64("z.count").unwrap(), Some(7));
        assert_eq!(m.u64("absent").unwrap(), None);
        assert_eq!(m.str("a.name").unwrap(), Some("llama"));
        assert_eq!(m.f64("m.eps").unwrap(), Some(f64::from(1e-5f32)));
        assert_eq!(m.f64("m.neg").unwrap(), Some(-3.0));
        assert_eq!(m.ints("m.neg").unwrap(), Some(vec![-3]));
        assert_eq!(m.ints("h.per_layer").unwrap(), Some(vec![1, 0]));
        let tokens = m.strs("t.tokens").unwrap().unwrap();
        assert_eq!(tokens.iter().collect::<Vec<_>>(), ["", "a", "\u{2581}b"]);
        assert_eq!(tokens.get(3), None);
        let order: Vec<&str> = m.iter().map(|(k, _)| k).collect();
        assert_eq!(order, ["z.count", "a.name", "m.eps", "m.neg", "t.tokens", "h.per_layer", "h.big"]);
    }

    #[test]
    fn wrong_types_name_file_key_byte_and_value() {
        let m = sample();
        assert_eq!(
            m.u64("m.neg").unwrap_err().to_string(),
            "m.gguf: byte 80: metadata key `m.neg` is i16 -3; it must be a non-negative integer [gguf-value]"
        );
        assert_eq!(
            m.bool("a.name").unwrap_err().to_string(),
            "m.gguf: byte 40: metadata key `a.name` is string \"llama\"; it must be a bool [gguf-value]"
        );
        assert!(m.ints("h.big").unwrap_err().to_string().contains("array of 1 u64"));
        assert!(m.mismatch("nope", "a string").to_string().contains("`nope` is missing"));
    }

    #[test]
    fn repeated_keys_are_found() {
        let pairs = vec![("k".into(), Value::U8(1), 24), ("k".into(), Value::U8(2), 38)];
        assert_eq!(GgufMetadata::new("m".into(), pairs).unwrap_err(), ("k".to_owned(), 38));
    }

    #[test]
    fn values_serialize_to_plain_json() {
        let m = sample();
        let json: Vec<String> = m.iter().map(|(_, v)| serde_json::to_string(v).unwrap()).collect();
        assert_eq!(json[0], "7");
        assert_eq!(json[4], "[\"\",\"a\",\"\u{2581}b\"]");
        assert_eq!(json[5], "[true,false]");
    }
}
