//! Calibration files: input moments on disk, in safetensors.
//!
//! The layout is described in `docs/calibration.md`. Per input of the model
//! (see [`squizd::calibration::input_name`]) there are the tensors
//! `NAME.tokens`, `NAME.importance` and, unless only the diagonal was
//! collected, `NAME.hessian`.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::blend;
pub use read::{CalibrationFile, Coverage};
pub use write::{CalibrationWriter, Layout};

use squizd::{Error, Result};
use std::collections::BTreeMap;

/// Value of the header's `format`.
const FORMAT: &str = "squizd-calibration";
/// Value of the header's `version`.
const VERSION: &str = "1";

const TOKENS: &str = ".tokens";
const IMPORTANCE: &str = ".importance";
const HESSIAN: &str = ".hessian";

/// How a calibration came to be; nothing time- or machine-dependent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name of the model, if it has one.
    pub model: String,
    /// Its family.
    pub family: String,
    /// Hex digest of the weights that were run.
    pub weights_digest: String,
    /// Hex SHA-256 of the text.
    pub text_sha256: String,
    /// Tokens of the text that were run.
    pub tokens: u64,
    /// Window in tokens.
    pub ctx: u64,
}

impl Origin {
    fn to_metadata(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("format", FORMAT.into()),
            ("version", VERSION.into()),
            ("tool", concat!("squizd ", env!("CARGO_PKG_VERSION")).into()),
            ("model", self.model.clone()),
            ("family", self.family.clone()),
            ("weights_digest", self.weights_digest.clone()),
            ("text_sha256", self.text_sha256.clone()),
            ("tokens", self.tokens.to_string()),
            ("ctx", self.ctx.to_string()),
        ])
    }

    fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Self> {
        let text = |key: &str| metadata.get(key).cloned().unwrap_or_default();
        if text("format") != FORMAT {
            return Err(Error::invalid(format!(
                "header field format is {:?}, not {FORMAT:?}: this is no calibration file of `squizd calibrate`",
                text("format")
            )));
        }
        if text("version") != VERSION {
            return Err(Error::unsupported(format!(
                "header field version is {:?}; this build reads {VERSION}",
                text("version")
            )));
        }
        let number = |key: &str| {
            text(key)
                .parse()
                .map_err(|e| Error::invalid(format!("header field {key} is {:?}: {e}", text(key))))
        };
        Ok(Self {
            model: text("model"),
            family: text("family"),
            weights_digest: text("weights_digest"),
            text_sha256: text("text_sha256"),
            tokens: number("tokens")?,
            ctx: number("ctx")?,
        })
    }
}
