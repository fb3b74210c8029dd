//! A Hugging Face checkpoint: a directory with `config.json`, safetensors and
//! tokenizer files.

use super::{
    arch::MappingOptions,
    config::{self, json, tokens::TokenFiles},
    model_source::{Companions, ModelSource},
    store::TensorStore,
    tokenizer::sentencepiece::from_sentencepiece,
};
use squizd::{Error, Result, source::SourceProvenance};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Component, Path},
};

/// Largest tokenizer file accepted.
const MAX_TOKENIZER_BYTES: usize = 128 << 20;

/// Tokenizer files kept verbatim, where present.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Builds the model from the weights in `store` and the files in `dir`.
/// `format` is the provenance's: `hf` or `safetensors`.
pub(super) fn open(
    dir: &Path,
    store: Box<dyn TensorStore>,
    format: &str,
    options: MappingOptions,
) -> Result<ModelSource> {
    let config_text = read(dir, "config.json", json::MAX_CONFIG_BYTES)?.ok_or_else(|| {
        Error::refused("source-no-config", format!("{}: config.json is missing", dir.display()))
    })?;
    let mut config = config::hf::parse(&config_text, options.allow_unmapped)?;
    let generation = read(dir, "generation_config.json", json::MAX_CONFIG_BYTES)?;

    let mut tokenizer: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for name in TOKENIZER_FILES {
        if let Some(bytes) = read(dir, name, MAX_TOKENIZER_BYTES)? {
            tokenizer.insert((*name).to_owned(), bytes);
        }
    }
    if !tokenizer.contains_key("tokenizer.json") {
        let part = |name: &str| tokenizer.get(name).map(Vec::as_slice);
        match part("tokenizer.model") {
            Some(model) => {
                let (config, added) = (part("tokenizer_config.json"), part("added_tokens.json"));
                let built = from_sentencepiece(model, config, added)?;
                tokenizer.insert("tokenizer.json".to_owned(), built);
            }
            None => config.warnings.push(format!(
                "{}: neither tokenizer.json nor tokenizer.model; the result will have no tokenizer",
                dir.display()
            )),
        }
    }
    let file = |name: &str| tokenizer.get(name).map(Vec::as_slice);
    let small = TokenFiles {
        generation: generation.as_deref(),
        tokenizer_config: file("tokenizer_config.json"),
        tokenizer: file("tokenizer.json"),
        template: file("chat_template.jinja"),
        template_json: file("chat_template.json"),
    };
    config::tokens::complete(&mut config.model.tokens, config.states_eos, &small)?;
    let chat_template = config::tokens::chat_template(&small)?;

    let mut files = BTreeMap::new();
    for (name, bytes) in [("config.json", Some(config_text)), ("generation_config.json", generation)] {
        let Some(bytes) = bytes else { continue };
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::refused("source-utf8", format!("{name}: not UTF-8: {e}")))?;
        files.insert(name.to_owned(), text);
    }
    let (repo, revision) = cached_repo(dir).unzip();
    let provenance = SourceProvenance {
        format: format.to_owned(),
        repo,
        revision,
        license: read(dir, "README.md", json::MAX_CONFIG_BYTES)?.and_then(|text| license(&text)),
        files: Vec::new(),
    };
    ModelSource::new(store, config, None, Companions { tokenizer, chat_template, files, provenance }, options)
}

/// A small file of the repository, if there.
fn read(dir: &Path, name: &str, cap: usize) -> Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    let context = || format!("reading {}", path.display());
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(context())(e)),
        Ok(meta) if !meta.is_file() => {
            return Err(Error::refused("source-kind", format!("{} is not a regular file", path.display())));
        }
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(Error::io(context()))?;
    file.take(cap as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(context()))?;
    if bytes.len() > cap {
        return Err(Error::refused(
            "source-size",
            format!("{} has more than the {cap} bytes allowed", path.display()),
        ));
    }
    Ok(Some(bytes))
}

/// `org/name` and revision of a directory in the Hugging Face cache:
/// `models--org--name/snapshots/<commit>`.
fn cached_repo(dir: &Path) -> Option<(String, String)> {
    let dir = dir.canonicalize().ok()?;
    let parts: Vec<&str> = dir
        .components()
        .filter_map(|c| match c {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let [.., model, "snapshots", revision] = parts.as_slice() else { return None };
    let repo = model.strip_prefix("models--")?.replace("--", "/");
    let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    is_commit.then(|| (repo, (*revision).to_owned()))
}

/// `license:` of the model card's front matter.
fn license(readme: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(readme).ok()?;
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    lines
        .take_while(|line| line.trim_end() != "---")
        .find_map(|line| line.strip_prefix("license:"))
        .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        .filter(|value| !value.is_empty() && value.len() <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_from_front_matter() {
        assert_eq!(license(b"---\nlanguage: en\nlicense: apache-2.0\n---\n# M"), Some("apache-2.0".into()));
        assert_eq!(license(b"---\ntags: [a]\n---\nlicense: mit\n"), None);
        assert_eq!(license(b"# no front matter\nlicense: mit\n"), None);
    }

    #[test]
    fn repository_from_the_cache_layout() {
        let root = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let dir = root.path().join("models--org--name/snapshots").join(commit);
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(cached_repo(&dir), Some(("org/name".into(), commit.into())));
        assert_eq!(cached_repo(root.path()), None);
    }
}
