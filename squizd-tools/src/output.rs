//! How commands print: data on stdout, everything else on stderr.

use crate::Failure;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::{fmt::Display, io::Write};

/// Version of every JSON document the commands print.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Writes a line to stdout; a closed pipe (`| head`) is not an error.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::usage(format!("writing to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints `value` as one JSON document with `schema_version` first.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut document = serde_json::Map::new();
    document.insert("schema_version".into(), SCHEMA_VERSION.into());
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => document.extend(fields),
        Ok(other) => drop(document.insert("result".into(), other)),
        Err(e) => return Err(Failure::usage(format!("writing JSON: {e}"))),
    }
    line(serde_json::Value::Object(document))
}

/// A plain table; `left` columns are text, the others numbers.
pub(crate) fn table(header: &[&str], left: usize, rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Bytes for people: `1.23 GB` (decimal, as disks and downloads are counted).
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS.get(unit).copied().unwrap_or_default())
}

/// Digits in groups of three.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let lead = digits.len() % 3;
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && i % 3 == lead {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Decibels, or `exact`.
pub(crate) fn decibels(db: f64) -> String {
    if db.is_infinite() { "exact".into() } else { format!("{db:.2} dB") }
}

/// `[4096, 1024]`.
pub(crate) fn dims(dims: &[u64]) -> String {
    let parts: Vec<_> = dims.iter().map(u64::to_string).collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234_567), "1.23 MB");
        assert_eq!(bytes(999_999), "1.00 MB");
        assert_eq!(count(1), "1");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(123_456), "123,456");
    }
}
