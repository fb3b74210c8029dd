//! What the user asked for: one codec, a mix by role and layer, overrides.

use super::CodecChoice;
use crate::{Error, Result, source::TensorInfo};
use regex::Regex;
use squizd_spec::Role;
use std::collections::BTreeMap;

/// All options of a conversion that affect the output's bytes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Name of the mix, where it is not one codec for all.
    pub mix: Option<&'static str>,
    /// Codec of weight matrices that no route takes.
    pub default: CodecChoice,
    /// Codecs by role and layer, first match wins.
    pub routes: Vec<Route>,
    /// Codecs chosen tensor by tensor ([`crate::auto`]), by name.
    pub chosen: BTreeMap<String, CodecChoice>,
    /// Overrides by name, last match wins; they come before everything else.
    pub overrides: Vec<(Regex, CodecChoice)>,
    /// Re-encode tensors that the source already quantized, at a loss.
    pub allow_requantize: bool,
    /// Further options, to be recorded with the others.
    pub recorded: BTreeMap<&'static str, serde_json::Value>,
}

/// A codec for some roles in some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Roles; empty for all.
    pub roles: Vec<Role>,
    /// Layers.
    pub layers: Layers,
    /// Their codec.
    pub choice: CodecChoice,
}

/// Some of a model's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Everything, in the layer stack or outside it.
    All,
    /// The first and the last so many blocks.
    Ends(u16),
}

impl Route {
    fn takes(&self, tensor: &TensorInfo, num_layers: u16) -> bool {
        let layer = match (self.layers, tensor.layer) {
            (Layers::All, _) => true,
            (Layers::Ends(n), Some(layer)) => layer < n || layer >= num_layers.saturating_sub(n),
            (Layers::Ends(_), None) => false,
        };
        layer && (self.roles.is_empty() || self.roles.contains(&tensor.role))
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roles: Vec<_> = self.roles.iter().map(ToString::to_string).collect();
        f.write_str(if roles.is_empty() { "all".to_owned() } else { roles.join("|") }.as_str())?;
        if let Layers::Ends(n) = self.layers {
            write!(f, "@ends({n})")?;
        }
        write!(f, "={}", self.choice)
    }
}

/// A mix of codecs by role and layer.
struct Mix {
    name: &'static str,
    default: &'static str,
    routes: &'static [(&'static [Role], Layers, &'static str)],
}

const GATE_UP: &[Role] =
    &[Role::FFN_GATE, Role::FFN_UP, Role::MOE_GATE, Role::MOE_UP, Role::SHARED_GATE, Role::SHARED_UP];
const FFN: &[Role] = &[
    Role::FFN_GATE,
    Role::FFN_UP,
    Role::FFN_DOWN,
    Role::MOE_GATE,
    Role::MOE_UP,
    Role::MOE_DOWN,
    Role::SHARED_GATE,
    Role::SHARED_UP,
    Role::SHARED_DOWN,
];
const OUTSIDE: &[Role] = &[Role::TOKEN_EMBD, Role::OUTPUT];

/// The mixes of the source documents.
const MIXES: &[Mix] = &[
    // ASTC for the feed-forward blocks, INT4 for attention.
    Mix { name: "astc-hybrid", default: "int4", routes: &[(FFN, Layers::All, "astc")] },
    // Rotated 2-bit gate and up; 3 bits for attention and down; 4 bits where
    // errors reach furthest: the first and last two blocks, embedding and head.
    Mix {
        name: "sqint2-routed",
        default: "int3",
        routes: &[
            (OUTSIDE, Layers::All, "int4"),
            (&[], Layers::Ends(2), "int4"),
            (GATE_UP, Layers::All, "sqint2:2.125"),
        ],
    },
];

impl Recipe {
    /// One codec for all weight matrices.
    pub fn new(default: CodecChoice) -> Self {
        Self {
            mix: None,
            default,
            routes: Vec::new(),
            chosen: BTreeMap::new(),
            overrides: Vec::new(),
            allow_requantize: false,
            recorded: BTreeMap::new(),
        }
    }

    /// A mix or a codec, by name.
    ///
    /// # Errors
    /// If it is neither, or this build lacks one of the mix's codecs.
    pub fn named(text: &str) -> Result<Self> {
        let Some(mix) = MIXES.iter().find(|m| m.name == text) else {
            let mixes: Vec<_> = MIXES.iter().map(|m| m.name).collect();
            return text
                .parse()
                .map(Self::new)
                .map_err(|e| Error::invalid(format!("{e}; mixes are {}, auto", mixes.join(", "))));
        };
        let choice = |codec: &str| {
            let lacks = |e: Error| Error::unsupported(format!("mix {text} needs codec {codec}: {e}"));
            codec.parse::<CodecChoice>().map_err(lacks)
        };
        let mut recipe = Self::new(choice(mix.default)?);
        recipe.mix = Some(mix.name);
        for (roles, layers, codec) in mix.routes {
            recipe.routes.push(Route { roles: roles.to_vec(), layers: *layers, choice: choice(codec)? });
        }
        Ok(recipe)
    }

    /// What to call it: the mix, or the codec.
    pub fn label(&self) -> String {
        self.mix.map_or_else(|| self.default.to_string(), str::to_owned)
    }

    /// The codec of a matrix that no override names.
    pub(super) fn choice(&self, tensor: &TensorInfo, num_layers: u16) -> CodecChoice {
        let chosen = self.chosen.get(&tensor.name);
        let routed = || self.routes.iter().find(|r| r.takes(tensor, num_layers)).map(|r| &r.choice);
        *chosen.or_else(routed).unwrap_or(&self.default)
    }

    /// The recipe as recorded in the provenance.
    pub fn to_json(&self) -> serde_json::Value {
        let overrides: Vec<_> = self.overrides.iter().map(|(re, c)| format!("{}={c}", re.as_str())).collect();
        let mut json = serde_json::json!({
            "codec": self.label(),
            "tensor_types": overrides,
            "allow_requantize": self.allow_requantize,
        });
        if !self.routes.is_empty() {
            let mut routes: Vec<_> = self.routes.iter().map(ToString::to_string).collect();
            routes.push(format!("all={}", self.default));
            json["routes"] = routes.into();
        }
        for (key, value) in &self.recorded {
            json[*key] = value.clone();
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squizd_spec::{DType, Part};

    fn tensor(role: Role, layer: Option<u16>) -> TensorInfo {
        TensorInfo {
            name: squizd_spec::canonical_name(role, layer, Part::WEIGHT),
            source_name: String::new(),
            role,
            layer,
            part: Part::WEIGHT,
            experts: 0,
            dtype: DType::BF16,
            dims: vec![64, 64],
        }
    }

    #[test]
    fn routes_go_by_role_and_layer_and_the_first_wins() {
        let choice = |text: &str| text.parse::<CodecChoice>().unwrap();
        let mut recipe = Recipe::new(choice("q8"));
        recipe.mix = Some("test");
        let route =
            |roles: &[Role], layers, codec| Route { roles: roles.to_vec(), layers, choice: choice(codec) };
        recipe.routes = vec![
            route(&[], Layers::Ends(2), "int4"),
            route(&[Role::FFN_UP, Role::OUTPUT], Layers::All, "int4:g64"),
        ];
        for (role, layer, want) in [
            (Role::FFN_UP, Some(1), "int4"),
            (Role::FFN_UP, Some(2), "int4:g64"),
            (Role::FFN_UP, Some(6), "int4"),
            (Role::ATTN_Q, Some(5), "q8"),
            (Role::OUTPUT, None, "int4:g64"),
            (Role::TOKEN_EMBD, None, "q8"),
        ] {
            assert_eq!(recipe.choice(&tensor(role, layer), 8).to_string(), want, "{role} {layer:?}");
        }
        recipe.chosen.insert("blk.2.ffn_up.weight".into(), choice("f16"));
        assert_eq!(recipe.choice(&tensor(Role::FFN_UP, Some(2)), 8).to_string(), "f16");
        let json = recipe.to_json();
        assert_eq!(json["codec"], "test");
        assert_eq!(
            json["routes"],
            serde_json::json!(["all@ends(2)=int4", "ffn_up|output=int4:g64", "all=q8"])
        );
        // A model of fewer blocks is all ends.
        assert_eq!(recipe.choice(&tensor(Role::ATTN_Q, Some(1)), 3).to_string(), "int4");
    }

    #[test]
    fn mixes_and_codecs_go_by_name() {
        assert_eq!(Recipe::named("int4:g32").unwrap().label(), "int4:g32");
        assert_eq!(Recipe::named("sqint2-routed").unwrap().default.to_string(), "int3");
        for mix in MIXES {
            match Recipe::named(mix.name) {
                Ok(recipe) => {
                    assert_eq!((recipe.label().as_str(), recipe.routes.len()), (mix.name, mix.routes.len()));
                }
                Err(e) => assert!(e.to_string().contains("needs codec"), "{e}"),
            }
        }
        let error = Recipe::named("int9").unwrap_err().to_string();
        assert!(error.contains("unknown codec \"int9\"") && error.contains("astc-hybrid"), "{error}");
    }
}
