//! A GGUF file as a model: its metadata, tokenizer and provenance.

use super::{
    arch::MappingOptions,
    config,
    gguf::{GgufFile, GgufMetadata, Strings, Value},
    model_source::{Companions, ModelSource},
    tokenizer::{self, GgufVocab},
};
use squizd::{Error, Result, source::SourceProvenance};
use std::path::Path;

/// Largest chat template accepted.
const MAX_TEMPLATE: usize = 1 << 20;

/// Opens a GGUF file, or all parts of a split one by any part.
pub(super) fn open(path: &Path, options: MappingOptions) -> Result<ModelSource> {
    let file = GgufFile::open(path)?;
    let meta = file.metadata().clone();
    let config = config::gguf::parse(&meta, options.allow_unmapped)?;
    let mut companions = Companions { provenance: provenance(&meta)?, ..Companions::default() };
    if let Some(vocab) = vocab(&meta)? {
        companions.tokenizer.insert("tokenizer.json".to_owned(), tokenizer::gguf::build(&vocab)?);
    }
    if let Some(template) = meta.str("tokenizer.chat_template")? {
        if template.len() > MAX_TEMPLATE {
            return Err(meta.mismatch("tokenizer.chat_template", "at most 1 MiB"));
        }
        companions.chat_template = Some(template.to_owned());
    }
    companions.files.insert("gguf.json".to_owned(), pairs(&meta)?);
    ModelSource::new(Box::new(file), config, Some(&meta), companions, options)
}

/// The tokenizer arrays, if the file has any.
pub(super) fn vocab(meta: &GgufMetadata) -> Result<Option<GgufVocab<'_>>> {
    let Some(model) = meta.str("tokenizer.ggml.model")?.filter(|m| *m != "none" && *m != "no_vocab") else {
        return Ok(None);
    };
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let strings = |name: &str| -> Result<Vec<&str>> {
        Ok(meta.strs(&key(name))?.map(|s: &Strings| s.iter().collect()).unwrap_or_default())
    };
    let id = |name: &str| -> Result<Option<u64>> {
        // Some converters write -1 for "none".
        let Some(values) = meta.ints(&key(name))? else { return Ok(None) };
        Ok(values.first().and_then(|&v| u64::try_from(v).ok()).filter(|&v| v != u64::from(u32::MAX)))
    };
    let charsmap = meta.ints(&key("precompiled_charsmap"))?.unwrap_or_default();
    Ok(Some(GgufVocab {
        model,
        pre: meta.str(&key("pre"))?,
        tokens: strings("tokens")?,
        scores: meta.floats(&key("scores"))?.unwrap_or_default(),
        token_types: meta.ints(&key("token_type"))?.unwrap_or_default(),
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: meta.bool(&key("add_bos_token"))?,
        add_eos: meta.bool(&key("add_eos_token"))?,
        add_space_prefix: meta.bool(&key("add_space_prefix"))?,
        remove_extra_whitespaces: meta.bool(&key("remove_extra_whitespaces"))?,
        precompiled_charsmap: charsmap.iter().map(|&b| b as u8).collect(),
        model_name: meta.str("general.name")?,
    }))
}

/// All pairs but the tokenizer's arrays, as one JSON object in file order.
fn pairs(meta: &GgufMetadata) -> Result<String> {
    let mut map = serde_json::Map::new();
    for (key, value) in meta.iter() {
        let is_vocabulary = key.starts_with("tokenizer.") && matches!(value, Value::Array(_));
        if is_vocabulary {
            continue;
        }
        let json = serde_json::to_value(value)
            .map_err(|e| Error::invalid(format!("metadata key `{key}` cannot be written as JSON: {e}")))?;
        map.insert(key.to_owned(), json);
    }
    serde_json::to_string(&map)
        .map_err(|e| Error::invalid(format!("GGUF metadata cannot be written as JSON: {e}")))
}

fn provenance(meta: &GgufMetadata) -> Result<SourceProvenance> {
    let mut repo = None;
    for key in ["general.source.huggingface.repository", "general.repo_url", "general.source.repo_url"] {
        if let Some(found) = meta.str(key)? {
            repo = Some(found.strip_prefix("https://huggingface.co/").unwrap_or(found).to_owned());
            break;
        }
    }
    Ok(SourceProvenance {
        format: "gguf".to_owned(),
        repo,
        revision: None,
        license: meta.str("general.license")?.map(str::to_owned),
        files: Vec::new(),
    })
}
