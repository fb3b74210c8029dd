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
    /// A bit for each column that is negated; then, from a whole word on, for
    /// each of the tail block, if there is one.
    pub(crate) signs: Vec<u32>,
}

/// The rotation of rows of `cols` columns stored with these parameters, which
/// the geometry has accepted.
pub(crate) fn device_rotation(params: &Params, cols: usize) -> DeviceRotation {
    let form = Form::of(params);
    let (unit, signs) = form.rotation(cols).bits();
    DeviceRotation { seed: form.seed, log_block: form.log_block, unit, signs }
}

/// The values of the trellis' states; none in the layout without a trellis.
pub(crate) fn device_table(params: &Params) -> &'static [i8] {
    Form::of(params).table()
}
