//! Which code a codec runs for which operation and instruction set.
//!
//! Each codec answers for itself ([`Codec::kernel`](super::Codec::kernel)), and
//! its own dispatch asks the same function, so that what is told is what runs.

use super::Precision;
use crate::simd::Level;
use squizd_spec::CodecId;

/// What a kernel does with stored blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Rows times one vector, which is read in this precision.
    Matvec(Precision),
    /// Rows to `f32`.
    Decode,
}

/// Code for one operation of one codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Instruction set that the code is written or compiled for.
    pub level: Level,
    /// The instructions that tell it from other code of the level (`vnni`,
    /// `maddubs`, `fma`); empty where one source text is compiled for each level.
    pub method: &'static str,
    /// Why it is not of the level asked for, where it is not.
    pub fallback: Option<&'static str>,
}

impl Kernel {
    /// One source text, compiled for each level
    /// ([`multiversion!`](crate::simd::multiversion)).
    pub(crate) const fn compiled(level: Level) -> Self {
        Self { level, method: "", fallback: None }
    }

    /// Code that uses `method`.
    pub(super) const fn with(level: Level, method: &'static str) -> Self {
        Self { level, method, fallback: None }
    }

    /// Plain code, because of `why`, whatever the level.
    pub(super) const fn plain(asked: Level, why: &'static str) -> Self {
        Self {
            level: Level::Scalar,
            method: "",
            fallback: if matches!(asked, Level::Scalar) { None } else { Some(why) },
        }
    }

    /// Code written for AVX2, which stands in for AVX-512 too; for the other
    /// levels one source text.
    pub(super) const fn avx2(asked: Level, method: &'static str) -> Self {
        match asked {
            Level::Avx2 | Level::Avx512 => Self::with(Level::Avx2, method),
            _ => Self::compiled(asked),
        }
    }

    /// `avx512-vnni`, `avx2`.
    pub fn tag(&self) -> String {
        if self.method.is_empty() {
            self.level.name().to_owned()
        } else {
            format!("{}-{}", self.level, self.method)
        }
    }
}

/// What a codec for keeping becomes before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The raw codec of the numbers.
    pub codec: CodecId,
    /// Memory that they take; 0 where the payload holds them as they are.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::super::CODECS;
    use super::super::testing::{MemoryRows, encode, gaussian};
    use super::*;
    use crate::dispatch::{Cpu, Stage, Subject, choose};

    #[test]
    fn every_codec_has_a_kernel_for_every_stage_and_level() {
        for codec in CODECS {
            let rows = MemoryRows::for_codec(*codec, 4, 96, gaussian(4 * 96, 1));
            let stored = encode(*codec, &rows, None).unwrap();
            let tensor = Subject { codec: codec.id(), params: &stored.params, matrix: stored.matrix };
            for level in Level::ALL {
                for precision in [Precision::F32, Precision::Q8] {
                    for stage in Stage::ALL {
                        let choice = choose(&[&Cpu::at(level, precision)], &tensor, stage).unwrap();
                        assert_eq!((choice.stage, &*choice.backend), (stage, "cpu"));
                    }
                    let kernel = codec.kernel(&stored.params, Operation::Matvec(precision), level);
                    assert!(kernel.level <= level, "{} at {level}: {kernel:?}", codec.id());
                    // Plain code where better was asked for is a fallback, and the only one.
                    assert_eq!(
                        kernel.fallback.is_some(),
                        kernel.level == Level::Scalar && level != Level::Scalar,
                        "{} at {level}: {kernel:?}",
                        codec.id()
                    );
                }
            }
        }
    }
}
