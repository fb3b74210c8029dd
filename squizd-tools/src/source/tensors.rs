//! Tensors at known places of mapped files: what every foreign container
//! becomes once its header is read and checked.

use super::{
    gguf::dequant,
    mapped::MappedFile,
    store::{StoredTensor, TensorStore},
};
use squizd::{Error, Result, source::SourceFile};
use std::{borrow::Cow, ops::Range};

/// A tensor in one file. Rows are contiguous and equally long: ggml blocks
/// never straddle rows. The container's reader has checked that the bytes lie
/// inside the file and are rows times `row_bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) tensor: StoredTensor,
    /// First byte of the data in the file.
    pub(super) start: u64,
    /// Bytes of one row of the matrix view.
    pub(super) row_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index into the files.
    file: usize,
    start: u64,
    row_bytes: u64,
}

/// Mapped files and the tensors in them.
#[derive(Debug, Default)]
pub(super) struct MappedTensors {
    files: Vec<MappedFile>,
    tensors: Vec<StoredTensor>,
    places: Vec<Place>,
}

impl MappedTensors {
    /// Appends a file and its tensors.
    pub(super) fn add(&mut self, file: MappedFile, placed: Vec<Placed>) {
        for Placed { tensor, start, row_bytes } in placed {
            self.tensors.push(tensor);
            self.places.push(Place { file: self.files.len(), start, row_bytes });
        }
        self.files.push(file);
    }

    fn locate(&self, index: usize, rows: &Range<u64>) -> Result<(&StoredTensor, &MappedFile, Range<u64>)> {
        let found = self.tensors.get(index).zip(self.places.get(index));
        let (tensor, place) = found.ok_or_else(|| {
            Error::invalid(format!("tensor index {index} of a source with {} tensors", self.tensors.len()))
        })?;
        let outside = || {
            Error::invalid(format!(
                "tensor {}: rows {}..{} of {}",
                tensor.name,
                rows.start,
                rows.end,
                tensor.rows()
            ))
        };
        if rows.start > rows.end || rows.end > tensor.rows() {
            return Err(outside());
        }
        let byte = |row: u64| row.checked_mul(place.row_bytes)?.checked_add(place.start);
        let range = byte(rows.start).zip(byte(rows.end)).ok_or_else(outside)?;
        let file = self.files.get(place.file).ok_or_else(outside)?;
        Ok((tensor, file, range.0..range.1))
    }
}

/// A source whose tensors lie in mapped files; it is a [`TensorStore`].
pub(super) trait Mapped {
    /// The files and tensors.
    fn mapped(&self) -> &MappedTensors;
}

impl<T: Mapped + Sync + Send> TensorStore for T {
    fn tensors(&self) -> &[StoredTensor] {
        &self.mapped().tensors
    }

    fn row_bytes(&self, index: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let (_, file, range) = self.mapped().locate(index, &rows)?;
        Ok(Cow::Borrowed(file.slice(range)?))
    }

    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let (tensor, file, range) = self.mapped().locate(index, &rows)?;
        let decode = dequant::decoder(tensor.dtype).ok_or_else(|| {
            Error::refused_unsupported(
                "source-dtype",
                format!(
                    "{}: tensor {} is stored as {}, which this build cannot decode to numbers; \
                 start from a source with F32, F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K tensors",
                    file.path().display(),
                    tensor.name,
                    tensor.dtype_name
                ),
            )
        })?;
        let wanted = (rows.end - rows.start).checked_mul(tensor.cols());
        if wanted != Some(out.len() as u64) {
            return Err(Error::invalid(format!(
                "tensor {}: {} rows of {} values asked into a buffer of {}",
                tensor.name,
                rows.end - rows.start,
                tensor.cols(),
                out.len()
            )));
        }
        decode(file.slice(range)?, out);
        Ok(())
    }

    fn release(&self, index: usize, rows: Range<u64>) {
        if let Ok((_, file, range)) = self.mapped().locate(index, &rows) {
            file.release(range);
        }
    }

    fn files(&self) -> Vec<SourceFile> {
        self.mapped()
            .files
            .iter()
            .map(|f| SourceFile { name: f.name(), bytes: f.bytes(), sha256: None })
            .collect()
    }

    fn stamp(&self) -> Result<Vec<u8>> {
        let stamps = self.mapped().files.iter().map(MappedFile::stamp).collect::<Result<Vec<_>>>()?;
        Ok(stamps.concat().into_bytes())
    }

    fn hash_files(&self, stop: &dyn Fn() -> bool) -> Result<Vec<[u8; 32]>> {
        self.mapped().files.iter().map(|f| f.sha256(stop)).collect()
    }
}
