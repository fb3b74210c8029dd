//! A `.squizd` file opened to be run.

use crate::Failure;
use squizd::{metadata::Metadata, runtime::Model, text::Tokenizer, validate::validate};
use squizd_spec::{FileBytes, Level, Limits, SectionKind, SquizdRef, appendix::Bundle, section_bytes};
use std::{collections::BTreeMap, path::Path};

/// The parts of a file that running it needs.
pub(super) struct Opened<'a> {
    file: SquizdRef<'a>,
    pub(super) metadata: Metadata,
}

impl<'a> Opened<'a> {
    /// Parses a mapped file and its metadata; `verify` also checks every hash.
    pub(super) fn new(bytes: &'a FileBytes, verify: bool) -> Result<Self, Failure> {
        let file = super::parse(bytes)?;
        if verify && let Some(finding) = validate(bytes, &Limits::DEFAULT, Level::Decode).first() {
            return Err(
                Failure { exit: finding.into(), message: finding.to_string() }.of(bytes.path().display())
            );
        }
        let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT)?.unwrap_or_default();
        Ok(Self { file, metadata: Metadata::from_bytes(&metadata)? })
    }

    /// Resolves the weights.
    pub(super) fn model(&self) -> Result<Model<'a>, Failure> {
        Ok(Model::of_file(&self.file, &self.metadata.model)?)
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
}

/// Reads a text file, naming it in errors.
pub(super) fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("reading {}: {e}", path.display())))
}
