//! A `.squizd` file opened to be run.

use crate::Failure;
use squizd::{
    codec::Precision,
    metadata::Metadata,
    runtime::{KvType, Model, SessionOptions},
    text::{ChatTemplate, Tokenizer},
    validate::validate,
};
use squizd_spec::{FileBytes, Level, Limits, SectionKind, SquizdRef, appendix::Bundle, section_bytes};
use std::{collections::BTreeMap, path::Path};

/// The parts of a file that running it needs.
pub(super) struct Opened<'a> {
    file: SquizdRef<'a>,
    pub(super) metadata: Metadata,
}

impl<'a> Opened<'a> {
    /// Parses a file and its metadata. `verify` checks every hash and block of
    /// the very bytes that are used then.
    pub(super) fn new(bytes: &'a FileBytes, verify: bool) -> Result<Self, Failure> {
        let file = super::parse(bytes)?;
        if verify && let Some(finding) = validate(bytes, &Limits::DEFAULT, Level::Decode).first() {
            return Err(
                Failure { exit: finding.into(), message: finding.to_string() }.of(bytes.path().display())
            );
        }
        if verify {
            bytes.recheck()?;
        }
        let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT)?.unwrap_or_default();
        Ok(Self { file, metadata: Metadata::from_bytes(&metadata)? })
    }

    /// Digest of the tensor records.
    pub(super) fn weights_digest(&self) -> [u8; 32] {
        self.file.weights_digest()
    }

    /// Resolves the weights.
    pub(super) fn model(&self) -> Result<Model<'a>, Failure> {
        Ok(Model::of_file(&self.file, &self.metadata.model)?)
    }

    /// The digest that names the whole file.
    #[cfg(feature = "serve")]
    pub(super) fn root_digest(&self) -> [u8; 32] {
        self.file.header().root_digest
    }

    /// The tokenizer's files, by name.
    pub(super) fn tokenizer_files(&self) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        let Some(bytes) = section_bytes(&self.file, SectionKind::TOKENIZER, &Limits::DEFAULT)? else {
            return Ok(BTreeMap::new());
        };
        let base = self.file.section(SectionKind::TOKENIZER).map_or(0, |s| s.offset());
        let bundle = Bundle::parse(&bytes, base, &Limits::DEFAULT)?;
        Ok(bundle.files().iter().map(|f| (f.name.to_owned(), f.content.to_vec())).collect())
    }

    /// The tokenizer.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let model = &self.metadata.model;
        Ok(Tokenizer::from_files(&self.tokenizer_files()?, &model.tokens, model.vocab_size)?)
    }

    /// The chat template, if the file has one.
    pub(super) fn chat_template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, Failure> {
        let Some(source) = self.metadata.chat_template.as_deref() else { return Ok(None) };
        let tokens = &self.metadata.model.tokens;
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let (bos, eos) = (text_of(tokens.bos), text_of(tokens.eos.first().copied()));
        Ok(Some(ChatTemplate::new(source, &bos, &eos)?))
    }
}

/// How to compute, for commands that generate.
#[derive(clap::Args)]
pub(super) struct Compute {
    /// How one-token products read their input: f32 is exact, q8 faster
    #[arg(long, value_enum, default_value_t = Arithmetic::Q8)]
    precision: Arithmetic,
    /// Key/value cache: f32 or f16
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    kv: Cache,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Arithmetic {
    F32,
    Q8,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Cache {
    F32,
    F16,
}

impl Compute {
    /// The options of a session, its context still the default.
    pub(super) fn options(&self) -> SessionOptions {
        SessionOptions {
            kv: match self.kv {
                Cache::F32 => KvType::F32,
                Cache::F16 => KvType::F16,
            },
            precision: match self.precision {
                Arithmetic::F32 => Precision::F32,
                Arithmetic::Q8 => Precision::Q8,
            },
            ..SessionOptions::default()
        }
    }
}

/// Reads a text file, naming it in errors.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("reading {}: {e}", path.display())))
}
