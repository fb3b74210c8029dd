//! A `.squizd` file opened to be run.

use crate::Failure;
use squizd::{
    codec::Precision,
    dispatch::{Backend, KernelGroup, MemoryInfo, Subject, groups},
    metadata::Metadata,
    model::ModelConfig,
    runtime::{KvType, MemoryNeed, Model, Run, SessionOptions},
    text::{ChatTemplate, Tokenizer},
    validate::validate,
};
use squizd_spec::{FileBytes, Level, Limits, Role, SectionKind, SquizdRef, appendix::Bundle, section_bytes};
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

    /// Resolves the weights, if `need` fits the free memory (`force`: in any
    /// case).
    pub(super) fn model_for(&self, need: &MemoryNeed, force: bool) -> Result<Model<'a>, Failure> {
        // What is wrong with the model comes before what it would need.
        self.check()?;
        check_memory(need, force)?;
        self.model()
    }

    /// Refuses a model that the runtime does not run, from its metadata alone.
    pub(super) fn check(&self) -> Result<(), Failure> {
        Ok(Model::check(&self.metadata.model)?)
    }

    /// Memory of a GPU of these abilities that a run needs.
    #[cfg(feature = "gpu")]
    pub(super) fn device_memory(&self, run: &Run, abilities: squizd::gpu::Abilities) -> MemoryNeed {
        squizd::gpu::device_need(&self.file, &self.metadata.model, run, abilities)
    }

    /// The table of kernels, without loading the model.
    pub(super) fn kernels(&self, backend: &dyn Backend) -> Result<Vec<KernelGroup>, Failure> {
        kernel_groups(&self.file, self.metadata.model.tie_embeddings, backend)
    }

    /// Memory that a run needs.
    pub(super) fn memory(&self, run: &Run) -> MemoryNeed {
        MemoryNeed::of_file(&self.file, &self.metadata.model, run)
    }

    /// The context where none is asked for: what the model was trained for, at
    /// most 4096.
    pub(super) fn context(&self) -> usize {
        default_context(&self.metadata.model)
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

/// Names the memory that may be taken, in place of what the system says is free.
const MEMORY: &str = "SQUIZD_MEMORY";

/// Refuses what does not fit the free memory; `force` lets it pass, and so does a
/// system that does not tell what is free.
pub(super) fn check_memory(need: &MemoryNeed, force: bool) -> Result<(), Failure> {
    let free = match std::env::var(MEMORY) {
        Ok(text) if !text.is_empty() => {
            super::convert::size(&text).map_err(|e| Failure::usage(format!("{MEMORY} is {text:?}: {e}")))?
        }
        _ => MemoryInfo::probe().available,
    };
    if force || free == 0 {
        return Ok(());
    }
    need.check(free).map_err(|e| Failure::usage(e.to_string()))
}

/// The context where none is asked for: what the model was trained for, at most
/// 4096.
pub(super) fn default_context(model: &ModelConfig) -> usize {
    let (trained, default) = (model.max_positions as usize, SessionOptions::default().context);
    if trained > 0 { trained.min(default) } else { default }
}

/// The table of kernels for a file's matrices; the embedding counts where it is
/// the head too.
pub(super) fn kernel_groups(
    file: &SquizdRef<'_>,
    tied: bool,
    backend: &dyn Backend,
) -> Result<Vec<KernelGroup>, Failure> {
    let matrices = file.descs().filter(|t| t.dims.len() > 1 && (tied || t.role != Role::TOKEN_EMBD));
    let subjects = matrices.filter_map(|t| Subject::of(&t).map(|s| (s, t.length)));
    Ok(groups(&[backend], subjects)?)
}

/// How to compute, for commands that generate.
#[derive(clap::Args)]
pub(super) struct Compute {
    /// How products read their input: f32 is exact, q8 faster
    #[arg(long, value_enum, default_value_t = Arithmetic::Q8)]
    precision: Arithmetic,
    /// Key/value cache: f32, f16 or q8 (8.5 bits a value)
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    kv: Cache,
    /// Bring weights into memory and run a few tokens before the first request
    #[arg(long)]
    pub(super) warm_up: bool,
    /// Load the model even if it needs more memory than is free
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Arithmetic {
    F32,
    Q8,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Cache {
    F32,
    F16,
    Q8,
}

impl From<Cache> for KvType {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::F32 => Self::F32,
            Cache::F16 => Self::F16,
            Cache::Q8 => Self::Q8,
        }
    }
}

impl Compute {
    /// The options of a session, its context still the default.
    pub(super) fn options(&self) -> SessionOptions {
        SessionOptions {
            kv: self.kv.into(),
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
