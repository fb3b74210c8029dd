//! The GGUF header: `GGUF | version | tensor count | pair count`, metadata
//! pairs, tensor infos. Everything is little-endian and unaligned.
//!
//! ```text
//! string = length u64 | UTF-8 bytes
//! pair   = key string | type u32 | value       (array = type u32 | count u64 | elements)
//! info   = name string | rank u32 | dims u64 x rank, innermost first | type u32 | offset u64
//! ```
//!
//! Parsers take what is left of the file; errors remember how much that was,
//! which gives the absolute offset. No count is trusted: each is held against
//! its cap and against the bytes left before room is made for it.

use super::{
    limits::GgufLimits,
    value::{Array, Strings, Value},
};
use crate::source::flaw::{Flaw, bad_name};
use nom::{
    Err as Halt, IResult, Parser,
    bytes::complete::take,
    combinator::map,
    error::{ContextError, ErrorKind, ParseError, context},
    number::complete::{le_f32, le_f64, le_i8, le_i16, le_i32, le_i64, le_u8, le_u16, le_u32, le_u64},
};
use squizd_spec::Short;

/// Why parsing stopped, for nom: it knows what is left, not where that begins.
#[derive(Debug)]
struct Fault {
    /// Bytes from the offending field to the end of the input.
    left: usize,
    code: &'static str,
    unsupported: bool,
    message: String,
}

impl Fault {
    fn invalid(code: &'static str, at: &[u8], message: impl Into<String>) -> Self {
        Self { left: at.len(), code, unsupported: false, message: message.into() }
    }

    fn unsupported(code: &'static str, at: &[u8], message: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::invalid(code, at, message) }
    }
}

impl ParseError<&[u8]> for Fault {
    /// nom's own parsers stop for one reason here: too few bytes.
    fn from_error_kind(at: &[u8], _: ErrorKind) -> Self {
        Self::invalid(
            "gguf-truncated",
            at,
            format!("the file ends inside this field ({} bytes left)", at.len()),
        )
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

impl ContextError<&[u8]> for Fault {
    fn add_context(_: &[u8], field: &'static str, mut fault: Self) -> Self {
        fault.message = format!("{field}: {}", fault.message);
        fault
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, Fault>;

fn invalid<'a, T>(code: &'static str, at: &'a [u8], message: impl Into<String>) -> Parsed<'a, T> {
    Err(Halt::Error(Fault::invalid(code, at, message)))
}

/// A tensor info as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) name: String,
    /// Innermost dimension first.
    pub(super) dims: Vec<u64>,
    pub(super) kind: u32,
    /// Relative to the start of the data section.
    pub(super) offset: u64,
    /// Absolute offset of this info.
    pub(super) byte: u64,
}

/// A parsed header.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    /// Key, value, absolute offset of the pair.
    pub(super) pairs: Vec<(String, Value, u64)>,
    pub(super) infos: Vec<Info>,
    /// First byte after the last tensor info.
    pub(super) end: u64,
}

/// Parses the header at the start of `file` (the whole file's bytes).
pub(super) fn header(file: &[u8], limits: &GgufLimits) -> Result<Header, Flaw> {
    header_of(file, limits).map(|(_, header)| header).map_err(|halt| match halt {
        Halt::Error(Fault { left, code, unsupported, message })
        | Halt::Failure(Fault { left, code, unsupported, message }) => {
            Flaw { code, byte: (file.len() - left) as u64, unsupported, message }
        }
        Halt::Incomplete(_) => {
            Flaw::invalid("gguf-truncated", file.len() as u64, "the file ends inside the header")
        }
    })
}

fn header_of<'a>(input: &'a [u8], limits: &GgufLimits) -> Parsed<'a, Header> {
    let total = input.len();
    let byte = |at: &[u8]| (total - at.len()) as u64;
    let (at, ()) = magic_and_version(input)?;
    let (at, tensors) = count(at, "tensor count", limits.tensors)?;
    let (mut at, pairs) = count(at, "metadata count", limits.pairs)?;
    // Least bytes: a pair of an empty key and one byte, an info of rank 1
    // with an empty name.
    room(at, "metadata count", pairs, 8 + 4 + 1)?;
    room(at, "tensor count", tensors, 8 + 4 + 8 + 4 + 8)?;

    let mut found = Vec::with_capacity(pairs as usize);
    for i in 0..pairs {
        let (rest, (key, value)) = pair(at, limits).map_err(|e| step(e, &format!("metadata pair {i}")))?;
        found.push((key, value, byte(at)));
        capped(at, byte(rest), limits)?;
        at = rest;
    }
    let mut infos = Vec::with_capacity(tensors as usize);
    for i in 0..tensors {
        let (rest, mut one) = info(at, limits).map_err(|e| step(e, &format!("tensor info {i}")))?;
        one.byte = byte(at);
        infos.push(one);
        capped(at, byte(rest), limits)?;
        at = rest;
    }
    Ok((at, Header { pairs: found, infos, end: byte(at) }))
}

/// Refuses the item at `at`, which ends at byte `end`, past the header's cap.
fn capped(at: &[u8], end: u64, limits: &GgufLimits) -> Result<(), Halt<Fault>> {
    if end <= limits.header {
        return Ok(());
    }
    let message = format!("the header passes {end} bytes here, allowed at most {}", limits.header);
    Err(Halt::Error(Fault::invalid("gguf-header-size", at, message)))
}

/// Prepends a step of the path to an error.
fn step(halt: Halt<Fault>, step: &str) -> Halt<Fault> {
    halt.map(|mut fault| {
        fault.message = format!("{step}: {}", fault.message);
        fault
    })
}

fn magic_and_version(input: &[u8]) -> Parsed<'_, ()> {
    let (at, magic) = context("magic", take(4usize)).parse(input)?;
    match magic {
        b"GGUF" => {}
        b"FUGG" => {
            let fault = Fault::unsupported(
                "gguf-endianness",
                input,
                "magic is FUGG: the file is byte-swapped (wrong endianness)",
            );
            return Err(Halt::Error(fault));
        }
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
            let message = "this is a ggml file from before GGUF; convert it with llama.cpp's \
                           convert_llama_ggml_to_gguf.py, or start from the original checkpoint";
            return Err(Halt::Error(Fault::unsupported("gguf-lineage", input, message)));
        }
        other => {
            return invalid(
                "gguf-magic",
                input,
                format!("magic is \"{}\", not \"GGUF\"", other.escape_ascii()),
            );
        }
    }
    let (rest, version) = context("version", le_u32).parse(at)?;
    let code = if matches!(version.swap_bytes(), 1..=0xffff) { "gguf-endianness" } else { "gguf-version" };
    let refusal = match version {
        2 | 3 => return Ok((rest, ())),
        // A big-endian 3 reads as 0x03000000.
        v if matches!(v.swap_bytes(), 1..=0xffff) => format!(
            "version is {v:#010x}: a big-endian file (version {} byte-swapped); only little-endian files are \
             read: convert it with gguf-convert-endian",
            v.swap_bytes()
        ),
        1 => "version 1 (August 2023) is not read; this build reads 2 and 3: requantize the model".to_owned(),
        v => format!("version is {v}; this build reads 2 and 3"),
    };
    Err(Halt::Error(Fault::unsupported(code, at, refusal)))
}

/// A u64 count under a cap.
fn count<'a>(at: &'a [u8], field: &'static str, cap: u64) -> Parsed<'a, u64> {
    let (rest, n) = context(field, le_u64).parse(at)?;
    if n > cap {
        return invalid("gguf-count", at, format!("{field} is {n}, allowed at most {cap}"));
    }
    Ok((rest, n))
}

/// Refuses `n` items of at least `least` bytes that cannot fit in what is left.
fn room(at: &[u8], field: &str, n: u64, least: u64) -> Result<(), Halt<Fault>> {
    if n.checked_mul(least).is_some_and(|bytes| bytes <= at.len() as u64) {
        return Ok(());
    }
    let message = format!("{field} is {n}, more than the {} bytes left can hold", at.len());
    Err(Halt::Error(Fault::invalid("gguf-count", at, message)))
}

/// A length-prefixed string of at most `cap` bytes.
fn string(at: &[u8], cap: u64) -> Parsed<'_, &str> {
    let (rest, length) = context("string length", le_u64).parse(at)?;
    if length > cap {
        return invalid("gguf-string", at, format!("string length is {length}, allowed at most {cap}"));
    }
    if length > rest.len() as u64 {
        return invalid(
            "gguf-string",
            at,
            format!("string length is {length}, but only {} bytes are left", rest.len()),
        );
    }
    let (after, bytes) = take(length)(rest)?;
    match std::str::from_utf8(bytes) {
        Ok(s) => Ok((after, s)),
        Err(e) => {
            let bad = rest.get(e.valid_up_to()..).unwrap_or_default();
            invalid("gguf-utf8", bad, "string is not UTF-8")
        }
    }
}

/// A string that names something.
fn identifier<'a>(at: &'a [u8], what: &'static str, cap: u64) -> Parsed<'a, String> {
    let (rest, name) = string(at, cap).map_err(|e| step(e, what))?;
    if let Some(why) = bad_name(name, cap as usize) {
        return invalid("gguf-name", at, format!("{what} {why}"));
    }
    Ok((rest, name.to_owned()))
}

fn pair<'a>(at: &'a [u8], limits: &GgufLimits) -> Parsed<'a, (String, Value)> {
    let (at, key) = identifier(at, "key", limits.key)?;
    let (rest, kind) =
        context("value type", le_u32).parse(at).map_err(|e| step(e, &format!("`{}`", Short(&key))))?;
    let parsed = match kind {
        9 => map(|i| array(i, limits), Value::Array).parse(rest),
        _ => scalar(at, rest, kind, limits),
    };
    let (rest, value) = parsed.map_err(|e| step(e, &format!("`{}`", Short(&key))))?;
    Ok((rest, (key, value)))
}

/// One value that is not an array; `kind_at` is where its type was read.
fn scalar<'a>(kind_at: &'a [u8], at: &'a [u8], kind: u32, limits: &GgufLimits) -> Parsed<'a, Value> {
    match kind {
        0 => map(le_u8, Value::U8).parse(at),
        1 => map(le_i8, Value::I8).parse(at),
        2 => map(le_u16, Value::U16).parse(at),
        3 => map(le_i16, Value::I16).parse(at),
        4 => map(le_u32, Value::U32).parse(at),
        5 => map(le_i32, Value::I32).parse(at),
        6 => map(le_f32, Value::F32).parse(at),
        7 => map(boolean, Value::Bool).parse(at),
        8 => map(|i| string(i, limits.string), |s| Value::Str(s.to_owned())).parse(at),
        10 => map(le_u64, Value::U64).parse(at),
        11 => map(le_i64, Value::I64).parse(at),
        12 => map(le_f64, Value::F64).parse(at),
        other => invalid("gguf-value-type", kind_at, format!("value type is {other}, allowed 0 to 12")),
    }
}

fn boolean(at: &[u8]) -> Parsed<'_, bool> {
    let (rest, b) = le_u8(at)?;
    match b {
        0 | 1 => Ok((rest, b == 1)),
        other => invalid("gguf-bool", at, format!("bool is {other}, allowed 0 or 1")),
    }
}

fn array<'a>(at: &'a [u8], limits: &GgufLimits) -> Parsed<'a, Array> {
    let (counted, kind) = context("array element type", le_u32).parse(at)?;
    let (rest, n) = count(counted, "array length", limits.array)?;
    let width = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return invalid("gguf-array", at, "arrays of arrays are not allowed"),
        other => {
            return invalid(
                "gguf-array",
                at,
                format!("array element type is {other}, allowed 0 to 8 and 10 to 12"),
            );
        }
    };
    room(rest, "array length", n, width)?;
    let n = n as usize;
    match kind {
        0 => map(take(n), |b: &[u8]| Array::U8(b.to_vec())).parse(rest),
        1 => map(take(n), |b: &[u8]| Array::I8(b.iter().map(|x| x.cast_signed()).collect())).parse(rest),
        2 => numbers(rest, n, u16::from_le_bytes, Array::U16),
        3 => numbers(rest, n, i16::from_le_bytes, Array::I16),
        4 => numbers(rest, n, u32::from_le_bytes, Array::U32),
        5 => numbers(rest, n, i32::from_le_bytes, Array::I32),
        6 => numbers(rest, n, f32::from_le_bytes, Array::F32),
        7 => map(nom::multi::count(boolean, n), Array::Bool).parse(rest),
        8 => strings(rest, n, limits),
        10 => numbers(rest, n, u64::from_le_bytes, Array::U64),
        11 => numbers(rest, n, i64::from_le_bytes, Array::I64),
        _ => numbers(rest, n, f64::from_le_bytes, Array::F64),
    }
}

/// `n` numbers of `W` bytes; `room` has been checked, so the product is small.
fn numbers<const W: usize, T>(
    at: &[u8],
    n: usize,
    read: impl Fn([u8; W]) -> T,
    wrap: impl Fn(Vec<T>) -> Array,
) -> Parsed<'_, Array> {
    let (rest, bytes) = take(n.saturating_mul(W))(at)?;
    Ok((rest, wrap(bytes.as_chunks().0.iter().map(|b| read(*b)).collect())))
}

fn strings<'a>(mut at: &'a [u8], n: usize, limits: &GgufLimits) -> Parsed<'a, Array> {
    let mut all = Strings::with_capacity(n);
    let mut text = 0u64;
    for i in 0..n {
        let (rest, s) = string(at, limits.string).map_err(|e| step(e, &format!("element {i}")))?;
        text = text.saturating_add(s.len() as u64);
        if text > limits.header || !all.push(s) {
            let message =
                format!("element {i}: the array's text takes {text} bytes, allowed {}", limits.header);
            return invalid("gguf-header-size", at, message);
        }
        at = rest;
    }
    Ok((at, Array::Str(all)))
}

fn info<'a>(at: &'a [u8], limits: &GgufLimits) -> Parsed<'a, Info> {
    let (at, name) = identifier(at, "name", limits.name)?;
    let (at, (dims, kind, offset)) =
        geometry(at, limits).map_err(|e| step(e, &format!("`{}`", Short(&name))))?;
    Ok((at, Info { name, dims, kind, offset, byte: 0 }))
}

fn geometry<'a>(at: &'a [u8], limits: &GgufLimits) -> Parsed<'a, (Vec<u64>, u32, u64)> {
    let (mut rest, rank) = context("rank", le_u32).parse(at)?;
    if rank == 0 || rank > limits.dims {
        return invalid("gguf-rank", at, format!("rank is {rank}, allowed 1 to {}", limits.dims));
    }
    let mut dims = Vec::with_capacity(rank as usize);
    for d in 0..rank {
        let (after, dim) = context("dimension", le_u64).parse(rest)?;
        if dim == 0 {
            return invalid("gguf-dims", rest, format!("dimension {d} is 0"));
        }
        dims.push(dim);
        rest = after;
    }
    let (rest, kind) = context("type", le_u32).parse(rest)?;
    let (rest, offset) = context("offset", le_u64).parse(rest)?;
    Ok((rest, (dims, kind, offset)))
}
