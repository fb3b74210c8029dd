//! The codecs: one file each, all behind [`Codec`], listed once in [`CODECS`].

use crate::{Error, Result, simd::Level};
use squizd_spec::{CodecId, DType, Matrix, Params};
use std::{borrow::Cow, ops::Range};

/// Rows of the tensor being encoded.
///
/// Calls may come from several threads and in any order; the same rows may be
/// asked for more than once (a pass for statistics, then one for codes).
pub trait Rows: Sync {
    /// Tensor name, for messages.
    fn name(&self) -> &str;
    /// Shape of the matrix view.
    fn matrix(&self) -> Matrix;
    /// Element type of the source.
    fn dtype(&self) -> DType;
    /// Decodes `rows` into `out` (`rows.len() * cols` values).
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()>;
    /// Source bytes of `rows` in the source's encoding, if available unchanged.
    fn read_native(&self, rows: Range<u64>) -> Result<Option<std::borrow::Cow<'_, [u8]>>>;
    /// These rows will not be read again.
    fn release(&self, rows: Range<u64>);
}

/// Where an encoder puts payload bytes. Ranges may come in any order and from
/// several threads; each byte is written once, unwritten bytes are zero.
pub trait PayloadSink: Sync {
    /// Writes `bytes` at `offset` from the start of the payload.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
}

/// What an encoder is asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// What the user asked for.
    pub options: EncodeOptions,
    /// What calibration says of the inputs.
    pub guide: Guide<'a>,
}

impl From<EncodeOptions> for Request<'_> {
    fn from(options: EncodeOptions) -> Self {
        Self { options, guide: Guide::NONE }
    }
}

/// Squared error and energy of an encoded tensor, summed in f64 in row order
/// (so that they do not depend on the thread count).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EncodeStats {
    /// Sum of `w^2`.
    pub signal: f64,
    /// Sum of `(w - w')^2`.
    pub noise: f64,
    /// The same as the layer's outputs see it, where calibration guided the
    /// encoder.
    pub output: Option<OutputError>,
}

/// Expected energy and squared error of a layer's outputs, by the second
/// moments `H` of its inputs (their diagonal where no more is known).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputError {
    /// `tr(W H W^T)`.
    pub signal: f64,
    /// `tr(E H E^T)`, `E` being the error of the weights.
    pub noise: f64,
}

/// `10 log10(signal / noise)`; infinite without noise.
fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

impl EncodeStats {
    /// Energy and squared error of weights, nothing known of outputs.
    pub fn new(signal: f64, noise: f64) -> Self {
        Self { signal, noise, output: None }
    }

    /// `10 log10(signal / noise)` in decibels; infinite for an exact encoding.
    pub fn snr_db(&self) -> f64 {
        decibels(self.signal, self.noise)
    }
}

impl OutputError {
    /// `10 log10(signal / noise)` in decibels; infinite for an exact encoding.
    pub fn snr_db(&self) -> f64 {
        decibels(self.signal, self.noise)
    }
}

impl std::ops::Add for EncodeStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let output = match (self.output, other.output) {
            (Some(a), Some(b)) => Some(OutputError { signal: a.signal + b.signal, noise: a.noise + b.noise }),
            (a, b) => a.or(b),
        };
        Self { signal: self.signal + other.signal, noise: self.noise + other.noise, output }
    }
}

/// A stored tensor as a codec sees it: geometry already checked by the parser.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// Tensor name, for messages.
    pub name: &'a str,
    /// Shape of the matrix view.
    pub matrix: Matrix,
    /// Codec parameters.
    pub params: &'a Params,
    /// Payload bytes.
    pub data: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// The codec's view of a parsed tensor.
    pub fn of(tensor: &squizd_spec::TensorView<'a>) -> Self {
        Self {
            name: tensor.desc.name,
            matrix: tensor.matrix(),
            params: tensor.desc.params,
            data: tensor.data,
        }
    }
}

/// One codec: encoder, decoder and the CPU kernel that reads its blocks in place.
pub trait Codec: Sync {
    /// Wire id.
    fn id(&self) -> CodecId;

    /// The options it takes.
    fn options(&self) -> &'static [OptionKind] {
        &[]
    }

    /// Whether the encoder reads [`Request::guide`]; otherwise calibration data
    /// is not loaded for it.
    fn takes_guide(&self) -> bool {
        true
    }

    /// Whether the encoder makes weights Gaussian, whatever they were, before it
    /// quantizes them: then errors on Gaussian weights tell those on any
    /// tensor's, but for a factor that all rates share.
    fn gaussianizes(&self, options: &EncodeOptions) -> bool {
        let _ = options;
        false
    }

    /// Whether a tensor of this shape can be stored with this codec, and why not.
    fn accepts(&self, matrix: Matrix) -> std::result::Result<(), String>;

    /// Whether a tensor whose source is of type `dtype` can be stored, and why not.
    fn accepts_dtype(&self, dtype: DType) -> std::result::Result<(), String> {
        let _ = dtype;
        Ok(())
    }

    /// Whether a source tensor of type `dtype` is taken over without loss, so
    /// that it decodes to the very numbers of the source.
    fn imports(&self, dtype: DType, matrix: Matrix, options: &EncodeOptions) -> bool;

    /// The parameters of an ordinary tensor, without reading it: what a plan
    /// counts with. [`Codec::plan`] departs from them only where the values
    /// force it (a scale range beyond f16, say).
    fn nominal(&self, matrix: Matrix, dtype: DType, options: &EncodeOptions) -> Result<Params>;

    /// Chooses the parameters for a tensor before encoding it (may read rows).
    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params>;

    /// Encodes all rows. Parallel, and bit-identical for any thread count and
    /// instruction set. Returns the payload length and the error made.
    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)>;

    /// Decodes `rows` into `out` (`rows.len() * cols` values).
    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()>;

    /// Checks what geometry cannot: finite scales, zero tails, canonical codes.
    /// The first violation as (offset in the payload, stable code, message).
    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation>;

    /// `y[i] = dot(row rows.start + i, x)` straight from the stored blocks, in
    /// one thread; `y` has `rows.len()` values. Where the sizes of tensor,
    /// payload, `x` and `y` do not go together, `y` becomes NaN.
    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]);

    /// Name of the layout that `params` choose; empty for codecs that have one
    /// layout.
    fn layout(&self, params: &Params) -> String {
        let _ = params;
        String::new()
    }

    /// The code that [`Codec::matvec`] or [`Codec::decode`] runs for tensors
    /// with these parameters where `level` is in use.
    fn kernel(&self, params: &Params, operation: Operation, level: Level) -> Kernel;

    /// Whether [`Codec::panel`] unpacks tensors with these parameters where
    /// `level` is in use.
    fn has_panels(&self, params: &Params, level: Level) -> bool {
        let _ = (params, level);
        false
    }

    /// Unpacks up to 32 rows to small integers, for products with 8-bit forms of
    /// many inputs; `out` keeps its other rows.
    fn panel(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut Panel) -> Result<()> {
        let _ = (rows, out);
        Err(Error::unsupported(format!(
            "tensor {}: {} rows are not unpacked to integers",
            tensor.name,
            self.id()
        )))
    }

    /// For codecs that are made for keeping, not for running: what
    /// [`Codec::unpack`] yields for tensors with this shape and these parameters.
    fn unpacked(&self, matrix: Matrix, params: &Params) -> Option<Unpacked> {
        let _ = (matrix, params);
        None
    }

    /// For codecs that are made for keeping, not for running: the raw codec of
    /// the tensor's elements and its plain numbers, which a runtime decodes
    /// once. `None` for codecs whose kernels read the stored blocks.
    fn unpack<'a>(&self, tensor: &Encoded<'a>) -> Result<Option<(CodecId, Cow<'a, [u8]>)>> {
        let _ = tensor;
        Ok(None)
    }
}

/// A payload that decodes, but not from any encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Offset in the payload.
    pub offset: u64,
    /// Stable finding code.
    pub code: &'static str,
    /// Field, value found, value allowed.
    pub message: String,
}

mod activation;
mod astc;
mod check;
mod guide;
mod half_float;
pub mod hybrid;
mod integer;
mod kernel;
mod kernels;
mod lanes;
mod ldlq;
mod mxfp4;
mod options;
pub(crate) mod panel;
mod q8;
mod raw;
mod sample;
mod sqint2;
mod stream;
pub mod tca_tbe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trial;
mod zplanes;

pub use activation::{Activation, ActivationBuffers, Precision};
#[cfg(feature = "gpu")]
pub(crate) use astc::device_tables;
#[cfg(all(test, feature = "gpu"))]
pub(crate) use astc::device_texels;
pub use guide::{Guide, InputMoments};
pub use hybrid::Allocation;
pub use integer::IntegerLayout;
pub use kernel::{Kernel, Operation, Unpacked};
pub(crate) use ldlq::uncompensated;
pub use options::{EncodeOptions, OptionKind, Quality};
pub use panel::Panel;
#[cfg(feature = "gpu")]
pub(crate) use sqint2::{DeviceRotation, device_rotation, device_table};
pub(crate) use trial::{Sample, output_error};

/// Every codec, in wire order; each [`CodecId`] has exactly one.
pub const CODECS: &[&dyn Codec] = &[
    raw::F32,
    raw::F16,
    raw::BF16,
    raw::I8,
    zplanes::CODEC,
    q8::CODEC,
    integer::INT4,
    integer::INT3,
    integer::INT2,
    astc::CODEC,
    tca_tbe::CODEC,
    mxfp4::CODEC,
    hybrid::CODEC,
    sqint2::CODEC,
];

/// The codec of a wire id.
pub fn codec(id: CodecId) -> Option<&'static dyn Codec> {
    CODECS.iter().copied().find(|c| c.id() == id)
}
