//! A bound on every value that a template names.
//!
//! `[x, x]`, repeated, makes a value of 2^n items that costs the engine n
//! steps to build and 2^n to compare, measure or print. A value's size is
//! counted here as if nothing were shared, up to a limit, whenever it gets a
//! name ([`super::scan`]); a single expression cannot grow by more than its
//! own length. Counting also notices when a rendering takes too long.

use super::methods::charge;
use minijinja::{Error, ErrorKind, State, Value, value::ValueKind};
use std::time::{Duration, Instant};

/// Most items of a named value, items of items included. A conversation of
/// 10,000 messages has some 50,000.
const MAX_ITEMS: usize = 200_000;
/// Deepest list or map.
const MAX_DEPTH: usize = 256;
/// Longest rendering.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Counts values during one rendering.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    started: Instant,
}

impl Bound {
    /// The clock starts.
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// `value`, if it is small enough; `in_namespace` values may not hold
    /// namespaces, which could then hold themselves.
    pub(super) fn check(
        self,
        state: &State<'_, '_>,
        value: Value,
        in_namespace: bool,
    ) -> Result<Value, Error> {
        if self.started.elapsed() > MAX_TIME {
            return Err(refuse(format!("it takes longer than {} seconds", MAX_TIME.as_secs())));
        }
        let mut items = 0;
        let mut open = vec![(value.clone(), 0)];
        while let Some((value, depth)) = open.pop() {
            if depth > MAX_DEPTH {
                return Err(refuse(format!("a value has more than {MAX_DEPTH} levels")));
            }
            if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
                continue;
            }
            if in_namespace && value.as_object().is_some_and(|o| o.type_name().ends_with("::Namespace")) {
                return Err(refuse("a namespace may not hold a namespace".into()));
            }
            for item in value.try_iter()? {
                items += 1;
                if items > MAX_ITEMS {
                    return Err(refuse(format!("a value has more than {MAX_ITEMS} items")));
                }
                if value.kind() == ValueKind::Map {
                    open.push((value.get_item(&item)?, depth + 1));
                }
                open.push((item, depth + 1));
            }
        }
        // An item costs an eighth of an instruction.
        charge(state, items * 8)?;
        Ok(value)
    }
}

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
