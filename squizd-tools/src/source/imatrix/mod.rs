//! llama.cpp's importance matrices: mean squares of the inputs of each weight
//! matrix on a calibration text, as GGUF (since 2025-07) or in the older
//! `.dat` form. Only the diagonal of the input's second moments is in them.

mod gguf;
mod legacy;
mod names;
#[cfg(test)]
mod tests;

use super::gguf::GgufFile;
use super::mapped::MappedFile;
use super::store::TensorStore;
use crate::calibration::{Coverage, blend};
use squizd::{Error, Result, calibration::Calibration, codec::InputMoments, source::TensorInfo};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

/// An open importance matrix. Values are read when asked for.
pub struct Imatrix {
    path: PathBuf,
    data: Data,
    /// By the name of the weight in llama.cpp.
    entries: BTreeMap<String, Entry>,
    /// Names of the texts it was made from, as far as the file says.
    datasets: Vec<String>,
}

enum Data {
    Gguf(GgufFile),
    Legacy(MappedFile),
}

/// Where the values of one weight lie.
#[derive(Clone, Debug)]
struct Entry {
    /// Values, of all experts together.
    values: u64,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// Sums of squares and counts, by tensor of the store.
    Gguf { sums: usize, counts: usize },
    /// Sums over `calls` calls of mean squares, by bytes of the file.
    Legacy { bytes: Range<u64>, calls: u32 },
}

impl Imatrix {
    /// Opens and checks `path`, a file of either form.
    ///
    /// # Errors
    /// If it is neither, or is damaged; names the file and the place.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        if file.contents()?.starts_with(b"GGUF") { gguf::open(path) } else { legacy::open(file) }
    }

    /// Names of the texts it was made from, as far as the file says.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Most bytes that [`Calibration::moments`] of `tensors` returns.
    pub fn peak_bytes(&self, tensors: &[TensorInfo]) -> u64 {
        tensors.iter().filter_map(|t| Some(self.find(t)?.1.values.saturating_mul(4))).max().unwrap_or(0)
    }

    /// Checks that the values fit the shapes of `tensors`.
    ///
    /// # Errors
    /// If some do not: the file is another model's.
    pub fn coverage(&self, tensors: &[TensorInfo]) -> Result<Coverage> {
        let mut coverage = Coverage::default();
        for tensor in tensors.iter().filter(|t| !names::candidates(t).is_empty()) {
            match self.find(tensor) {
                Some((name, entry)) => {
                    self.sets(tensor, name, entry)?;
                    coverage.known += 1;
                }
                None => coverage.unknown.push(tensor.name.clone()),
            }
        }
        Ok(coverage)
    }

    /// The entry for the input of `tensor`.
    fn find(&self, tensor: &TensorInfo) -> Option<(&str, &Entry)> {
        let names = names::candidates(tensor);
        names.iter().find_map(|n| self.entries.get_key_value(n)).map(|(name, entry)| (name.as_str(), entry))
    }

    /// Sets of values that `tensor` has in `entry`: one, or one per expert.
    fn sets(&self, tensor: &TensorInfo, name: &str, entry: &Entry) -> Result<u64> {
        let experts = u64::from(tensor.experts.max(1));
        [experts, 1].into_iter().find(|n| n.checked_mul(tensor.cols()) == Some(entry.values)).ok_or_else(|| {
            Error::refused(
                "imatrix-shape",
                format!(
                    "{}: {name} has {} values, but tensor {} reads {} set(s) of {}: the file is of another model",
                    self.path.display(),
                    entry.values,
                    tensor.name,
                    experts,
                    tensor.cols()
                ),
            )
        })
    }

    /// Mean squares of each set, and how many tokens each has seen, where the
    /// form says so.
    fn read(&self, name: &str, entry: &Entry, sets: u64) -> Result<Sets> {
        let width = (entry.values / sets.max(1)) as usize;
        match (&self.data, &entry.place) {
            (Data::Gguf(file), Place::Gguf { sums, counts }) => {
                let counts = self.numbers(file, *counts, name, "counts")?;
                let mut values = self.numbers(file, *sums, name, "in_sum2")?;
                let tokens = spread(&counts, sets).ok_or_else(|| {
                    self.refuse(
                        "imatrix-shape",
                        format!("{name}.counts has {} values for {sets} sets", counts.len()),
                    )
                })?;
                for (set, count) in values.chunks_mut(width.max(1)).zip(&tokens) {
                    // What saw nothing is drawn from the others.
                    let scale = if *count > 0 { 1.0 / *count as f64 } else { 0.0 };
                    for v in set {
                        *v = (f64::from(*v) * scale) as f32;
                    }
                }
                Ok((values.chunks(width.max(1)).map(<[f32]>::to_vec).collect(), Some(tokens)))
            }
            (Data::Legacy(file), Place::Legacy { bytes, calls }) => {
                let scale = 1.0 / f64::from(*calls);
                let mut values = Vec::with_capacity(entry.values as usize);
                for (i, b) in file.slice(bytes.clone())?.as_chunks::<4>().0.iter().enumerate() {
                    let value = f32::from_le_bytes(*b);
                    self.check(value, name, "value", i)?;
                    values.push((f64::from(value) * scale) as f32);
                }
                Ok((values.chunks(width.max(1)).map(<[f32]>::to_vec).collect(), None))
            }
            _ => Err(self.refuse("imatrix-entry", format!("{name} is not of this file"))),
        }
    }

    /// All values of a tensor, finite and not negative.
    fn numbers(&self, file: &GgufFile, index: usize, name: &str, what: &str) -> Result<Vec<f32>> {
        let tensor = file.tensors().get(index);
        let (rows, cols) = tensor.map_or((0, 0), |t| (t.rows(), t.cols()));
        let mut values = vec![0.0; (rows * cols) as usize];
        file.read_f32(index, 0..rows, &mut values)?;
        file.release(index, 0..rows);
        values.iter().enumerate().try_for_each(|(i, v)| self.check(*v, name, what, i))?;
        Ok(values)
    }

    fn check(&self, value: f32, name: &str, what: &str, i: usize) -> Result<()> {
        if value.is_finite() && value >= 0.0 {
            return Ok(());
        }
        let message = format!("{name}: {what} {i} is {value}, must be finite and not negative");
        Err(self.refuse("imatrix-value", message))
    }

    fn refuse(&self, code: &'static str, message: String) -> Error {
        Error::refused(code, format!("{}: {message}", self.path.display()))
    }
}

/// One count for each of `sets`: `counts` has as many, or one for all.
fn spread(counts: &[f32], sets: u64) -> Option<Vec<u64>> {
    let sets = usize::try_from(sets).ok()?;
    match counts {
        [one] => Some(vec![one.round() as u64; sets]),
        all if all.len() == sets => Some(all.iter().map(|c| c.round() as u64).collect()),
        _ => None,
    }
}

/// Mean squares of each set, and the tokens each has seen.
type Sets = (Vec<Vec<f32>>, Option<Vec<u64>>);

impl Calibration for Imatrix {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        let Some((name, entry)) = self.find(tensor) else { return Ok(None) };
        let sets = self.sets(tensor, name, entry)?;
        let values = match self.read(name, entry, sets)? {
            (_, Some(tokens)) if tokens.iter().all(|t| *t == 0) => return Ok(None),
            (values, Some(tokens)) => blend(values, &tokens),
            (values, None) => values,
        };
        Ok(Some(
            values.into_iter().map(|importance| InputMoments { importance, hessian: Vec::new() }).collect(),
        ))
    }

    fn sha256(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        match &self.data {
            Data::Legacy(file) => file.sha256(stop),
            Data::Gguf(file) => {
                let digest = file.hash_files(stop)?.first().copied();
                digest.ok_or_else(|| self.refuse("imatrix-entry", "no file to hash".to_owned()))
            }
        }
    }
}
