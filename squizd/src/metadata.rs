//! The metadata section: model hyper-parameters, source files, provenance.
//!
//! Written as RFC 8785 canonical JSON, so that equal contents give equal bytes.

use crate::{Error, Result, model::ModelConfig, source::SourceProvenance};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Contents of the metadata section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Which format and tool wrote the file.
    pub format: FormatInfo,
    /// Normalised hyper-parameters: all that the runtime reads.
    pub model: ModelConfig,
    /// Source files kept verbatim, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub source: BTreeMap<String, String>,
    /// Chat template (Jinja).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// How the file came to be.
    pub provenance: Provenance,
}

/// Format and tool version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatInfo {
    /// Version of the written specification, for instance `1.0.0`.
    pub spec: String,
    /// Tool and version, for instance `squizd 0.1.0`.
    pub tool: String,
}

impl Default for FormatInfo {
    fn default() -> Self {
        Self { spec: "1.0.0".into(), tool: concat!("squizd ", env!("CARGO_PKG_VERSION")).into() }
    }
}

/// Origin of the weights and every option that affects the output's bytes.
/// Nothing time- or machine-dependent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Where the weights came from.
    pub source: SourceProvenance,
    /// Conversion options that affect bytes.
    pub recipe: serde_json::Value,
    /// Hex SHA-256 of the calibration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
}

impl Metadata {
    /// Canonical bytes (RFC 8785).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json_canonicalizer::to_vec(self)
            .map_err(|e| Error::invalid(format!("metadata cannot be written as canonical JSON: {e}")))
    }

    /// Parses the section's bytes. Unknown keys of later minor versions are
    /// passed over, except in `model`, where they could change the forward pass.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::invalid(format!(
                "metadata section is not valid: {e} (line {}, column {})",
                e.line(),
                e.column()
            ))
        })
    }
}
