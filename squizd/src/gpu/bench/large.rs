//! Matrices as large as those of models, of which a part is encoded.

use super::super::codec::{GPU_CODECS, GpuCodec, Slot, Tensor, kernels as kernels_of};
use super::super::sample::{Sample, gaussian};
use crate::codec::{EncodeOptions, IntegerLayout, Quality, codec};
use crate::{Error, Result};
use squizd_spec::{CodecId, PayloadLength};

/// Layouts of a codec that are worth a row of their own.
fn layouts(id: CodecId) -> Vec<(&'static str, EncodeOptions)> {
    let none = EncodeOptions::NONE;
    match id {
        CodecId::INT4 | CodecId::INT3 | CodecId::INT2 => {
            let layout = |l| EncodeOptions { layout: Some(l), ..none };
            vec![
                ("plain g32", EncodeOptions { group_size: Some(32), ..none }),
                ("compact", layout(IntegerLayout::Compact)),
                ("fine", layout(IntegerLayout::Fine)),
            ]
        }
        // Windows of 10 and of 8 bits.
        CodecId::SQINT2 => vec![("", none), ("fast", EncodeOptions { quality: Some(Quality::Fast), ..none })],
        _ => vec![("", none)],
    }
}

/// A codec in one of its layouts.
pub(super) struct Wanted {
    pub(super) codec: &'static GpuCodec,
    /// Name of the codec, and of the layout if it has several.
    pub(super) label: String,
    pub(super) options: EncodeOptions,
}

/// What `names` ask for, each a codec's or `codec:layout`; everything, if there
/// are none.
pub(super) fn wanted(names: &[String]) -> Result<Vec<Wanted>> {
    let is = |name: &str, id: CodecId, layout: &str| {
        let (codec, wanted) = name.split_once(':').unwrap_or((name, layout));
        id.name() == Some(codec) && (wanted == layout || layout.split(' ').any(|word| word == wanted))
    };
    let all = || GPU_CODECS.iter().flat_map(|codec| layouts(codec.id).into_iter().map(move |l| (codec, l)));
    if let Some(name) = names.iter().find(|n| !all().any(|(codec, (layout, _))| is(n, codec.id, layout))) {
        return Err(Error::invalid(format!("codec {name:?} has no GPU kernels")));
    }
    let chosen = all().filter(|(codec, (layout, _))| {
        names.is_empty() || names.iter().any(|name| is(name, codec.id, layout))
    });
    let labelled = chosen.map(|(codec, (layout, options))| {
        let label = if layout.is_empty() { codec.id.to_string() } else { format!("{} {layout}", codec.id) };
        Wanted { codec, label, options }
    });
    Ok(labelled.collect())
}

/// Rows that are encoded; larger matrices repeat them.
const ENCODED_ROWS: u64 = 96;

/// A matrix of `rows` rows, of which the first are repeated where the payload
/// is planes of rows or strips.
pub(super) fn large_sample(id: CodecId, rows: u64, cols: u64, options: EncodeOptions) -> Result<Sample> {
    let codec =
        codec(id).ok_or_else(|| Error::unsupported(format!("codec {id} has no encoder in this build")))?;
    let some = rows.min(ENCODED_ROWS);
    let values = |rows: u64| gaussian((rows * cols) as usize, 7).into_iter().map(|v| v * 0.02).collect();
    let small = Sample::encode(codec, cols, values(some), options)?;
    let of =
        |matrix| id.geometry(matrix, &small.params).map_err(|e| Error::invalid(format!("codec {id}: {e:?}")));
    let matrix = squizd_spec::Matrix { rows, cols };
    let (from, to) = (of(small.matrix)?, of(matrix)?);
    let PayloadLength::Exact(length) = to.length else {
        return Sample::encode(codec, cols, values(rows), options);
    };
    let mut data = vec![0; length as usize];
    let slots = |matrix, geometry, length| -> Result<Vec<Slot>> {
        let tensor = Tensor { matrix, params: &small.params, geometry, length };
        let kernels = kernels_of(id, &small.params).ok_or_else(|| Error::unsupported("no kernels"))?;
        Ok((kernels.describe)(&tensor)?.slots)
    };
    let from = slots(small.matrix, from, small.data.len() as u64)?;
    for (from, to) in from.iter().zip(slots(matrix, to, length)?) {
        let source = small.data.get(from.offset as usize..).unwrap_or_default();
        let target = data.get_mut(to.offset as usize..).unwrap_or_default();
        // What does not depend on rows comes last.
        if to.row_stride == 0 {
            if let Some(target) = target.get_mut(..source.len()) {
                target.copy_from_slice(source);
            }
            continue;
        }
        let runs = |rows: u64| rows.div_ceil(to.rows_per_run) as usize;
        let (stride, count) = (to.row_stride as usize, runs(rows));
        for (i, run) in target.chunks_exact_mut(stride).take(count).enumerate() {
            if let Some(source) = source.chunks_exact(stride).nth(i % runs(some)) {
                run.copy_from_slice(source);
            }
        }
    }
    Ok(Sample { matrix, data, ..small })
}
