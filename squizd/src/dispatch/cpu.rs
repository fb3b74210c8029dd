//! The CPU's rows of the table.

use super::{Backend, KernelChoice, Stage, Subject};
use crate::codec::{Kernel, Operation, Precision, codec, panel};
use crate::simd::{self, Level};
use squizd_spec::Params;

/// This process's CPU code: every codec has some.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    level: Level,
    why: &'static str,
    precision: Precision,
}

/// The parameters of plain numbers.
const PLAIN: &Params = &[0; 32];

impl Cpu {
    /// The level in use; products read their input in `precision`.
    pub fn current(precision: Precision) -> Self {
        Self { level: simd::level(), why: simd::reason(), precision }
    }

    /// A level, on this machine or another.
    pub const fn at(level: Level, precision: Precision) -> Self {
        Self { level, why: "asked about", precision }
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn kernel(&self, tensor: &Subject<'_>, stage: Stage) -> Result<KernelChoice, String> {
        let codec_of = |id| codec(id).ok_or_else(|| format!("codec {id} has no decoder in this build"));
        let stored = codec_of(tensor.codec)?;
        let (code, params, mut fallback) = match stored.unpacked(tensor.matrix, tensor.params) {
            None => (stored, tensor.params, None),
            Some(unpacked) => {
                let why = (unpacked.bytes > 0).then(|| {
                    format!("{} is for keeping: unpacked to {} at load", tensor.codec, unpacked.codec)
                });
                (codec_of(unpacked.codec)?, PLAIN, why)
            }
        };
        let family = match code.layout(params) {
            layout if layout.is_empty() => code.id().to_string(),
            layout => format!("{}-{layout}", code.id()),
        };
        let (kernel, used, how) = match stage {
            Stage::Prefill if self.precision == Precision::Q8 && code.has_panels(params, self.level) => {
                let name =
                    format!("{family}/{}/strip-bytes + gemm8/{}", self.level, panel::method(self.level));
                let how =
                    "strips of rows are unpacked once for all tokens, whose inputs are rounded to 8 bits";
                (name, Kernel::compiled(self.level), how)
            }
            Stage::Prefill => {
                let decode = code.kernel(params, Operation::Decode, self.level);
                let name = format!("{family}/{}/strip-decode + gemm/{}", decode.tag(), self.level);
                (name, decode, "strips of rows are decoded once for all tokens")
            }
            Stage::Decode => {
                let matvec = code.kernel(params, Operation::Matvec(self.precision), self.level);
                let name = format!("{family}/{}/matvec", matvec.tag());
                (name, matvec, "reads the stored blocks in place")
            }
        };
        if let Some(why) = used.fallback {
            fallback = Some(fallback.map_or_else(|| why.to_owned(), |first| format!("{first}; {why}")));
        }
        Ok(KernelChoice {
            stage,
            backend: self.name().into(),
            kernel,
            reason: format!("{how}; {}: {}", self.level, self.why),
            fallback,
        })
    }
}
