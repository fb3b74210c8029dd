//! Rows of weights to codes and stored scales.

use super::compact::{self, Compact};
use super::fine::{self, Fine};
use super::fit::{Groups, Quantizer, top};
use super::layout::{Layout, SUPERBLOCK};
use crate::codec::EncodeStats;
use crate::codec::lanes::{F32x8, LANES};

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

/// Encodes whole rows of `cols` columns to codes of `bits`, each weight to the
/// nearest value. With `importance`, one for each column, scales minimise the
/// error that it weighs.
pub(super) fn encode_rows(
    bits: u32,
    layout: Layout,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Coded<'_>,
) -> Tally {
    match layout {
        Layout::Compact(compact) => compact.encode_rows(bits, values, cols, importance, out),
        Layout::Fine(fine) => fine.encode_rows(bits, values, cols, importance, out),
        Layout::Plain { group, format } => format.encode_rows(bits, group, values, cols, importance, out),
    }
}

/// Calls `encode` for every superblock of `values`: row, weights, importances,
/// where its codes and its scales go.
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
pub(super) fn store_words(words: u128, entry_bits: usize, entries: usize, out: &mut [u8]) {
    let kept = words & u128::MAX >> (128 - (32 + entry_bits * entries).min(128));
    for (b, w) in out.iter_mut().zip(kept.to_le_bytes()) {
        *b = w;
    }
}

impl Compact {
    fn encode_rows(
        self,
        bits: u32,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut Coded<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut groups = Groups::new(compact::GROUP);
        let quantizer = Quantizer { top: top(bits), bias: self.code_bias };
        superblocks(values, cols, importance, out, |row, w, importance, codes, scales| {
            groups.load(w.chunks(compact::GROUP), importance.map(|v| v.chunks(compact::GROUP)));
            groups.normalise(F32x8([groups.peaks().max_lane(); LANES]));
            let chosen = self.choose(&mut groups, bits);
            store_words(chosen.words, 12, w.len().div_ceil(compact::GROUP), scales);
            let (signal, noise) = groups.assign(chosen.scale, chosen.minus, quantizer, codes);
            tally.add(signal, noise, &groups.shift);
            if chosen.overflow {
                tally.overflow(row);
            }
        });
        tally
    }
}

impl Fine {
    fn encode_rows(
        self,
        bits: u32,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut Coded<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut halves = [Groups::new(fine::GROUP), Groups::new(fine::GROUP)];
        let quantizer = Quantizer { top: top(bits), bias: self.code_bias };
        superblocks(values, cols, importance, out, |row, w, importance, codes, scales| {
            for (h, groups) in halves.iter_mut().enumerate() {
                let importance = importance.map(|v| half(v, h).chunks(fine::GROUP));
                groups.load(half(w, h).chunks(fine::GROUP), importance);
            }
            let peak = halves[0].peaks().max_lane().max(halves[1].peaks().max_lane());
            for groups in &mut halves {
                groups.normalise(F32x8([peak; LANES]));
            }
            let chosen = self.choose(&mut halves, bits);
            store_words(chosen.words, 6, w.len().div_ceil(fine::GROUP), scales);
            for (h, codes) in codes.chunks_mut(SUPERBLOCK / 2).enumerate() {
                let (signal, noise) = halves[h].assign(chosen.scale[h], chosen.minus[h], quantizer, codes);
                tally.add(signal, noise, &halves[h].shift);
            }
            if chosen.overflow {
                tally.overflow(row);
            }
        });
        tally
    }
}

/// The first or second half of a superblock, as far as it is there.
fn half(superblock: &[f32], h: usize) -> &[f32] {
    let (first, second) = superblock.split_at(superblock.len().min(SUPERBLOCK / 2));
    if h == 0 { first } else { second }
}
