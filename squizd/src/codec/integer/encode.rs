//! Rows of weights to codes and stored scales, at every instruction set.

use super::compact::{self, Compact};
use super::fine::{self, Fine};
use super::fit::{Groups, store_codes};
use super::layout::{Layout, SUPERBLOCK};
use crate::codec::EncodeStats;
use crate::codec::lanes::{F32x8, LANES, Lanes};
use crate::simd;

/// Output of some rows: zeroed bytes, and bytes per row.
pub(super) struct Coded<'a> {
    /// One byte per weight, rows in whole blocks of 32.
    pub(super) codes: &'a mut [u8],
    pub(super) code_stride: usize,
    /// Scales as stored.
    pub(super) scales: &'a mut [u8],
    pub(super) scale_stride: usize,
}

/// What encoding some rows came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) stats: EncodeStats,
    /// The first row one of whose scales overflowed.
    pub(super) overflow: Option<usize>,
}

impl Tally {
    /// Adds eight groups' sums, which are in units of `2^shift` squared.
    #[inline(always)]
    pub(super) fn add(&mut self, signal: F32x8, noise: F32x8, shift: &[i32; LANES]) {
        if *shift == [0; LANES] {
            self.stats.signal += signal.sum_f64();
            self.stats.noise += noise.sum_f64();
            return;
        }
        for l in 0..LANES {
            let unit = f64::from_bits(((1023 + 2 * shift[l]) as u64) << 52);
            self.stats.signal += f64::from(signal.0[l]) * unit;
            self.stats.noise += f64::from(noise.0[l]) * unit;
        }
    }

    pub(super) fn overflow(&mut self, row: usize) {
        self.overflow.get_or_insert(row);
    }
}

/// Defines `$name`, which runs `$body`, generic over lanes and bits, with the
/// lanes of the level in use.
macro_rules! at_each_level {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty = $body:ident;) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
        pub(super) fn $name<const B: u32>($($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2<const B: u32>($($arg: $ty),*) -> $ret {
                $body::<crate::codec::lanes::Avx, B>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512<const B: u32>($($arg: $ty),*) -> $ret {
                $body::<crate::codec::lanes::Avx, B>($($arg),*)
            }
            match simd::level() {
                // SAFETY: the level is only ever one this CPU supports.
                #[cfg(target_arch = "x86_64")]
                simd::Level::Avx2 => unsafe { avx2::<B>($($arg),*) },
                // SAFETY: the level is only ever one this CPU supports.
                #[cfg(target_arch = "x86_64")]
                simd::Level::Avx512 => unsafe { avx512::<B>($($arg),*) },
                _ => $body::<F32x8, B>($($arg),*),
            }
        }
    };
}

at_each_level! {
    /// Encodes whole rows of `cols` columns, each weight to the nearest value.
    /// With `importance`, one for each column, scales minimise the error that
    /// it weighs.
    fn encode_rows(layout: Layout, values: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut Coded<'_>) -> Tally = encode_lanes;
}

#[inline(always)]
fn encode_lanes<V: Lanes, const B: u32>(
    layout: Layout,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Coded<'_>,
) -> Tally {
    match layout {
        Layout::Compact(compact) => compact.encode_rows::<V, B>(values, cols, importance, out),
        Layout::Fine(fine) => fine.encode_rows::<V, B>(values, cols, importance, out),
        Layout::Plain { group, format } => match group {
            16 => format.encode_rows::<V, B, 16>(values, cols, importance, out),
            32 => format.encode_rows::<V, B, 32>(values, cols, importance, out),
            64 => format.encode_rows::<V, B, 64>(values, cols, importance, out),
            _ => format.encode_rows::<V, B, 128>(values, cols, importance, out),
        },
    }
}

/// Calls `encode` for every superblock of `values`: row, weights, importances,
/// where its codes and its scales go.
#[inline(always)]
fn superblocks(
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Coded<'_>,
    mut encode: impl FnMut(usize, &[f32], Option<&[f32]>, &mut [u8], &mut [u8]),
) {
    let rows = values.chunks_exact(cols).zip(out.codes.chunks_exact_mut(out.code_stride));
    for (row, ((w, codes), scales)) in rows.zip(out.scales.chunks_exact_mut(out.scale_stride)).enumerate() {
        let parts = w.chunks(SUPERBLOCK).zip(codes.chunks_mut(SUPERBLOCK)).zip(scales.chunks_mut(16));
        for (i, ((w, codes), scales)) in parts.enumerate() {
            let start = i * SUPERBLOCK;
            let importance = importance.and_then(|v| v.get(start..start + w.len()));
            let codes = codes.get_mut(..w.len()).unwrap_or_default();
            encode(row, w, importance, codes, scales);
        }
    }
}

/// Stores the low `4 + ceil(bits / 8)` bytes of a superblock, bits behind its
/// last entry zero.
#[inline(always)]
pub(super) fn store_words(words: u128, entry_bits: usize, entries: usize, out: &mut [u8]) {
    let kept = words & u128::MAX >> (128 - (32 + entry_bits * entries).min(128));
    for (b, w) in out.iter_mut().zip(kept.to_le_bytes()) {
        *b = w;
    }
}

impl Compact {
    #[inline(always)]
    fn encode_rows<V: Lanes, const B: u32>(
        self,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut Coded<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut groups = Groups::EMPTY;
        let mut q = [V::zero(); compact::GROUP];
        superblocks(values, cols, importance, out, |row, w, importance, codes, scales| {
            let chosen = self.scales::<V, B>(w, importance, &mut groups, scales);
            let (signal, noise) = groups.assign::<V, B>(chosen.scale, chosen.minus, self.code_bias, &mut q);
            store_codes(&q, codes);
            tally.add(signal, noise, &groups.shift);
            if chosen.overflow {
                tally.overflow(row);
            }
        });
        tally
    }

    /// Loads a superblock into `groups`, chooses its scales and stores them.
    #[inline(always)]
    fn scales<V: Lanes, const B: u32>(
        self,
        w: &[f32],
        importance: Option<&[f32]>,
        groups: &mut Groups<{ compact::GROUP }>,
        stored: &mut [u8],
    ) -> compact::Scales<V> {
        groups.load::<V>(w.chunks(compact::GROUP), importance.map(|v| v.chunks(compact::GROUP)));
        groups.normalise::<V>(F32x8([groups.peaks::<V>().max_lane(); LANES]));
        let chosen = self.choose::<V, B>(groups);
        store_words(chosen.words, 12, w.len().div_ceil(compact::GROUP), stored);
        chosen
    }
}

impl Fine {
    #[inline(always)]
    fn encode_rows<V: Lanes, const B: u32>(
        self,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut Coded<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut halves = [Groups::EMPTY, Groups::EMPTY];
        let mut q = [V::zero(); fine::GROUP];
        superblocks(values, cols, importance, out, |row, w, importance, codes, scales| {
            let chosen = self.scales::<V, B>(w, importance, &mut halves, scales);
            for (h, codes) in codes.chunks_mut(SUPERBLOCK / 2).enumerate() {
                let (signal, noise) =
                    halves[h].assign::<V, B>(chosen.scale[h], chosen.minus[h], self.code_bias, &mut q);
                store_codes(&q, codes);
                tally.add(signal, noise, &halves[h].shift);
            }
            if chosen.overflow {
                tally.overflow(row);
            }
        });
        tally
    }

    /// Loads a superblock into `halves`, chooses its scales and stores them.
    #[inline(always)]
    fn scales<V: Lanes, const B: u32>(
        self,
        w: &[f32],
        importance: Option<&[f32]>,
        halves: &mut [Groups<{ fine::GROUP }>; 2],
        stored: &mut [u8],
    ) -> fine::Scales<V> {
        for (h, groups) in halves.iter_mut().enumerate() {
            let importance = importance.map(|v| half(v, h).chunks(fine::GROUP));
            groups.load::<V>(half(w, h).chunks(fine::GROUP), importance);
        }
        let peak = halves[0].peaks::<V>().max_lane().max(halves[1].peaks::<V>().max_lane());
        for groups in &mut *halves {
            groups.normalise::<V>(F32x8([peak; LANES]));
        }
        let chosen = self.choose::<V, B>(halves);
        store_words(chosen.words, 6, w.len().div_ceil(fine::GROUP), stored);
        chosen
    }
}

/// The first or second half of a superblock, as far as it is there.
#[inline(always)]
fn half(superblock: &[f32], h: usize) -> &[f32] {
    let (first, second) = superblock.split_at(superblock.len().min(SUPERBLOCK / 2));
    if h == 0 { first } else { second }
}
