//! Reading a calibration file, one input at a time.

use super::{HESSIAN, IMPORTANCE, Origin, TOKENS};
use crate::source::{
    safetensors::SafetensorsStore,
    store::{StoredTensor, TensorStore},
};
use squizd::{
    Error, Result,
    calibration::{Calibration, input_of, triangle_side},
    codec::InputMoments,
    source::TensorInfo,
};

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Tokens that the mean over all experts counts for in each expert's moments:
/// an expert that saw few tokens is judged mostly by what the others saw.
const PRIOR_TOKENS: f64 = 128.0;

/// An open calibration file; moments are read when asked for.
pub struct CalibrationFile {
    path: PathBuf,
    store: SafetensorsStore,
    origin: Origin,
    inputs: BTreeMap<String, Entry>,
}

/// Where one input's tensors lie in the store.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sets: u64,
    width: u64,
    tokens: usize,
    importance: usize,
    hessian: Option<usize>,
}

/// What a calibration knows of a model's matrices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Linear layers with moments.
    pub known: usize,
    /// Names of linear layers without.
    pub unknown: Vec<String>,
}

impl CalibrationFile {
    /// Opens and checks the header of `path`.
    ///
    /// # Errors
    /// If it is no calibration file, or its tensors do not go together.
    pub fn open(path: &Path) -> Result<Self> {
        let store = SafetensorsStore::open_file(path)?;
        let in_file = |e: Error| Error::invalid(format!("{}: {e}", path.display()));
        let origin = Origin::from_metadata(store.metadata()).map_err(in_file)?;
        let inputs = entries(store.tensors()).map_err(in_file)?;
        Ok(Self { path: path.to_owned(), store, origin, inputs })
    }

    /// How the file came to be.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether all inputs have Hessians.
    pub fn has_hessians(&self) -> bool {
        self.inputs.values().all(|e| e.hessian.is_some())
    }

    /// Most bytes that [`Calibration::moments`] of `tensors` returns.
    pub fn peak_bytes(&self, tensors: &[TensorInfo]) -> u64 {
        let entries = tensors.iter().filter_map(|t| self.inputs.get(&input_of(t)?));
        let bytes = |e: &Entry| {
            let square = e.hessian.map_or(0, |_| e.width.saturating_mul(e.width));
            e.sets.saturating_mul(square.saturating_add(e.width)).saturating_mul(4)
        };
        entries.map(bytes).max().unwrap_or(0)
    }

    /// Checks that the moments fit the shapes of `tensors`.
    ///
    /// # Errors
    /// If one does not: the calibration is another model's.
    pub fn coverage(&self, tensors: &[TensorInfo]) -> Result<Coverage> {
        let mut coverage = Coverage::default();
        for (tensor, input) in tensors.iter().filter_map(|t| input_of(t).map(|i| (t, i))) {
            match self.inputs.get(&input) {
                Some(entry) => {
                    self.fit(tensor, &input, entry)?;
                    coverage.known += 1;
                }
                None => coverage.unknown.push(tensor.name.clone()),
            }
        }
        Ok(coverage)
    }

    fn fit(&self, tensor: &TensorInfo, input: &str, entry: &Entry) -> Result<()> {
        let sets = u64::from(tensor.experts.max(1));
        if (entry.width, entry.sets) == (tensor.cols(), sets) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}: {input} has {} set(s) of {} channels, but tensor {} reads {} of {}: the calibration is of another \
             model ({})",
            self.path.display(),
            entry.sets,
            entry.width,
            tensor.name,
            sets,
            tensor.cols(),
            self.origin.model
        )))
    }

    fn load(&self, entry: &Entry) -> Result<Option<Vec<InputMoments>>> {
        let counts = self.store.row_bytes(entry.tokens, 0..1)?;
        let counts: Vec<u64> = counts.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        if counts.iter().all(|c| *c == 0) {
            return Ok(None);
        }
        let importance = self.floats(entry.importance, entry.sets, Some(0.0))?;
        let triangles = entry.hessian.map(|h| self.floats(h, entry.sets, None)).transpose()?;
        let importance = blend(importance, &counts);
        let sets: Vec<_> = match triangles {
            None => importance
                .into_iter()
                .map(|importance| InputMoments { importance, hessian: Vec::new() })
                .collect(),
            Some(triangles) => {
                let sets = importance.into_iter().zip(blend(triangles, &counts));
                sets.map(|(importance, t)| InputMoments { hessian: square(&t, importance.len()), importance })
                    .collect()
            }
        };
        Ok(Some(sets))
    }

    /// The rows of a tensor, all finite and not below `least`.
    fn floats(&self, index: usize, rows: u64, least: Option<f32>) -> Result<Vec<Vec<f32>>> {
        let gone = || Error::invalid(format!("{}: tensor {index} is gone", self.path.display()));
        let tensor = self.store.tensors().get(index).ok_or_else(gone)?;
        let read = |row: u64| {
            let mut values = vec![0.0; tensor.cols() as usize];
            self.store.read_f32(index, row..row + 1, &mut values)?;
            self.store.release(index, row..row + 1);
            match values.iter().position(|v| !v.is_finite() || least.is_some_and(|l| *v < l)) {
                None => Ok(values),
                Some(i) => Err(Error::invalid(format!(
                    "{}: tensor {}: value {i} of row {row} is {}; it must be finite{}",
                    self.path.display(),
                    tensor.name,
                    values.get(i).copied().unwrap_or_default(),
                    if least.is_some() { " and not negative" } else { "" }
                ))),
            }
        };
        (0..rows).map(read).collect()
    }
}

impl Calibration for CalibrationFile {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        let Some(input) = input_of(tensor) else { return Ok(None) };
        let Some(entry) = self.inputs.get(&input) else { return Ok(None) };
        self.fit(tensor, &input, entry)?;
        self.load(entry)
    }

    fn sha256(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        let digest = self.store.hash_files(stop)?.first().copied();
        digest.ok_or_else(|| Error::invalid(format!("{}: no file to hash", self.path.display())))
    }
}

/// Finds the inputs among the tensors, each complete.
fn entries(tensors: &[StoredTensor]) -> Result<BTreeMap<String, Entry>> {
    let named: BTreeMap<&str, usize> =
        tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut used = BTreeSet::new();
    let mut find = |name: &str, suffix: &str, dtype: &str| -> Result<Option<(usize, &[u64])>> {
        let full = format!("{name}{suffix}");
        let Some((&index, tensor)) = named.get(full.as_str()).and_then(|i| Some((i, tensors.get(*i)?)))
        else {
            return Ok(None);
        };
        used.insert(index);
        if tensor.dtype_name != dtype {
            return Err(Error::invalid(format!("tensor {full} is {}, must be {dtype}", tensor.dtype_name)));
        }
        Ok(Some((index, &tensor.dims)))
    };
    let mut inputs = BTreeMap::new();
    for name in named.keys().filter_map(|n| n.strip_suffix(IMPORTANCE)) {
        let wrong = |what: &str, dims: &[u64]| {
            Err(Error::invalid(format!(
                "tensor {name}{what} has the shape {dims:?}, which does not go with the others"
            )))
        };
        let importance = find(name, IMPORTANCE, "F32")?;
        let tokens = find(name, TOKENS, "U64")?;
        let (Some((importance, &[sets, width])), Some((tokens, count))) = (importance, tokens) else {
            return Err(Error::invalid(format!("{name} needs {IMPORTANCE} of two dimensions and {TOKENS}")));
        };
        if count != [sets] {
            return wrong(TOKENS, count);
        }
        let hessian = match find(name, HESSIAN, "F32")? {
            None => None,
            Some((index, &[n, values]))
                if n == sets
                    && usize::try_from(values).ok().and_then(triangle_side).map(|s| s as u64)
                        == Some(width) =>
            {
                Some(index)
            }
            Some((_, dims)) => return wrong(HESSIAN, dims),
        };
        inputs.insert(name.to_owned(), Entry { sets, width, tokens, importance, hessian });
    }
    match tensors.iter().enumerate().find(|(i, _)| !used.contains(i)) {
        Some((_, t)) => Err(Error::invalid(format!("tensor {} is none of a calibration's", t.name))),
        None => Ok(inputs),
    }
}

/// Draws each expert's moments towards the mean over all tokens, as if it had
/// seen [`PRIOR_TOKENS`] more with that mean.
pub(crate) fn blend(mut sets: Vec<Vec<f32>>, counts: &[u64]) -> Vec<Vec<f32>> {
    if sets.len() < 2 {
        return sets;
    }
    let total: f64 = counts.iter().map(|c| *c as f64).sum();
    let mut mean = vec![0.0f64; sets.first().map_or(0, Vec::len)];
    for (set, count) in sets.iter().zip(counts) {
        let share = *count as f64 / total;
        for (m, v) in mean.iter_mut().zip(set) {
            *m += share * f64::from(*v);
        }
    }
    for (set, count) in sets.iter_mut().zip(counts) {
        let own = *count as f64 / (*count as f64 + PRIOR_TOKENS);
        for (v, m) in set.iter_mut().zip(&mean) {
            *v = (own * f64::from(*v) + (1.0 - own) * m) as f32;
        }
    }
    sets
}

/// The symmetric matrix of an upper triangle.
fn square(triangle: &[f32], side: usize) -> Vec<f32> {
    let mut out = vec![0.0; side * side];
    let mut rest = triangle;
    for i in 0..side {
        let (row, later) = rest.split_at_checked(side - i).unwrap_or((rest, &[]));
        for (j, v) in (i..).zip(row) {
            for at in [i * side + j, j * side + i] {
                if let Some(slot) = out.get_mut(at) {
                    *slot = *v;
                }
            }
        }
        rest = later;
    }
    out
}
