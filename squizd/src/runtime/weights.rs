//! Where the runtime finds stored tensors by what they do.

use crate::{Error, Result};
use squizd_spec::{CodecId, Params, Part, Role, SquizdRef, TensorView};
use std::collections::HashMap;

/// One stored tensor, borrowed for `'w`.
#[derive(Clone, Debug)]
pub struct Stored<'w> {
    /// Name, for messages.
    pub name: &'w str,
    /// Dimensions, outermost first.
    pub dims: Vec<u64>,
    /// Codec of the payload.
    pub codec: CodecId,
    /// Codec parameters.
    pub params: &'w Params,
    /// Payload.
    pub data: &'w [u8],
}

/// Tensors by `(role, layer, part)`; payloads live for `'w`.
pub trait Weights<'w> {
    /// The tensor, if the model has it.
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>>;
}

/// The tensors of a parsed file.
pub struct FileWeights<'w> {
    tensors: HashMap<(Role, Option<u16>, Part), TensorView<'w>>,
}

impl<'w> FileWeights<'w> {
    /// Indexes the mapped tensors of `file`.
    ///
    /// # Errors
    /// If a tensor has no known role: it might belong to the forward pass.
    pub fn new(file: &SquizdRef<'w>) -> Result<Self> {
        let mut tensors = HashMap::with_capacity(file.tensor_count());
        for view in file.tensors() {
            if view.role == Role::OTHER || view.role.name().is_none() {
                return Err(Error::unsupported(format!(
                    "tensor {}: its role is {}, so the runtime cannot tell whether it takes part in the \
                     forward pass; convert the model without --allow-unmapped (and with --text-only if the \
                     tensor belongs to another modality) to run it",
                    view.name, view.role
                )));
            }
            tensors.insert((view.role, view.layer, view.part), view);
        }
        Ok(Self { tensors })
    }
}

impl<'w> Weights<'w> for FileWeights<'w> {
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>> {
        self.tensors.get(&(role, layer, part)).map(|view| Stored {
            name: view.desc.name,
            dims: view.dims.to_vec(),
            codec: view.codec,
            params: view.desc.params,
            data: view.data,
        })
    }
}
