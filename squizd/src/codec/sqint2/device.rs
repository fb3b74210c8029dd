//! What kernels on a device need besides the payload.

use super::form::Form;
use squizd_spec::Params;

/// A rotation, for kernels that apply it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceRotation {
    /// Seed of the signs.
    pub(crate) seed: u64,
    /// log2 of the Hadamard block B.
    pub(crate) log_block: u8,
    /// B^-1/2.
    pub(crate) unit: f32,
    /// Of each column, `1 << 31` if it is negated.
    pub(crate) signs: Vec<u32>,
    /// The same of the tail block; empty where B divides the columns.
    pub(crate) tail_signs: Vec<u32>,
}

/// The rotation of rows of `cols` columns stored with these parameters, which
/// the geometry has accepted.
pub(crate) fn device_rotation(params: &Params, cols: usize) -> DeviceRotation {
    let form = Form::of(params);
    let rotation = form.rotation(cols);
    let [signs, tail_signs] = rotation.all_signs();
    DeviceRotation { seed: form.seed, log_block: form.log_block, unit: rotation.unit, signs, tail_signs }
}

/// The values of the trellis' states; none in the layout without a trellis.
pub(crate) fn device_table(params: &Params) -> &'static [i8] {
    Form::of(params).table()
}
