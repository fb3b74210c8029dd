//! Which codec each tensor gets, and what that will cost, before a byte is written.

mod recipe;

pub use recipe::{Layers, Recipe, Route};

use crate::{
    Error, Result,
    codec::{Codec, EncodeOptions, OptionKind, codec},
    source::{TensorInfo, TensorSource},
};
use serde::{Deserialize, Serialize};
use squizd_spec::{CodecId, DType, Matrix, Params, Part, PayloadLength, Role};
use std::{fmt, str::FromStr};

/// A codec by name, with its options: `raw`, `bf16`, `q8`, `int4`, `int4:g32`,
/// `tca-tbe:tbe2`, or the preset `lossless`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodecChoice {
    /// `None` keeps the source's own precision.
    pub codec: Option<CodecId>,
    /// Codec options.
    pub options: EncodeOptions,
    /// Keep tensors of a type that the codec does not take, instead of
    /// refusing the model.
    pub keep_others: bool,
}

impl CodecChoice {
    /// Keeps the source's own precision.
    pub const RAW: Self = Self { codec: None, options: EncodeOptions::NONE, keep_others: false };
    /// TCA-TBE for BF16 tensors, ZPLANES for other plain numbers; blocks that a
    /// source has quantized are taken over.
    pub const LOSSLESS: Self = Self { codec: Some(CodecId::TCA_TBE), keep_others: true, ..Self::RAW };

    fn of(codec: CodecId) -> Self {
        Self { codec: Some(codec), ..Self::RAW }
    }

    /// The options that go with it.
    pub fn option_kinds(&self) -> Vec<OptionKind> {
        let others = self.keep_others.then_some(CodecId::ZPLANES);
        self.codec.into_iter().chain(others).filter_map(codec).flat_map(Codec::options).copied().collect()
    }
}

impl FromStr for CodecChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut choice = match name {
            "raw" => Self::RAW,
            "lossless" => Self::LOSSLESS,
            name => Self::of(CodecId::from_name(name).filter(|c| codec(*c).is_some()).ok_or_else(|| {
                let known: Vec<_> = CodecId::ALL.iter().filter_map(|c| c.name()).collect();
                Error::invalid(format!(
                    "unknown codec {name:?}; known are raw, lossless, {}",
                    known.join(", ")
                ))
            })?),
        };
        let taken = choice.option_kinds();
        for option in parts {
            let named = |e| Error::invalid(format!("codec {text:?}: {e}"));
            choice.options.set(option, &taken).map_err(named)?;
        }
        Ok(choice)
    }
}

impl fmt::Display for CodecChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec {
            None => f.write_str("raw")?,
            Some(_) if self.keep_others => f.write_str("lossless")?,
            Some(codec) => write!(f, "{codec}")?,
        }
        self.options.fmt(f)
    }
}

/// Why a tensor got its codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The recipe's codec.
    Recipe,
    /// A `--tensor-type` override.
    Override,
    /// Norms, biases, routers and vectors stay at the source's precision.
    KeptRaw,
    /// The source's quantized blocks fit a layout of the codec: no loss.
    Imported,
    /// The source is quantized in a form that no layout holds exactly; stored
    /// as Q8 rather than quantized twice (see `--allow-requantize`).
    Requantized,
    /// The codec does not take this shape.
    Shape,
    /// The codec does not take the source's element type.
    SourceType,
}

/// One tensor's lot.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTensor {
    /// Index into [`TensorSource::tensors`].
    pub index: usize,
    /// Codec.
    pub codec: CodecId,
    /// Its options.
    pub options: EncodeOptions,
    /// Why.
    pub reason: Reason,
    /// Payload bytes.
    pub length: PayloadLength,
}

/// The lot of every tensor, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One entry per source tensor.
    pub tensors: Vec<PlannedTensor>,
}

impl Plan {
    /// Chooses a codec for each tensor of `source`.
    pub fn choose(source: &dyn TensorSource, recipe: &Recipe) -> Result<Self> {
        let tensors = source.tensors().iter().enumerate();
        let layers = source.model().num_layers;
        Ok(Self { tensors: tensors.map(|(i, t)| choose(i, t, recipe, layers)).collect::<Result<_>>()? })
    }

    /// Payload bytes of all tensors, each padded to 256.
    pub fn payload_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.length.max().next_multiple_of(squizd_spec::layout::TENSOR_ALIGN)).sum()
    }
}

/// The raw codec that holds a source's plain numbers unchanged; dequantized
/// values need all of f32.
fn raw_codec(dtype: DType) -> CodecId {
    match dtype {
        DType::F16 => CodecId::RAW_F16,
        DType::BF16 => CodecId::RAW_BF16,
        DType::I8 => CodecId::RAW_I8,
        _ => CodecId::RAW_F32,
    }
}

/// Norms, biases, routers and anything without rows are never quantized: they
/// are small, and errors in them reach every weight behind.
fn stays_raw(tensor: &TensorInfo) -> bool {
    tensor.dims.len() < 2
        || tensor.part != Part::WEIGHT
        || matches!(
            tensor.role,
            Role::OTHER | Role::MOE_ROUTER | Role::SHARED_ROUTER | Role::MOE_ROUTER_CORRECTION
        )
        || tensor.role.name().is_some_and(|n| n.ends_with("_norm"))
}

fn choose(index: usize, tensor: &TensorInfo, recipe: &Recipe, num_layers: u16) -> Result<PlannedTensor> {
    let matrix = Matrix::of(&tensor.dims)
        .ok_or_else(|| Error::invalid(format!("tensor {}: {:?} overflows", tensor.name, tensor.dims)))?;
    let named = recipe.overrides.iter().rev().find(|(re, _)| re.is_match(&tensor.name));
    let (choice, reason) = match named {
        Some((_, choice)) => (*choice, Reason::Override),
        None if stays_raw(tensor) => (CodecChoice::RAW, Reason::KeptRaw),
        None => (recipe.choice(tensor, num_layers), Reason::Recipe),
    };
    let preset = choice.keep_others;
    let (choice, reason) = settle(tensor, matrix, choice, reason, recipe.allow_requantize)?;
    let id = choice.codec.unwrap_or_else(|| raw_codec(tensor.dtype));
    let codec = codec_of(id)?;
    // A preset's options may be meant for several codecs.
    let options = if preset { choice.options.only(codec.options()) } else { choice.options };
    let params = codec.nominal(matrix, tensor.dtype, &options)?;
    let length = |id: CodecId, params| {
        let geometry = id.geometry(matrix, params);
        let wrong = |e| Error::invalid(format!("tensor {}: codec {choice}: {e:?}", tensor.name));
        geometry.map(|g| g.length).map_err(wrong)
    };
    let length = match length(id, &params)? {
        // Codecs without a fixed rate store the plain numbers where they save nothing.
        PayloadLength::Within { min, max } => {
            let plain = length(raw_codec(tensor.dtype), &Params::default())?.max();
            PayloadLength::Within { min: min.min(plain), max: max.min(plain) }
        }
        exact @ PayloadLength::Exact(_) => exact,
    };
    Ok(PlannedTensor { index, codec: id, options, reason, length })
}

fn codec_of(id: CodecId) -> Result<&'static dyn Codec> {
    codec(id).ok_or_else(|| Error::unsupported(format!("this build has no codec {id}")))
}

/// Adapts the wish to what the source holds and the codec takes.
fn settle(
    tensor: &TensorInfo,
    matrix: Matrix,
    choice: CodecChoice,
    reason: Reason,
    allow_requantize: bool,
) -> Result<(CodecChoice, Reason)> {
    let Some(id) = choice.codec.filter(|c| !c.is_raw()) else { return Ok((choice, reason)) };
    let codec = codec_of(id)?;
    let does_not_take = |why: String| {
        Error::invalid(format!("tensor {}: codec {choice} does not take it: {why}", tensor.name))
    };
    if let Err(why) = codec.accepts_dtype(tensor.dtype) {
        return if choice.keep_others { keep(tensor, matrix, choice) } else { Err(does_not_take(why)) };
    }
    if let Err(why) = codec.accepts(matrix) {
        if reason == Reason::Override {
            return Err(does_not_take(why));
        }
        return Ok((CodecChoice::RAW, Reason::Shape));
    }
    if !tensor.dtype.is_quantized() {
        return Ok((choice, reason));
    }
    if codec.imports(tensor.dtype, matrix, &choice.options) {
        return Ok((choice, Reason::Imported));
    }
    if allow_requantize || reason == Reason::Override || id == CodecId::Q8 {
        return Ok((choice, reason));
    }
    match importer(tensor.dtype, matrix)? {
        Some(kept) => Ok((kept, Reason::Imported)),
        None => Ok((CodecChoice::of(CodecId::Q8), Reason::Requantized)),
    }
}

/// The codec that takes quantized blocks of `dtype` over as they are.
fn importer(dtype: DType, matrix: Matrix) -> Result<Option<CodecChoice>> {
    for id in [CodecId::INT4, CodecId::MXFP4, CodecId::Q8] {
        if codec_of(id)?.imports(dtype, matrix, &EncodeOptions::NONE) {
            return Ok(Some(CodecChoice::of(id)));
        }
    }
    Ok(None)
}

/// What the preset `lossless` does with what TCA-TBE does not take.
fn keep(tensor: &TensorInfo, matrix: Matrix, choice: CodecChoice) -> Result<(CodecChoice, Reason)> {
    if codec_of(CodecId::ZPLANES)?.accepts_dtype(tensor.dtype).is_ok() {
        return Ok((
            CodecChoice { options: choice.options, ..CodecChoice::of(CodecId::ZPLANES) },
            Reason::Recipe,
        ));
    }
    Ok(match importer(tensor.dtype, matrix)? {
        Some(kept) => (kept, Reason::Imported),
        None => (CodecChoice::RAW, Reason::SourceType),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tca_tbe::Profile;

    fn tensor(dtype: DType) -> TensorInfo {
        TensorInfo {
            name: "blk.0.attn_q.weight".into(),
            source_name: "q".into(),
            role: Role::ATTN_Q,
            layer: Some(0),
            part: Part::WEIGHT,
            experts: 0,
            dtype,
            dims: vec![2048, 2048],
        }
    }

    #[test]
    fn names_with_options_parse_and_print_back() {
        for text in [
            "raw",
            "bf16",
            "int4:g32",
            "tca-tbe",
            "tca-tbe:tbe2",
            "lossless",
            "lossless:tbe3",
            "lossless:tbe2:z19",
            "zplanes:z3",
        ] {
            assert_eq!(text.parse::<CodecChoice>().unwrap().to_string(), text);
        }
        assert_eq!("lossless:tbe2".parse::<CodecChoice>().unwrap().options.profile, Some(Profile::Tbe2));
        for (text, message) in [
            ("int9", "known are raw, lossless, f32"),
            ("int4:tbe2", "takes a group size such as g32"),
            ("tca-tbe:g32", "takes a profile: tbe3, tbe2"),
        ] {
            let error = text.parse::<CodecChoice>().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn lossless_has_a_codec_for_each_type() {
        let recipe = Recipe::new("lossless:tbe2:z19".parse().unwrap());
        let plain = |bytes: u64| 2048 * 2048 * bytes;
        for (dtype, codec, options, reason, most) in [
            (DType::BF16, CodecId::TCA_TBE, ":tbe2", Reason::Recipe, plain(2)),
            (DType::F32, CodecId::ZPLANES, ":z19", Reason::Recipe, plain(4)),
            (DType::F16, CodecId::ZPLANES, ":z19", Reason::Recipe, plain(2)),
            (DType::I8, CodecId::ZPLANES, ":z19", Reason::Recipe, plain(1)),
            (DType::Q4_K, CodecId::INT4, "", Reason::Imported, plain(1)),
            (DType::MXFP4, CodecId::MXFP4, "", Reason::Imported, plain(1)),
            (DType::IQ4_XS, CodecId::RAW_F32, "", Reason::SourceType, plain(4)),
        ] {
            let kept = choose(0, &tensor(dtype), &recipe, 1).unwrap();
            assert_eq!((kept.codec, kept.reason), (codec, reason), "{dtype}");
            assert_eq!(kept.options.to_string(), options, "{dtype}");
            assert!(kept.length.max() <= most, "{dtype}");
        }
        let wrong = Recipe::new("zplanes:z23".parse().unwrap());
        let error = choose(0, &tensor(DType::F16), &wrong, 1).unwrap_err().to_string();
        assert!(error.contains("allowed 1 to 22"), "{error}");
    }

    #[test]
    fn quantized_blocks_are_kept_by_whichever_codec_holds_them() {
        let recipe = Recipe::new("tca-tbe".parse().unwrap());
        assert!(choose(0, &tensor(DType::Q4_K), &recipe, 1).is_err());
        for (wish, source, codec, reason) in [
            ("int4", DType::Q4_K, CodecId::INT4, Reason::Imported),
            ("mxfp4", DType::Q4_K, CodecId::INT4, Reason::Imported),
            ("int4", DType::MXFP4, CodecId::MXFP4, Reason::Imported),
            ("mxfp4", DType::MXFP4, CodecId::MXFP4, Reason::Imported),
            ("int4", DType::Q8_0, CodecId::Q8, Reason::Imported),
            ("int4", DType::Q6_K, CodecId::Q8, Reason::Requantized),
            ("mxfp4", DType::BF16, CodecId::MXFP4, Reason::Recipe),
        ] {
            let kept = choose(0, &tensor(source), &Recipe::new(wish.parse().unwrap()), 1).unwrap();
            assert_eq!((kept.codec, kept.reason), (codec, reason), "{wish} {source}");
        }
    }

    #[test]
    fn tca_tbe_by_name_refuses_what_it_would_round() {
        let recipe = Recipe::new("tca-tbe".parse().unwrap());
        let error = choose(0, &tensor(DType::F32), &recipe, 1).unwrap_err().to_string();
        assert!(error.contains("blk.0.attn_q.weight") && error.contains("source is F32"), "{error}");
    }
}
