//! Writing a calibration file while it is collected.

use super::{HESSIAN, IMPORTANCE, Origin, TOKENS};
use sha2::{Digest, Sha256};
use squizd::{
    Error, Result,
    calibration::{Collected, CollectedSink, Detail, input_name},
    runtime::InputShape,
    writer::AtomicFile,
};
use std::path::Path;

/// Writes one file in one pass; nothing is visible before [`CalibrationWriter::finish`].
pub struct CalibrationWriter<'a> {
    file: AtomicFile,
    hasher: Sha256,
    detail: Detail,
    inputs: std::vec::IntoIter<InputShape>,
    at: u64,
    window_done: &'a mut (dyn FnMut() -> Result<()> + Send),
}

/// The header of a file, and its length with the data.
pub struct Layout {
    header: Vec<u8>,
    /// Bytes of the file.
    pub length: u64,
}

impl Layout {
    /// Where each tensor of `inputs` will lie.
    ///
    /// # Errors
    /// If an input is no linear layer's, or the sizes overflow.
    pub fn new(inputs: &[InputShape], detail: Detail, origin: &Origin) -> Result<Self> {
        let mut fields = serde_json::Map::new();
        let metadata = serde_json::to_value(origin.to_metadata());
        let invalid = |e: serde_json::Error| Error::invalid(format!("writing the calibration's header: {e}"));
        fields.insert("__metadata__".into(), metadata.map_err(invalid)?);
        let mut at = 0u64;
        for input in inputs {
            let name = name(input)?;
            let (sets, width) = (u64::from(input.experts.max(1)), input.width as u64);
            let too_large = || Error::invalid(format!("{name}: {sets} times {width} channels are too many"));
            let triangle = width.checked_add(1).and_then(|w| w.checked_mul(width)).ok_or_else(too_large)? / 2;
            let mut tensors = vec![(TOKENS, "U64", vec![sets], 8), (IMPORTANCE, "F32", vec![sets, width], 4)];
            if detail == Detail::Hessian {
                tensors.push((HESSIAN, "F32", vec![sets, triangle], 4));
            }
            for (suffix, dtype, shape, size) in tensors {
                let bytes = shape.iter().try_fold(size, |n: u64, d| n.checked_mul(*d));
                let end = bytes.and_then(|b| at.checked_add(b)).ok_or_else(too_large)?;
                let tensor = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
                fields.insert(format!("{name}{suffix}"), tensor);
                at = end;
            }
        }
        let mut json = serde_json::to_vec(&fields).map_err(invalid)?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        let length = at.checked_add(header.len() as u64);
        Ok(Self { length: length.ok_or_else(|| Error::invalid("the calibration is too large"))?, header })
    }
}

fn name(input: &InputShape) -> Result<String> {
    input_name(input.role, input.layer)
        .ok_or_else(|| Error::invalid(format!("{} is no input of a linear layer", input.role)))
}

impl<'a> CalibrationWriter<'a> {
    /// Begins `target` with the header of `layout`, which was made for `inputs`.
    /// `window_done` is called after each window of each layer and may stop.
    ///
    /// # Errors
    /// If the target cannot be written.
    pub fn create(
        target: &Path,
        layout: &Layout,
        inputs: Vec<InputShape>,
        detail: Detail,
        window_done: &'a mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Self> {
        let file = AtomicFile::create(target)?;
        let inputs = inputs.into_iter();
        let mut writer = Self { file, hasher: Sha256::new(), detail, inputs, at: 0, window_done };
        writer.append(&layout.header)?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(self.at, bytes)?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn append_floats(&mut self, values: &[f32]) -> Result<()> {
        for chunk in values.chunks(1 << 18) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.append(&bytes)?;
        }
        Ok(())
    }

    /// Puts the complete file in place; its SHA-256.
    ///
    /// # Errors
    /// If inputs are missing, or the file cannot be put in place.
    pub fn finish(mut self) -> Result<[u8; 32]> {
        if let Some(missing) = self.inputs.next() {
            return Err(Error::invalid(format!("{} was not collected", name(&missing)?)));
        }
        self.file.commit()?;
        Ok(self.hasher.finalize().into())
    }
}

impl CollectedSink for CalibrationWriter<'_> {
    fn input(&mut self, shape: &InputShape, collected: &[Collected]) -> Result<()> {
        if self.inputs.next() != Some(*shape) {
            return Err(Error::invalid(format!("{} was collected out of order", name(shape)?)));
        }
        let counts: Vec<u8> = collected.iter().flat_map(|c| c.count.to_le_bytes()).collect();
        self.append(&counts)?;
        collected.iter().try_for_each(|c| self.append_floats(&c.importance))?;
        if self.detail == Detail::Hessian {
            collected.iter().try_for_each(|c| self.append_floats(&c.triangle))?;
        }
        Ok(())
    }

    fn window_done(&mut self) -> Result<()> {
        (self.window_done)()
    }
}
