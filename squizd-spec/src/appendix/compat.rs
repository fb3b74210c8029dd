//! What goes together: the table that the specification prints and the
//! validator enforces.
//!
//! Sparsity skips whole clusters of neurons, so every cluster must begin where
//! the codec's smallest independently readable unit begins: along the rows of
//! `ffn_gate` and `ffn_up`, and along the columns of `ffn_down`.

use super::{Report, Sparsity, sparsity};
use crate::{CodecId, Params, Part, Result, Role, SquizdError, TensorDesc, int_layout};
use alloc::{collections::BTreeMap, format};

/// Where clusters may begin along one axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granule {
    /// Anywhere.
    Any,
    /// At multiples of this.
    Multiple(u32),
    /// Integer codecs: at multiples of the larger of 32 and the group size in
    /// the plain layout, of 256 in the others.
    Group,
    /// Nowhere: the codec excludes sparsity, and why.
    Excluded(&'static str),
}

impl Granule {
    /// The multiple for a tensor's parameters, or why there is none.
    fn resolve(self, params: &Params) -> core::result::Result<u32, &'static str> {
        let [layout, group, ..] = *params;
        match self {
            Self::Any => Ok(1),
            Self::Multiple(n) => Ok(n),
            Self::Group if layout == int_layout::PLAIN => Ok(u32::from(group).max(32)),
            Self::Group => Ok(256),
            Self::Excluded(why) => Err(why),
        }
    }
}

impl core::fmt::Display for Granule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Multiple(n) => write!(f, "multiples of {n}"),
            Self::Group => f.write_str("plain: multiples of max(32, group); else: of 256"),
            Self::Excluded(why) => write!(f, "excluded: {why}"),
        }
    }
}

/// What sparsity asks of a tensor of one codec.
#[derive(Clone, Copy, Debug)]
pub struct CodecRule {
    /// Wire id; ids reserved for later minor versions are already ruled.
    pub codec: CodecId,
    /// Name, also of reserved codecs.
    pub name: &'static str,
    /// Cluster boundaries along rows (`ffn_gate`, `ffn_up`).
    pub rows: Granule,
    /// Cluster boundaries along columns (`ffn_down`).
    pub cols: Granule,
}

const fn rule(codec: u16, name: &'static str, rows: Granule, cols: Granule) -> CodecRule {
    CodecRule { codec: CodecId(codec), name, rows, cols }
}

const ENTROPY: Granule = Granule::Excluded("compressed as a whole, no random access");
const ROTATED: Granule = Granule::Excluded("the Hadamard rotation mixes neurons");

/// One rule per codec id, defined or reserved, in wire order.
pub const CODEC_RULES: &[CodecRule] = &[
    rule(1, "f32", Granule::Any, Granule::Any),
    rule(2, "f16", Granule::Any, Granule::Any),
    rule(3, "bf16", Granule::Any, Granule::Any),
    rule(4, "i8", Granule::Any, Granule::Any),
    rule(5, "zplanes", ENTROPY, ENTROPY),
    rule(6, "q8", Granule::Any, Granule::Multiple(32)),
    rule(7, "int4", Granule::Any, Granule::Group),
    rule(8, "int3", Granule::Any, Granule::Group),
    rule(9, "int2", Granule::Any, Granule::Group),
    rule(10, "astc", Granule::Multiple(6), Granule::Multiple(6)),
    rule(11, "tca-tbe", Granule::Any, Granule::Multiple(1024)),
    rule(12, "mxfp4", Granule::Any, Granule::Multiple(32)),
    rule(13, "hybrid", Granule::Any, Granule::Multiple(64)),
    rule(14, "sqint2", Granule::Multiple(16), ROTATED),
];

/// Reports every tensor that does not go together with the sparsity appendix
/// of a whole file (of a sharded one: joined).
pub fn check_compat<'t>(
    sparsity: &Sparsity<'_>,
    tensors: impl IntoIterator<Item = TensorDesc<'t>>,
    report: Report<'_>,
) -> Result<()> {
    let ffn: BTreeMap<(u16, Role), TensorDesc<'t>> = tensors
        .into_iter()
        .filter(|t| t.part == Part::WEIGHT)
        .filter(|t| matches!(t.role, Role::FFN_GATE | Role::FFN_UP | Role::FFN_DOWN))
        .filter_map(|t| Some(((t.layer?, t.role), t)))
        .collect();
    for layer in sparsity.layers() {
        let index = layer.entry.layer.get();
        for role in [Role::FFN_GATE, Role::FFN_UP, Role::FFN_DOWN] {
            let path = format!("sparsity layer {index} / {role}");
            let report: Report<'_> = &mut |e: SquizdError| report(e.within(&path));
            match ffn.get(&(index, role)) {
                Some(tensor) => check_tensor(layer, tensor, report)?,
                None => report(SquizdError::invalid(
                    "compat-sparse-missing",
                    layer.entry_offset,
                    format!("layer {index} has no {role}.weight; sparsity needs gate, up and down"),
                ))?,
            }
        }
    }
    Ok(())
}

fn check_tensor(layer: &sparsity::Layer<'_>, tensor: &TensorDesc<'_>, report: Report<'_>) -> Result<()> {
    let neurons = u64::from(layer.entry.n_neurons.get());
    let width = u64::from(layer.entry.d_model.get());
    let columns = tensor.role == Role::FFN_DOWN;
    let want = if columns { [width, neurons] } else { [neurons, width] };
    if tensor.dims[..] != want {
        let message = format!("{} has dims {:?}, the appendix needs {want:?}", tensor.name, tensor.dims);
        report(SquizdError::invalid("compat-sparse-shape", layer.entry_offset, message))?;
    }
    let Some(rule) = CODEC_RULES.iter().find(|r| r.codec == tensor.codec) else { return Ok(()) };
    let granule = if columns { rule.cols } else { rule.rows };
    let multiple = match granule.resolve(tensor.params) {
        Ok(multiple) => multiple,
        Err(why) => {
            let message = format!("{} is {}, which excludes sparsity: {why}", tensor.name, rule.name);
            return report(SquizdError::invalid("compat-sparse-codec", layer.entry_offset, message));
        }
    };
    let starts = layer.boundaries.split_last().map_or(&[][..], |(_, starts)| starts);
    if let Some((i, start)) = starts.iter().enumerate().find(|(_, b)| !b.get().is_multiple_of(multiple)) {
        let message = format!(
            "cluster {i} begins at neuron {start}, {} ({}) needs multiples of {multiple}",
            tensor.name, rule.name
        );
        report(SquizdError::invalid("compat-sparse-boundary", layer.boundary_offset(i), message))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, layout::TensorRecord};
    use alloc::{vec, vec::Vec};
    use zerocopy::FromBytes;

    const SPEC: &str = include_str!("../../../docs/squizd_format_spec.md");
    const BASE: u64 = 65536;
    const WIDTH: u64 = 512;

    /// One layer of 1024 neurons whose second cluster begins at `start`.
    fn appendix(start: u32) -> Vec<u8> {
        let permutation: Vec<u32> = (0..1024).collect();
        let layer = sparsity::LayerData {
            layer: 2,
            d_model: WIDTH as u32,
            expected_sparsity: 0.5,
            threshold: 0.0,
            boundaries: &[0, start, 1024],
            histogram: &[1.0, 0.5],
            permutation: &permutation,
            predictor: &vec![0; 2 * WIDTH as usize],
        };
        sparsity::write(&[layer], &Limits::DEFAULT).unwrap()
    }

    fn record(role: Role, codec: u16, params: [u8; 2], dims: [u64; 2]) -> TensorRecord {
        let mut r = TensorRecord::read_from_bytes(&[0; 152]).unwrap();
        r.role = role.0.into();
        r.layer = 2.into();
        r.codec = codec.into();
        r.rank = 2;
        r.dims[0] = dims[0].into();
        r.dims[1] = dims[1].into();
        r.params[..2].copy_from_slice(&params);
        r
    }

    fn ffn(gate: (u16, [u8; 2]), down: (u16, [u8; 2])) -> [TensorRecord; 3] {
        [
            record(Role::FFN_GATE, gate.0, gate.1, [1024, WIDTH]),
            record(Role::FFN_UP, 1, [0, 0], [1024, WIDTH]),
            record(Role::FFN_DOWN, down.0, down.1, [WIDTH, 1024]),
        ]
    }

    fn findings(start: u32, records: &[TensorRecord]) -> Vec<(&'static str, u64)> {
        let bytes = appendix(start);
        let sparsity = Sparsity::parse(&bytes, BASE, &Limits::DEFAULT).unwrap();
        let tensors = records.iter().enumerate().map(|(i, r)| TensorDesc::of(i, r, "", 0));
        let mut found = Vec::new();
        check_compat(&sparsity, tensors, &mut |e| {
            found.push((e.code().0, e.offset()));
            Ok(())
        })
        .unwrap();
        found
    }

    /// Offset of boundary 1: entries end at 48, data at 256.
    const BOUNDARY: u64 = BASE + 256 + 4;
    const ENTRY: u64 = BASE + 16;

    #[test]
    fn the_table_covers_every_codec_once_and_the_specification_prints_it() {
        assert!(CODEC_RULES.windows(2).all(|w| w[0].codec < w[1].codec));
        for codec in CodecId::ALL {
            let rule = CODEC_RULES.iter().find(|r| r.codec == *codec).unwrap();
            assert_eq!(codec.name(), Some(rule.name));
        }
        for r in CODEC_RULES {
            let row = format!("| {} `{}` | {} | {} |", r.codec.0, r.name, r.rows, r.cols);
            assert!(SPEC.contains(&row), "the specification lacks {row}");
        }
    }

    #[test]
    fn boundaries_follow_the_codec_along_each_axis() {
        const RAW: (u16, [u8; 2]) = (1, [0, 0]);
        const PLAIN_128: (u16, [u8; 2]) = (7, [0, 128]);
        const PLAIN_16: (u16, [u8; 2]) = (7, [0, 16]);
        const COMPACT: (u16, [u8; 2]) = (7, [1, 32]);
        const Q8: (u16, [u8; 2]) = (6, [32, 0]);
        const ASTC: (u16, [u8; 2]) = (10, [0, 0]);
        let bad = [("compat-sparse-boundary", BOUNDARY)];
        assert_eq!(findings(7, &ffn(RAW, RAW)), []);
        assert_eq!(findings(7, &ffn(COMPACT, RAW)), []);
        assert_eq!(findings(256, &ffn(COMPACT, COMPACT)), []);
        assert_eq!(findings(128, &ffn(COMPACT, COMPACT)), bad);
        assert_eq!(findings(128, &ffn(RAW, PLAIN_128)), []);
        assert_eq!(findings(64, &ffn(RAW, PLAIN_128)), bad);
        assert_eq!(findings(32, &ffn(RAW, PLAIN_16)), []);
        assert_eq!(findings(16, &ffn(RAW, PLAIN_16)), bad);
        assert_eq!(findings(32, &ffn(Q8, Q8)), []);
        assert_eq!(findings(33, &ffn(Q8, Q8)), bad);
        assert_eq!(findings(12, &ffn(ASTC, RAW)), []);
        assert_eq!(findings(8, &ffn(ASTC, RAW)), bad);
        assert_eq!(findings(8, &ffn(ASTC, ASTC)).len(), 2);
    }

    #[test]
    fn excluded_codecs() {
        let found = findings(256, &ffn((5, [0, 0]), (14, [0, 0])));
        assert_eq!(found, [("compat-sparse-codec", ENTRY), ("compat-sparse-codec", ENTRY)]);
        assert_eq!(findings(256, &ffn((14, [0, 0]), (1, [0, 0]))), []);
    }

    #[test]
    fn missing_and_misshapen_tensors() {
        let [gate, up, down] = ffn((1, [0, 0]), (1, [0, 0]));
        assert_eq!(findings(1, &[gate, up]), [("compat-sparse-missing", ENTRY)]);
        assert_eq!(findings(1, &[]).len(), 3);
        let wrong = record(Role::FFN_DOWN, 1, [0, 0], [1024, WIDTH]);
        assert_eq!(findings(1, &[gate, up, wrong]), [("compat-sparse-shape", ENTRY)]);
        let mut elsewhere = down;
        elsewhere.layer = 1.into();
        assert_eq!(findings(1, &[gate, up, elsewhere]), [("compat-sparse-missing", ENTRY)]);
    }
}
