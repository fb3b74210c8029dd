//! What the arguments ask for.

use super::Args;
use crate::Failure;
use regex::Regex;
use serde_json::json;
use squizd::{
    auto::{Budget, CANDIDATES},
    awq::ALPHAS,
    codec::{OptionKind, codec},
    convert::overhead,
    plan::{CodecChoice, Recipe},
    source::TensorSource,
};

/// The codec that chooses for itself.
const AUTO: &str = "auto";

/// The recipe, without what only the source can tell.
pub(super) fn recipe(args: &Args) -> Result<Recipe, Failure> {
    let wrong = |e: squizd::Error| Failure::usage(format!("--codec: {e}"));
    let auto = args.codec == AUTO;
    let mut recipe = if auto {
        // What no candidate takes keeps the source's precision.
        Recipe { mix: Some(AUTO), ..Recipe::new(CodecChoice::RAW) }
    } else {
        Recipe::named(&args.codec).map_err(wrong)?
    };
    if let Some(group) = args.group_size {
        recipe.default.options.group_size = Some(group);
    }
    if let Some(level) = args.zstd_level {
        let taken = recipe.default.option_kinds();
        let wrong = |e| Failure::usage(format!("--zstd-level: {e}"));
        recipe.default.options.set(&format!("z{level}"), &taken).map_err(wrong)?;
    }
    targets(args, &mut recipe)?;
    if let Some(alphas) = alphas(args) {
        let value = if alphas.len() == 1 { json!(alphas) } else { json!("search") };
        recipe.recorded.insert("awq", value);
    }
    recipe.allow_requantize = args.allow_requantize;
    for text in &args.tensor_types {
        let wrong = |why: String| Failure::usage(format!("--tensor-type {text:?}: {why}"));
        let (pattern, codec) = text.rsplit_once('=').ok_or_else(|| wrong("must be REGEX=CODEC".into()))?;
        let pattern = Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
        recipe.overrides.push((pattern, codec.parse().map_err(|e| wrong(format!("{e}")))?));
    }
    Ok(recipe)
}

/// Records the targets of `auto`, or hands `--target-bpw` to a codec with a rate.
fn targets(args: &Args, recipe: &mut Recipe) -> Result<(), Failure> {
    if let Some(bits) = args.target_bpw.filter(|b| !(0.5..=32.0).contains(b)) {
        return Err(Failure::usage(format!("--target-bpw is {bits}, must be between 0.5 and 32")));
    }
    if args.codec == AUTO {
        if args.target_bpw.is_none() && args.target_size.is_none() {
            return Err(Failure::usage("--codec auto needs --target-bpw or --target-size"));
        }
        let names: Vec<_> = candidates(args)?.iter().map(ToString::to_string).collect();
        recipe.recorded.insert("candidates", json!(names));
        recipe.recorded.extend(args.target_bpw.map(|bits| ("target_bpw", json!(bits))));
        recipe.recorded.extend(args.target_size.map(|bytes| ("target_size", json!(bytes))));
        return Ok(());
    }
    if args.target_size.is_some() || !args.candidates.is_empty() {
        return Err(Failure::usage("--target-size and --candidates go with --codec auto"));
    }
    if let Some(bits) = args.target_bpw {
        let takes =
            recipe.default.codec.and_then(codec).is_some_and(|c| c.options().contains(&OptionKind::Rate));
        if !takes || recipe.mix.is_some() {
            return Err(Failure::usage(format!(
                "--target-bpw: codec {} has a fixed rate; --codec auto mixes codecs to a target",
                args.codec
            )));
        }
        recipe.default.options.rate = Some((bits * 1000.0).round() as u16);
    }
    Ok(())
}

/// What `auto` chooses from.
pub(super) fn candidates(args: &Args) -> Result<Vec<CodecChoice>, Failure> {
    if args.candidates.is_empty() {
        // A build may lack some.
        return Ok(CANDIDATES.iter().filter_map(|name| name.parse().ok()).collect());
    }
    let parse =
        |name: &String| name.parse().map_err(|e| Failure::usage(format!("--candidates {name:?}: {e}")));
    args.candidates.iter().map(parse).collect()
}

/// The payload budget of `auto`.
pub(super) fn budget(
    args: &Args,
    source: &dyn TensorSource,
    recipe: &Recipe,
) -> Result<Option<Budget>, Failure> {
    if args.codec != AUTO {
        return Ok(None);
    }
    Ok(match args.target_size {
        Some(bytes) => {
            let rest = overhead(source, recipe)?;
            let payload = bytes.checked_sub(rest).ok_or_else(|| {
                Failure::usage(format!(
                    "--target-size is {bytes} bytes, but tables, tokenizer and metadata alone take {rest}"
                ))
            })?;
            Some(Budget::Bytes(payload))
        }
        None => args.target_bpw.map(Budget::BitsPerWeight),
    })
}

/// The exponents of AWQ, where it is asked for.
pub(super) fn alphas(args: &Args) -> Option<Vec<f32>> {
    args.awq_alpha.map(|a| vec![a]).or_else(|| args.awq.then(|| ALPHAS.to_vec()))
}

/// `120M`, `1.5G`, or plain bytes; decimal units, as disks are counted.
pub(in crate::cmd) fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let value: f64 = digits.parse().map_err(|_| "must be a number with k, M or G".to_owned())?;
    let bytes = value * unit;
    if bytes.is_finite() && bytes >= 1.0 { Ok(bytes as u64) } else { Err("must be positive".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("7", 7), ("2k", 2000), ("1.5M", 1_500_000), ("3G", 3_000_000_000)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "M", "-1G", "1T", "nan", "0", "1e999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
