//! The GGUF form: per weight `NAME.in_sum2` (sums of squares, one row for each
//! expert) and `NAME.counts` (tokens). `NAME.in_sum` (plain sums) is not used.

use super::{Data, Entry, Imatrix, Place};
use crate::source::gguf::{Array, GgufFile, Value};
use crate::source::store::{StoredTensor, TensorStore};
use squizd::{Error, Result};
use squizd_spec::DType;
use std::{collections::BTreeMap, path::Path};

pub(super) fn open(path: &Path) -> Result<Imatrix> {
    let file = GgufFile::open(path)?;
    let refuse = |code, message: String| Error::refused(code, format!("{}: {message}", path.display()));
    let kind = file.metadata().str("general.type")?;
    if kind != Some("imatrix") {
        return Err(refuse(
            "imatrix-kind",
            format!(
                "general.type is {kind:?}, must be \"imatrix\": this is no importance matrix of llama.cpp"
            ),
        ));
    }
    let datasets = match file.metadata().get("imatrix.datasets") {
        Some(Value::Array(Array::Str(names))) => names.iter().map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let entries = entries(file.tensors()).map_err(|message| refuse("imatrix-entry", message))?;
    if entries.is_empty() {
        return Err(refuse("imatrix-entry", "it has no entries".to_owned()));
    }
    Ok(Imatrix { path: path.to_owned(), data: Data::Gguf(file), entries, datasets })
}

/// Pairs sums and counts.
fn entries(tensors: &[StoredTensor]) -> std::result::Result<BTreeMap<String, Entry>, String> {
    let named: BTreeMap<&str, (usize, &StoredTensor)> =
        tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), (i, t))).collect();
    let mut entries = BTreeMap::new();
    for (full, (index, tensor)) in &named {
        if tensor.dtype != DType::F32 {
            return Err(format!("tensor {full} is {}, must be F32", tensor.dtype_name));
        }
        let other = |name: &str, suffix: &str| {
            let found = named.get(format!("{name}{suffix}").as_str()).copied();
            found.ok_or_else(|| format!("tensor {full} has no {name}{suffix} beside it"))
        };
        if let Some(name) = full.strip_suffix(".in_sum2") {
            let (counts, counted) = other(name, ".counts")?;
            let values = tensor.rows() * tensor.cols();
            if values == 0 || counted.rows() * counted.cols() > values {
                let (sums, counts) = (&tensor.dims, &counted.dims);
                return Err(format!("{name} has sums of the shape {sums:?} and counts of {counts:?}"));
            }
            entries.insert(name.to_owned(), Entry { values, place: Place::Gguf { sums: *index, counts } });
        } else if let Some(name) = full.strip_suffix(".counts").or_else(|| full.strip_suffix(".in_sum")) {
            other(name, ".in_sum2")?;
        } else {
            return Err(format!("tensor {full} is none of an importance matrix"));
        }
    }
    Ok(entries)
}
