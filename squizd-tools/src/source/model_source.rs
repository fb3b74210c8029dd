//! A foreign model as [`TensorSource`]: a container, its tensors mapped to
//! stored form, and the small files that go with them.

use super::{
    arch::{self, Mapping, MappingOptions, Naming},
    config::{self, SourceConfig},
    gguf::GgufMetadata,
    pieces::{Reader, Recipe},
    store::TensorStore,
};
use squizd::{
    Error, Result,
    model::{ModelConfig, RopeScaling},
    source::{SourceProvenance, TensorInfo, TensorSource},
};
use std::{borrow::Cow, collections::BTreeMap, ops::Range};

/// What accompanies the weights.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// Files for the tokenizer section, by name.
    pub tokenizer: BTreeMap<String, Vec<u8>>,
    /// Chat template.
    pub chat_template: Option<String>,
    /// Small source files kept verbatim.
    pub files: BTreeMap<String, String>,
    /// Where the weights came from; the weight files are filled in.
    pub provenance: SourceProvenance,
}

/// A model about to be converted; see [`super::open`].
pub struct ModelSource {
    store: Box<dyn TensorStore>,
    model: ModelConfig,
    infos: Vec<TensorInfo>,
    recipes: Vec<Recipe>,
    companions: Companions,
    dropped: Vec<String>,
    warnings: Vec<String>,
}

impl ModelSource {
    /// Maps the tensors of `store` by `config`. `gguf` is the metadata of a
    /// GGUF source, whose names and row order then apply.
    ///
    /// # Errors
    /// Tensors that are unknown, missing or of the wrong shape, by name.
    pub fn new(
        store: Box<dyn TensorStore>,
        mut config: SourceConfig,
        gguf: Option<&GgufMetadata>,
        mut companions: Companions,
        options: MappingOptions,
    ) -> Result<Self> {
        let naming = if gguf.is_some() { Naming::Gguf } else { Naming::Hf };
        let mut mapping = arch::map(store.as_ref(), naming, &config, options)?;
        let mut warnings = std::mem::take(&mut config.warnings);
        warnings.append(&mut mapping.warnings);
        config.model.vocab_size = mapping.vocab_size as u32;
        config.model.tie_embeddings = mapping.tied;
        if let Some(meta) = gguf {
            settle_rope(store.as_ref(), &mut config.model, meta, &mapping)?;
        }
        drop_foreign_ids(&mut config.model, &mut warnings);
        companions.provenance.files = store.files();
        let (infos, recipes) = mapping.tensors.into_iter().map(|t| (t.info, t.recipe)).unzip();
        Ok(Self {
            store,
            model: config.model,
            infos,
            recipes,
            companions,
            dropped: mapping.dropped,
            warnings,
        })
    }

    /// What the user should know, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Source tensors left out: buffers, a repeated head, and with
    /// `text_only` everything outside the text model.
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn reader(&self, index: usize) -> Result<Reader<'_>> {
        let found = self.infos.get(index).zip(self.recipes.get(index));
        let (info, recipe) = found.ok_or_else(|| {
            Error::invalid(format!("tensor index {index} of a source with {} tensors", self.infos.len()))
        })?;
        Ok(Reader { info, recipe, store: self.store.as_ref() })
    }
}

/// Moves rope factors from tensors to the configuration.
fn settle_rope(
    store: &dyn TensorStore,
    model: &mut ModelConfig,
    meta: &GgufMetadata,
    mapping: &Mapping,
) -> Result<()> {
    let vector = |index: usize| -> Result<Vec<f64>> {
        let tensor = store.tensors().get(index).ok_or_else(|| Error::invalid("rope factors are gone"))?;
        let wanted = u64::from(model.rope.dim / 2);
        if tensor.dims.iter().product::<u64>() != wanted || tensor.rows() != 1 {
            return Err(Error::refused(
                "source-rope-factors",
                format!(
                    "tensor {} has dimensions {:?}; rope factors are half the rotary width, [{wanted}]",
                    tensor.name, tensor.dims
                ),
            ));
        }
        let mut values = vec![0.0f32; wanted as usize];
        store.read_f32(index, 0..1, &mut values)?;
        let bad = values.iter().find(|v| !(v.is_finite() && **v > 0.0));
        match bad {
            Some(v) => Err(Error::refused(
                "source-rope-factors",
                format!("tensor {} holds {v}; rope factors are positive", tensor.name),
            )),
            None => Ok(values.into_iter().map(config::gguf::decimal).collect()),
        }
    };
    let scaling = match (mapping.longrope_factors, mapping.rope_factors) {
        ((Some(short), Some(long)), None) => {
            config::gguf::longrope(meta, model, vector(short)?, vector(long)?)?
        }
        ((None, None), Some(index)) => {
            let factors = vector(index)?;
            let is_neutral = |f: &f64| (f - 1.0).abs() < f64::EPSILON;
            if factors.iter().all(is_neutral) {
                return Ok(());
            }
            RopeScaling::Factors { factors }
        }
        ((None, None), None) => return Ok(()),
        _ => {
            return Err(Error::refused(
                "source-rope-factors",
                "rope factors are incomplete: rope_factors_short and rope_factors_long go together, without rope_freqs",
            ));
        }
    };
    if let Some(other) = &model.rope.scaling {
        return Err(Error::refused(
            "source-rope-factors",
            format!("rope factors are given both as tensors and as metadata ({other:?})"),
        ));
    }
    model.rope.scaling = Some(scaling);
    Ok(())
}

/// Ids beyond the vocabulary mean nothing to the model.
fn drop_foreign_ids(model: &mut ModelConfig, warnings: &mut Vec<String>) {
    let vocab = model.vocab_size;
    let tokens = &mut model.tokens;
    let mut gone = Vec::new();
    tokens.eos.retain(|&id| {
        id < vocab || {
            gone.push(("eos", id));
            false
        }
    });
    for (what, slot) in [("bos", &mut tokens.bos), ("pad", &mut tokens.pad)] {
        if let Some(id) = slot.take_if(|id| *id >= vocab) {
            gone.push((what, id));
        }
    }
    tokens.add_bos &= tokens.bos.is_some();
    for (what, id) in gone {
        warnings.push(format!("{what} token {id} lies beyond the vocabulary of {vocab} and is ignored"));
    }
}

impl TensorSource for ModelSource {
    fn model(&self) -> &ModelConfig {
        &self.model
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.reader(index)?.read_f32(rows, out)
    }

    fn read_native(&self, index: usize, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        self.reader(index)?.read_native(rows)
    }

    fn release(&self, index: usize, rows: Range<u64>) {
        if let Ok(reader) = self.reader(index) {
            reader.release(&rows);
        }
    }

    fn tokenizer_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.companions.tokenizer
    }

    fn chat_template(&self) -> Option<&str> {
        self.companions.chat_template.as_deref()
    }

    fn source_files(&self) -> &BTreeMap<String, String> {
        &self.companions.files
    }

    fn provenance(&self) -> &SourceProvenance {
        &self.companions.provenance
    }

    fn stamp(&self) -> Result<Vec<u8>> {
        self.store.stamp()
    }

    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        self.store.hash_files(stop)
    }
}
