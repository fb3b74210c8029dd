//! How attention is spread over workgroups (`shaders/attention.wgsl`).

use super::super::device::Abilities;
use super::super::model::GpuModel;
use super::buffers::narrow;
use crate::Result;
use squizd_shaders::Options;

/// Invocations of a workgroup for one token, where the device has so many: 512 were faster
/// than 256 and 1024.
const WORKGROUP: u32 = 512;
/// The same for each of many tokens, whose workgroups are many, unless a head has more
/// vectors: most of 512 wait for the few that bring a short row's parts together.
const BATCH_WORKGROUP: u32 = 128;
/// Vectors of a key that an invocation has at most, and of several keys at a time.
const CHUNK: u32 = 16;
const UNDER_WAY: u32 = 8;
/// Invocations that share a key's products, for heads up to CHUNK times as many
/// vectors.
const LANES: u32 = 4;
/// Workgroups that a large device should have at least.
const ENOUGH: u32 = 256;

/// How a workgroup is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Invocations of the workgroup.
    workgroup: u32,
    /// Vectors of four values of a head.
    pub(super) quads: u32,
    /// Query heads of a workgroup.
    pub(super) heads: u32,
    /// Invocations that share a key.
    lanes: u32,
    /// Keys that each has under way.
    unroll: u32,
}

impl Shape {
    /// For `n` tokens, in `shares` shares.
    pub(super) fn of(model: &GpuModel<'_, '_>, n: u32, shares: u32) -> Result<Self> {
        let heads = &model.model.heads;
        let dim = narrow(heads.dim)?;
        let share = narrow(heads.queries / heads.keys)?;
        let workgroups = narrow(heads.queries)?.saturating_mul(n).saturating_mul(shares);
        let largest = if model.gpu.abilities().max_workgroup < WORKGROUP { WORKGROUP / 2 } else { WORKGROUP };
        let workgroup = if n > 1 { BATCH_WORKGROUP } else { largest };
        Ok(Self::for_heads(workgroup, dim, share, workgroups / ENOUGH))
    }

    /// For heads of `dim` values, `share` to a key head: several together, which reads the
    /// cache once for them, but no more than `most`.
    fn for_heads(workgroup: u32, dim: u32, share: u32, most: u32) -> Self {
        let quads = dim.div_ceil(4).max(1);
        let wanted = (quads / CHUNK).max(LANES).next_power_of_two();
        let lanes = wanted.min(1 << quads.trailing_zeros());
        let chunk = quads / lanes;
        let most = (CHUNK / chunk).min(most).clamp(1, LANES);
        let heads = (1..=most).rev().find(|h| share.is_multiple_of(*h)).unwrap_or(1);
        let workgroup = workgroup.max(quads.next_power_of_two());
        Self { workgroup, quads, heads, lanes, unroll: (UNDER_WAY / chunk).clamp(1, 4) }
    }

    /// Whether a workgroup holds the queries and the key of one position.
    pub(super) fn holds_own(self) -> bool {
        (self.heads + 1) * self.quads <= self.workgroup
    }

    pub(super) fn options(self, abilities: Abilities) -> Options {
        let Self { workgroup, quads, heads, lanes, unroll } = self;
        let tile = workgroup / lanes * unroll;
        let options = Options::default()
            .with("WG", workgroup)
            .with("QUADS", quads)
            .with("HEADS", heads)
            .with("LANES", lanes)
            .with("CHUNK", quads / lanes)
            .with("UNROLL", unroll)
            .with("RUNS", tile.div_ceil((workgroup / quads).max(1)));
        match abilities.subgroup {
            Some((smallest, _)) if lanes <= smallest => options.flag("SHUFFLE"),
            _ => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_have_whole_heads_and_few_vectors() {
        for dim in 1..=1024 {
            for (share, workgroup) in [1, 2, 3, 4, 5, 7, 8].into_iter().flat_map(|s| [(s, 128), (s, 512)]) {
                let shape = Shape::for_heads(workgroup, dim, share, 4);
                assert!(shape.workgroup.is_power_of_two() && shape.quads <= shape.workgroup, "{dim}");
                assert_eq!(shape.quads % shape.lanes, 0, "{dim}");
                assert!(share % shape.heads == 0 && shape.lanes.is_power_of_two());
                let chunk = shape.quads / shape.lanes;
                assert!(chunk * shape.unroll <= UNDER_WAY.max(chunk), "{dim}: {shape:?}");
            }
        }
        let usual = |dim, share, most| {
            let Shape { quads, heads, lanes, unroll, .. } = Shape::for_heads(512, dim, share, most);
            [quads, heads, lanes, unroll]
        };
        assert_eq!(usual(64, 4, 0), [16, 1, 4, 2]);
        assert_eq!(usual(64, 3, 9), [16, 3, 4, 2]);
        assert_eq!(usual(128, 4, 2), [32, 2, 4, 1]);
        assert_eq!(usual(256, 2, 8), [64, 1, 4, 1]);
        assert_eq!(usual(1024, 1, 1), [256, 1, 16, 1]);
        let batch = |dim| Shape::for_heads(BATCH_WORKGROUP, dim, 1, 1).workgroup;
        assert_eq!([batch(64), batch(512), batch(1024)], [128, 128, 256]);
    }
}
