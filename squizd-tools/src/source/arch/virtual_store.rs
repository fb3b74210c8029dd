//! Tensors for tests, of any size: their values are computed when read.

use crate::source::store::{StoredTensor, TensorStore};
use serde_json::Value;
use squizd::Result;
use squizd_spec::DType;
use std::{borrow::Cow, ops::Range};

/// Content of a tensor: value by row of the matrix view and column.
pub(super) type Content = Box<dyn Fn(u64, u64) -> f32 + Send + Sync>;

/// Tensors of any size whose values are computed when read.
pub(super) struct Virtual {
    pub tensors: Vec<StoredTensor>,
    contents: Vec<Content>,
}

impl Virtual {
    pub(super) fn new(list: &Value, content: impl Fn(&str) -> Content) -> Self {
        let mut store = Self { tensors: Vec::new(), contents: Vec::new() };
        for entry in list.as_array().unwrap() {
            let name = entry[0].as_str().unwrap();
            let dims: Vec<u64> = entry[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            store.push(name, &dims, content(name));
        }
        store
    }

    pub(super) fn push(&mut self, name: &str, dims: &[u64], content: Content) {
        self.tensors.push(StoredTensor {
            name: name.to_owned(),
            dtype: DType::F32,
            dtype_name: "F32".to_owned(),
            dims: dims.to_vec(),
            bytes: dims.iter().product::<u64>() * 4,
        });
        self.contents.push(content);
    }

    pub(super) fn remove(&mut self, index: usize) -> String {
        drop(self.contents.remove(index));
        self.tensors.remove(index).name
    }
}

impl TensorStore for Virtual {
    fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    fn row_bytes(&self, index: usize, rows: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let mut values = vec![0.0; ((rows.end - rows.start) * self.tensors[index].cols()) as usize];
        self.read_f32(index, rows, &mut values)?;
        Ok(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
    }

    fn read_f32(&self, index: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let (tensor, content) = (&self.tensors[index], &self.contents[index]);
        assert!(rows.end <= tensor.rows(), "{}: rows {rows:?} of {}", tensor.name, tensor.rows());
        assert_eq!(out.len() as u64, (rows.end - rows.start) * tensor.cols());
        for (row, values) in rows.zip(out.chunks_exact_mut(tensor.cols() as usize)) {
            (0..).zip(values).for_each(|(col, v)| *v = content(row, col));
        }
        Ok(())
    }

    fn release(&self, _: usize, _: Range<u64>) {}

    fn files(&self) -> Vec<squizd::source::SourceFile> {
        Vec::new()
    }
}
