//! Special tokens and chat templates of a Hugging Face directory.

use super::json::{self, Fields};
use serde::Deserialize;
use serde_json::{Map, Value};
use squizd::{Error, Result, json_offset, model::SpecialTokens};

/// Largest accepted chat template.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// The small files that settle tokens and template, where present.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenFiles<'a> {
    /// `generation_config.json`.
    pub generation: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub template: Option<&'a [u8]>,
    /// `chat_template.json`.
    pub template_json: Option<&'a [u8]>,
}

/// The parts of `tokenizer.json` that matter here; the vocabulary is skipped.
#[derive(Deserialize, Default)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Option<Value>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// Completes `tokens` (from `config.json`) by the other files.
///
/// BOS is added where `add_bos_token` says so, else where the tokenizer's
/// post-processor does. Generation ends at every id of `generation_config.json`
/// and `config.json`.
pub fn complete(tokens: &mut SpecialTokens, config_states_eos: bool, files: &TokenFiles<'_>) -> Result<()> {
    if let Some(text) = files.generation {
        let map = json::parse("generation_config.json", text)?;
        let f = Fields::new("generation_config.json", &map);
        let mut eos = f.ids("eos_token_id")?;
        if !eos.is_empty() {
            // A class default is no statement of this model.
            let own = if config_states_eos { std::mem::take(&mut tokens.eos) } else { Vec::new() };
            eos.extend(own);
            tokens.eos = eos;
        }
        tokens.bos = tokens.bos.or(f.ids("bos_token_id")?.first().copied());
        tokens.pad = tokens.pad.or(f.ids("pad_token_id")?.first().copied());
    }
    let mut seen = Vec::new();
    tokens.eos.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });

    let parsed = match files.tokenizer {
        Some(text) => serde_json::from_slice::<TokenizerJson>(text).map_err(|e| {
            Error::refused("tokenizer-json", format!("tokenizer.json: {e}")).at(json_offset(text, &e))
        })?,
        None => TokenizerJson::default(),
    };
    let empty = Map::new();
    let config = files.tokenizer_config.map(|t| json::parse("tokenizer_config.json", t)).transpose()?;
    let f = Fields::new("tokenizer_config.json", config.as_ref().unwrap_or(&empty));
    if tokens.bos.is_none()
        && let Some(text) = f.get("bos_token").and_then(token_text)
    {
        tokens.bos = parsed.added_tokens.iter().find(|t| t.content == text).map(|t| t.id);
    }
    let leading = parsed.post_processor.as_ref().and_then(leading_token);
    let add = f.bool("add_bos_token")?;
    if tokens.bos.is_none() && add != Some(false) {
        tokens.bos = leading;
    }
    tokens.add_bos = tokens.bos.is_some() && add.unwrap_or(leading.is_some() && leading == tokens.bos);
    Ok(())
}

/// `"<s>"` or `{"content": "<s>", ...}`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The special token that a post-processor puts before a single sequence.
fn leading_token(processor: &Value) -> Option<u32> {
    match processor.get("type")?.as_str()? {
        "Sequence" => processor.get("processors")?.as_array()?.iter().find_map(leading_token),
        "TemplateProcessing" => {
            let first = processor.get("single")?.as_array()?.first()?;
            let id = first.get("SpecialToken")?.get("id")?.as_str()?;
            let ids = processor.get("special_tokens")?.get(id)?.get("ids")?.as_array()?;
            u32::try_from(ids.first()?.as_u64()?).ok()
        }
        "BertProcessing" | "RobertaProcessing" => {
            u32::try_from(processor.get("cls")?.as_array()?.get(1)?.as_u64()?).ok()
        }
        _ => None,
    }
}

/// The chat template: `chat_template.jinja` before `chat_template.json` before
/// `tokenizer_config.json`, where several are named the one called `default`.
pub fn chat_template(files: &TokenFiles<'_>) -> Result<Option<String>> {
    let found = if let Some(text) = files.template {
        let text = std::str::from_utf8(text)
            .map_err(|e| Error::refused("source-utf8", format!("chat_template.jinja: not UTF-8: {e}")))?;
        Some(("chat_template.jinja", text.to_owned()))
    } else {
        let sources =
            [("chat_template.json", files.template_json), ("tokenizer_config.json", files.tokenizer_config)];
        let mut found = None;
        for (name, text) in sources {
            let Some(text) = text else { continue };
            let map = json::parse(name, text)?;
            if let Some(value) = Fields::new(name, &map).get("chat_template") {
                found = Some((
                    name,
                    pick(value).ok_or_else(|| {
                        Error::refused(
                            "config-value",
                            format!("{name}: chat_template is neither a text nor a list of named texts"),
                        )
                    })?,
                ));
                break;
            }
        }
        found
    };
    match found {
        Some((name, text)) if text.len() > MAX_TEMPLATE_BYTES => Err(Error::refused(
            "template-size",
            format!("{name}: the chat template has {} bytes, {MAX_TEMPLATE_BYTES} are allowed", text.len()),
        )),
        found => Ok(found.map(|(_, text)| text)),
    }
}

fn pick(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let text_of = |v: &Value| v.get("template")?.as_str().map(str::to_owned);
    match value {
        Value::Array(list) => {
            let default = list.iter().find(|v| v.get("name").and_then(Value::as_str) == Some("default"));
            text_of(default.or(list.first())?)
        }
        Value::Object(map) => map.get("default").or(map.values().next())?.as_str().map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: &[u8] = br#"{"added_tokens": [{"id": 128000, "content": "<|begin_of_text|>", "special": true}],
        "post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": true},
          {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
           "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [128000], "tokens": []}}}]},
        "model": {"type": "BPE", "vocab": {"a": 1}}}"#;

    fn tokens(bos: Option<u32>, eos: &[u32]) -> SpecialTokens {
        SpecialTokens { bos, eos: eos.to_vec(), pad: None, add_bos: false }
    }

    #[test]
    fn bos_by_config_then_post_processor() {
        type Text = Option<&'static [u8]>;
        let cases: &[(Text, Text, bool)] = &[
            (None, Some(LLAMA3), true),
            (Some(br#"{"add_bos_token": false}"#), Some(LLAMA3), false),
            (Some(br#"{"add_bos_token": null}"#), Some(LLAMA3), true),
            (Some(br#"{"add_bos_token": true}"#), None, true),
            (None, None, false),
            (None, Some(br#"{"post_processor": {"type": "ByteLevel"}}"#), false),
        ];
        for (tokenizer_config, tokenizer, expected) in cases {
            let files = TokenFiles {
                tokenizer_config: *tokenizer_config,
                tokenizer: *tokenizer,
                ..TokenFiles::default()
            };
            let mut t = tokens(Some(128_000), &[]);
            complete(&mut t, true, &files).unwrap();
            assert_eq!(t.add_bos, *expected, "{:?}", tokenizer_config.map(String::from_utf8_lossy));
        }
    }

    #[test]
    fn bos_id_from_its_text() {
        let config = br#"{"add_bos_token": true, "bos_token": {"content": "<|begin_of_text|>"}}"#;
        let files =
            TokenFiles { tokenizer_config: Some(config), tokenizer: Some(LLAMA3), ..TokenFiles::default() };
        let mut t = tokens(None, &[]);
        complete(&mut t, true, &files).unwrap();
        assert_eq!((t.bos, t.add_bos), (Some(128_000), true));
    }

    #[test]
    fn eos_is_the_union() {
        let generation = Some(br#"{"eos_token_id": [7, 9], "pad_token_id": 3}"#.as_slice());
        let files = TokenFiles { generation, ..TokenFiles::default() };
        let mut t = tokens(None, &[9, 2]);
        complete(&mut t, true, &files).unwrap();
        assert_eq!((t.eos, t.pad), (vec![7, 9, 2], Some(3)));
        let mut t = tokens(None, &[2]);
        complete(&mut t, false, &files).unwrap();
        assert_eq!(t.eos, [7, 9]);
    }

    #[test]
    fn templates_by_priority() {
        let list = br#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        let mut files = TokenFiles { tokenizer_config: Some(list), ..TokenFiles::default() };
        assert_eq!(chat_template(&files).unwrap().as_deref(), Some("D"));
        files.template_json = Some(br#"{"chat_template": "J"}"#);
        assert_eq!(chat_template(&files).unwrap().as_deref(), Some("J"));
        files.template = Some(b"F");
        assert_eq!(chat_template(&files).unwrap().as_deref(), Some("F"));
        let odd = TokenFiles { tokenizer_config: Some(br#"{"chat_template": 3}"#), ..TokenFiles::default() };
        assert!(chat_template(&odd).unwrap_err().to_string().contains("chat_template"));
    }
}
