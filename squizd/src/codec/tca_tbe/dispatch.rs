//! One entry point per loop and level.
#![allow(unsafe_code)] // calls to functions compiled for detected CPU features

use super::decode::{self, Corrupt};
use super::payload::Payload;
use crate::codec::Kernel;
use crate::simd::{Level, level};
use std::ops::Range;

/// Defines `$name`, which runs `decode::$body` with the lanes of the level in
/// use.
macro_rules! entry {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        pub(super) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                decode::$body::<super::x86::Avx2>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx512vpopcntdq")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                decode::$body::<super::x86::Avx512>($($arg),*)
            }
            match kernel(level()).level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => {
                    // SAFETY: the level is one this CPU supports, which covers
                    // AVX-512 F, BW, DQ and VL, AVX2 and FMA; `kernel` has
                    // asked for the rest.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    // SAFETY: the level is one this CPU supports, which covers
                    // AVX2 and FMA; `kernel` has asked for the rest.
                    unsafe { avx2($($arg),*) }
                }
                #[cfg(target_arch = "aarch64")]
                Level::Neon => decode::$body::<super::neon::Neon>($($arg),*),
                _ => decode::$body::<decode::Plain>($($arg),*),
            }
        }
    };
}

/// The code for all loops of this codec.
pub(super) fn kernel(asked: Level) -> Kernel {
    match asked {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 if !has_bmi2() => Kernel::plain(asked, "this CPU lacks BMI2"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if has_vbmi2() => Kernel::with(asked, "vbmi2"),
        _ => Kernel::avx2(asked, ""),
    }
}

/// Whether the CPU has the scalar instructions that come with AVX2 everywhere
/// but in a few VIA chips and virtual machines.
#[cfg(target_arch = "x86_64")]
fn has_bmi2() -> bool {
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt")
}

/// Whether the CPU has the byte permutations that came to AVX-512 with Ice
/// Lake and Zen 4.
#[cfg(target_arch = "x86_64")]
fn has_vbmi2() -> bool {
    is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("avx512vpopcntdq")
}

entry! {
    /// Decodes `rows` into `out`; with `stream` around the caches.
    fn rows_to_bf16(payload: &Payload<'_>, rows: Range<usize>, out: &mut [u16], stream: bool)
        -> Result<(), Corrupt> = rows_to_bf16;
}

entry! {
    /// Decodes `rows` into `out` as `f32`.
    fn rows_to_f32(payload: &Payload<'_>, rows: Range<usize>, out: &mut [f32]) -> Result<(), Corrupt> = rows_to_f32;
}

entry! {
    /// `y[i] = dot(row rows.start + i, x)`; NaN for a corrupt row.
    fn rows_dot(payload: &Payload<'_>, x: &[f32], rows: Range<usize>, y: &mut [f32]) = rows_dot;
}

/// Makes streamed stores visible to other threads.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    super::x86::fence();
}
