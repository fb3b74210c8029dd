//! The fields of a request, taken one by one.

use crate::serve::error::ApiError;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Parameters that cannot change the answer of this server.
const WITHOUT_EFFECT: &[&str] = &[
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// A request's JSON object; what nobody takes is refused at the end.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|e| ApiError::invalid(format!("The body must be a JSON object: {e}.")))
    }

    /// A field's value, of the type asked for; `null` is as good as absent.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|e| ApiError::param(name, format!("Invalid value for '{name}': {e}."))),
        }
    }

    /// As [`Fields::take`], for a field that must be there.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?
            .ok_or_else(|| ApiError::param(name, format!("Missing required parameter: '{name}'.")))
    }

    /// Refuses a field that is there and not as `harmless` describes it.
    pub(crate) fn refuse(
        &mut self,
        name: &str,
        harmless: impl FnOnce(&Value) -> bool,
        why: &str,
    ) -> Result<(), ApiError> {
        match self.0.remove(name) {
            Some(value) if !value.is_null() && !harmless(&value) => {
                Err(ApiError::param(name, format!("'{name}': {why}")).code("unsupported_parameter"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        match self.0.iter().find(|(name, value)| !value.is_null() && !WITHOUT_EFFECT.contains(&name.as_str()))
        {
            Some((name, _)) => {
                let shown: String = name.chars().take(64).collect();
                Err(ApiError::param(&shown, format!("Unrecognized request argument supplied: {shown}"))
                    .code("unknown_parameter"))
            }
            None => Ok(()),
        }
    }
}
