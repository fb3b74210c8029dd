//! Rotary embedding parameters of transformers 4 (`rope_theta`,
//! `rope_scaling`) and 5 (`rope_parameters`, possibly one set per layer type).

use super::{defaults::Defaults, json::Fields};
use squizd::{
    Error, Result,
    model::{Rope, RopeScaling},
};

/// The rotary embedding of the text model `f` whose heads are `head_dim` wide.
pub(super) fn parse(f: &Fields<'_>, d: &Defaults, head_dim: u32, max_positions: u32) -> Result<Rope> {
    let old = f.object("rope_scaling")?;
    let new = f.object("rope_parameters")?;
    let nested =
        |key| -> Result<_> { new.map(|m| Fields::new("rope_parameters", m).object(key)).transpose() };
    let global = nested("full_attention")?.flatten();
    let local = nested("sliding_attention")?.flatten();
    let is_nested = global.is_some() || local.is_some();
    // transformers 5 merges a leftover `rope_scaling` over its own key.
    let chosen = if is_nested { global } else { old.filter(|m| !m.is_empty()).or(new) };
    let empty = serde_json::Map::new();
    let params = Fields::new("rope parameters", chosen.unwrap_or(&empty));

    let theta = match params.f64("rope_theta")? {
        Some(theta) => theta,
        None => f.f64("rope_theta")?.unwrap_or(d.theta),
    };
    let local_theta = match local {
        Some(map) => {
            let l = Fields::new("rope_parameters sliding_attention", map);
            let kind = l.str("rope_type")?.or(l.str("type")?).unwrap_or("default");
            if kind != "default" {
                return Err(Error::refused_unsupported(
                    "config-rope",
                    format!("rope scaling `{kind}` on sliding-window layers"),
                ));
            }
            Some(l.f64("rope_theta")?.or(d.local_theta).unwrap_or(theta))
        }
        None => f.f64("rope_local_base_freq")?.or(d.local_theta),
    };
    let share = match params.f64("partial_rotary_factor")? {
        Some(share) => share,
        None => f.f64("partial_rotary_factor")?.unwrap_or(d.rotary_share),
    };
    if !(share > 0.0 && share <= 1.0) {
        return Err(f.wrong("partial_rotary_factor", "above 0 and at most 1"));
    }
    Ok(Rope {
        theta,
        dim: (f64::from(head_dim) * share) as u32,
        local_theta: local_theta.filter(|l| *l != theta),
        scaling: scaling(f, d, &params, max_positions)?,
    })
}

fn scaling(f: &Fields<'_>, d: &Defaults, p: &Fields<'_>, max_positions: u32) -> Result<Option<RopeScaling>> {
    let kind = p.str("rope_type")?.or(p.str("type")?).unwrap_or("default");
    // Phi-3's first files say `su` (and, wrongly, `yarn`) for LongRoPE.
    let kind = match kind {
        "su" => "longrope",
        "yarn" if d.model_type == "phi3" => "longrope",
        other => other,
    };
    let need = |key: &str| -> Result<f64> { p.f64(key)?.ok_or_else(|| p.wrong(key, "a number")) };
    let original = || -> Result<u32> {
        Ok(match f.u32("original_max_position_embeddings")? {
            Some(n) => n,
            None => p.u32("original_max_position_embeddings")?.unwrap_or(match d.model_type {
                "phi3" => d.positions,
                _ => max_positions,
            }),
        })
    };
    Ok(Some(match kind {
        // Multimodal sections make no difference to text.
        "default" | "mrope" => return Ok(None),
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: need("factor")?, original_max_positions: max_positions },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_positions: original()?,
        },
        "yarn" => {
            let original_max_positions = original()?;
            let nonzero = |v: Option<f64>| v.filter(|x| *x != 0.0);
            RopeScaling::Yarn {
                factor: match p.f64("factor")? {
                    Some(factor) => factor,
                    None => f64::from(max_positions) / f64::from(original_max_positions.max(1)),
                },
                beta_fast: nonzero(p.f64("beta_fast")?).unwrap_or(32.0),
                beta_slow: nonzero(p.f64("beta_slow")?).unwrap_or(1.0),
                original_max_positions,
                attention_factor: p.f64("attention_factor")?,
                mscale: nonzero(p.f64("mscale")?),
                mscale_all_dim: nonzero(p.f64("mscale_all_dim")?),
                truncate: p.bool("truncate")?.unwrap_or(true),
            }
        }
        "longrope" => RopeScaling::Longrope {
            short_factor: p
                .f64s("short_factor")?
                .ok_or_else(|| p.wrong("short_factor", "a list of numbers"))?,
            long_factor: p.f64s("long_factor")?.ok_or_else(|| p.wrong("long_factor", "a list of numbers"))?,
            original_max_positions: original()?,
            attention_factor: p.f64("attention_factor")?,
        },
        other => {
            return Err(Error::refused_unsupported(
                "config-rope",
                format!("rope scaling `{other}`; known are linear, dynamic, llama3, yarn, longrope"),
            ));
        }
    }))
}
