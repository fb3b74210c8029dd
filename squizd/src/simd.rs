//! Which instruction set the inner loops use: detected once, overridable.
//!
//! Encoders and decoders give the same bytes at every level: their loops are
//! written once over fixed arrays of lanes, with fixed-order sums and no fused
//! multiply-add, and [`multiversion!`] compiles them once per level. Only the
//! matvec kernels differ by level, within rounding.

use crate::{Error, Result};
use std::{fmt, str::FromStr, sync::OnceLock, sync::atomic::AtomicU8, sync::atomic::Ordering};

/// Environment variable that overrides detection: `scalar`, `avx2`, `avx512`
/// or `neon`.
pub const ENV: &str = "SQUIZD_SIMD";

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// The target's baseline and no intrinsics; the reference.
    Scalar = 1,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2 = 2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later).
    Avx512 = 3,
    /// AArch64 with NEON and the dot product instructions.
    Neon = 4,
}

impl Level {
    /// Every level, whether or not this CPU has it.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// The name used by [`ENV`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this CPU can run the level.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => {
                std::arch::is_aarch64_feature_detected!("neon")
                    && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[allow(unreachable_patterns, reason = "which levels remain depends on the target")]
            _ => false,
        }
    }

    /// The levels this CPU can run, the scalar one first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|l| l.is_supported())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|l| l.name() == s).ok_or_else(|| {
            Error::invalid(format!("unknown instruction set {s:?}; allowed: scalar, avx2, avx512, neon"))
        })
    }
}

/// [`force`]d level, 0 for none.
static FORCED: AtomicU8 = AtomicU8::new(0);
static DETECTED: OnceLock<Level> = OnceLock::new();

/// The level [`ENV`] asks for, if it is set.
///
/// # Errors
/// If it names no level, or one this CPU lacks. Commands call this first, so
/// that a misspelt override is reported; [`level`] itself ignores it.
pub fn requested() -> Result<Option<Level>> {
    match std::env::var(ENV) {
        Ok(text) if !text.is_empty() => {
            let level: Level = text.parse()?;
            ensure_supported(level).map(Some)
        }
        _ => Ok(None),
    }
}

/// The level in use: the [`force`]d one, else the one [`ENV`] names, else the
/// best this CPU supports.
pub fn level() -> Level {
    match FORCED.load(Ordering::Relaxed) {
        1 => Level::Scalar,
        2 => Level::Avx2,
        3 => Level::Avx512,
        4 => Level::Neon,
        _ => *DETECTED.get_or_init(|| {
            requested().ok().flatten().or_else(|| Level::supported().last()).unwrap_or(Level::Scalar)
        }),
    }
}

/// Why [`level`] is what it is.
pub fn reason() -> &'static str {
    if FORCED.load(Ordering::Relaxed) != 0 {
        "chosen by the program"
    } else if requested().is_ok_and(|r| r.is_some()) {
        "asked for by SQUIZD_SIMD"
    } else {
        "the best this CPU has"
    }
}

/// Makes the whole process use `level` from now on.
///
/// # Errors
/// If this CPU lacks it.
pub fn force(level: Level) -> Result<()> {
    FORCED.store(ensure_supported(level)? as u8, Ordering::Relaxed);
    Ok(())
}

fn ensure_supported(level: Level) -> Result<Level> {
    if level.is_supported() {
        Ok(level)
    } else {
        let have: Vec<_> = Level::supported().map(Level::name).collect();
        Err(Error::unsupported(format!("this CPU lacks {level}; it supports {}", have.join(", "))))
    }
}

/// Compiles `$body`, an `#[inline(always)]` function, once per level, and
/// defines `$name`, which runs the copy for the level in use.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            match $crate::simd::level() {
                // SAFETY: the level is only ever one this CPU supports.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: the level is only ever one this CPU supports.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                // NEON belongs to AArch64's baseline.
                _ => $body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_others_are_refused() {
        for level in Level::ALL {
            assert_eq!(level.name().parse::<Level>().unwrap(), level);
        }
        let message = "sse9".parse::<Level>().unwrap_err().to_string();
        assert!(message.contains("\"sse9\"") && message.contains("avx512"), "{message}");
    }

    #[test]
    fn forcing_a_missing_level_is_an_error() {
        for level in Level::ALL {
            assert_eq!(force(level).is_ok(), level.is_supported(), "{level}");
        }
        force(Level::supported().last().unwrap()).unwrap();
    }
}
