//! Python's methods on strings, lists and dictionaries.
//!
//! Those that can produce far more than they take are here, charged against
//! the budget before they run; the rest are minijinja-contrib's.

use minijinja::{Error, ErrorKind, State, Value, value::from_args};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Calls `method` of `value`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(s) = value.as_str() else {
        return unknown_method_callback(state, value, method, args);
    };
    match method {
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            let places = if old.is_empty() { s.chars().count() + 1 } else { s.len() / old.len() };
            let count = count.and_then(|c| usize::try_from(c).ok()).unwrap_or(usize::MAX);
            charge(state, s.len().saturating_add(new.len().saturating_mul(places.min(count))))?;
            Ok(Value::from(s.replacen(old, new, count)))
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut joined = String::new();
            for (i, item) in values.try_iter()?.enumerate() {
                let Some(item) = item.as_str() else {
                    return Err(invalid(format!("join: item {i} is {}, not a string", item.kind())));
                };
                let gap = if i > 0 { s } else { "" };
                charge(state, gap.len() + item.len())?;
                joined.push_str(gap);
                joined.push_str(item);
            }
            Ok(Value::from(joined))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_prefix(prefix).unwrap_or(s)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(s.strip_suffix(suffix).unwrap_or(s)))
        }
        "rsplit" => {
            let (separator, count): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("rsplit: empty separator".into()));
            }
            let parts =
                count.and_then(|c| usize::try_from(c).ok()).map_or(usize::MAX, |c| c.saturating_add(1));
            let mut found: Vec<Value> = s.rsplitn(parts, separator).map(Value::from).collect();
            found.reverse();
            Ok(Value::from(found))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (head, found, tail) = match s.split_once(separator) {
                _ if separator.is_empty() => return Err(invalid("partition: empty separator".into())),
                Some((head, tail)) => (head, separator, tail),
                None => (s, "", ""),
            };
            Ok([head, found, tail].into_iter().map(Value::from).collect())
        }
        "format" => Err(invalid("str.format is not available to chat templates".into())),
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// Takes the price of `bytes` from the budget, at minijinja's rate.
pub(super) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
