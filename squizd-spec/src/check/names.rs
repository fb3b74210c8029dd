//! Rules of tensor names: canonical for their meaning, and unique.

use super::Sink;
use crate::{NO_LAYER, Part, Result, Role, SquizdError, layout::TensorRecord};
use alloc::{format, vec::Vec};
use core::fmt::Write;

/// Compares a name with [`crate::canonical_name`] without building it.
pub(super) fn is_canonical(name: &str, role: Role, layer: u16, part: Part) -> bool {
    struct Rest<'n>(&'n str);
    impl Write for Rest<'_> {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            self.0 = self.0.strip_prefix(s).ok_or(core::fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(name);
    let written = if layer == NO_LAYER {
        write!(rest, "{role}.{part}")
    } else {
        write!(rest, "blk.{layer}.{role}.{part}")
    };
    written.is_ok() && rest.0.is_empty()
}

/// Names are unique, and with canonical names so is (layer, role, part).
pub(super) fn check_unique(
    records: &[TensorRecord],
    names: &str,
    table_at: u64,
    sink: Sink<'_>,
) -> Result<()> {
    let name_of = |i: u32| {
        let record = records.get(i as usize)?;
        let start = record.name_offset.get() as usize;
        names.get(start..start + usize::from(record.name_length.get()))
    };
    // Sorting by a hash first keeps the comparison of long common prefixes
    // off the path of honest files; equal hashes fall back to the name.
    let mut keys: Vec<(u64, u32)> =
        (0..records.len() as u32).map(|i| (fnv(name_of(i).unwrap_or_default().as_bytes()), i)).collect();
    keys.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| name_of(a.1).cmp(&name_of(b.1))).then(a.1.cmp(&b.1))
    });
    for pair in keys.windows(2) {
        if let [(hash, first), (other, second)] = *pair
            && hash == other
            && name_of(first) == name_of(second)
        {
            let at = table_at + u64::from(second) * size_of::<TensorRecord>() as u64;
            sink(SquizdError::invalid(
                "name-duplicate",
                at,
                format!(
                    "tensors {first} and {second} are both named {:?}",
                    name_of(first).unwrap_or_default()
                ),
            ))?;
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
