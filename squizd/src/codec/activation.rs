//! The input vector of a matvec, in the forms the kernels read.

use super::kernels::OCTET;
#[cfg(any(target_arch = "x86_64", test))]
use super::kernels::PAIR_ORDER;
use crate::simd::multiversion;
use std::{
    borrow::Cow,
    sync::{Mutex, OnceLock, PoisonError},
};

/// How a kernel may read the activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// 32-bit floats throughout; the reference.
    F32,
    /// 8-bit integers with one scale per 32 values (as llama.cpp does):
    /// integer dot products, about 0.4% relative error of each product sum.
    /// Raw codecs use the floats all the same.
    #[default]
    Q8,
}

/// One input vector, prepared once for any number of matrices of its width.
#[derive(Debug)]
pub struct Activation<'a> {
    x: &'a [f32],
    precision: Precision,
    /// Sums of 16 values each, in the precision asked for; two per block of
    /// 32, zero-padded to whole octets (eight blocks).
    sums: Vec<f32>,
    /// Scales and block sums of each octet in `PAIR_ORDER`.
    #[cfg(any(target_arch = "x86_64", test))]
    octets: Vec<Octet>,
    quantized: Quantized,
    /// The values under the rotation of the first tensor that had one.
    rotated: OnceLock<((u64, u8), Rotated)>,
    /// Memory for them.
    spare: Mutex<Rotated>,
}

/// Values under a rotation, zero-padded to whole groups of 64.
#[derive(Clone, Debug, Default)]
pub(super) struct Rotated {
    pub(super) floats: Vec<f32>,
    /// `value ~ scale * code` per 32; empty for [`Precision::F32`].
    pub(super) codes: Vec<i8>,
    pub(super) scales: Vec<f32>,
    /// Sums of 16 values.
    sums: Vec<f32>,
}

impl Rotated {
    /// `x` as `rotate` leaves it, in used memory.
    fn new(x: &[f32], precision: Precision, memory: Self, rotate: impl Fn(&mut [f32])) -> Self {
        let Self { mut floats, mut codes, mut scales, mut sums } = memory;
        floats.clear();
        floats.extend_from_slice(x);
        rotate(&mut floats);
        floats.resize(floats.len().next_multiple_of(64), 0.0);
        let quantized = if precision == Precision::Q8 { floats.len() } else { 0 };
        zeroed(&mut codes, quantized);
        zeroed(&mut scales, quantized / 32);
        zeroed(&mut sums, quantized / 16);
        if quantized > 0 {
            quantize(&floats, &mut codes, &mut scales, &mut sums);
        }
        Self { floats, codes, scales, sums }
    }
}

/// Memory of an [`Activation`], to be used again for the next one.
#[derive(Debug, Default)]
pub struct ActivationBuffers {
    sums: Vec<f32>,
    #[cfg(any(target_arch = "x86_64", test))]
    octets: Vec<Octet>,
    quantized: Quantized,
    rotated: Rotated,
}

/// `x ~ scale * code` per block of 32, zero-padded to whole octets (eight
/// blocks); empty for [`Precision::F32`].
#[derive(Debug, Default)]
pub(super) struct Quantized {
    /// Codes in order.
    pub(super) codes: Vec<i8>,
    /// One scale per block.
    pub(super) scales: Vec<f32>,
    /// Codes with the halves of two neighbouring blocks swapped together:
    /// first halves of both, then second halves, as a 32-byte load of INT4
    /// codes yields them.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(super) paired: Vec<i8>,
    /// Codes with the quarters of four neighbouring blocks swapped together:
    /// first quarters of all, then second ones and so on, as the 2-bit fields
    /// of a 32-byte load yield them.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(super) quartered: Vec<i8>,
}

/// Eight blocks' scales and sums of codes (0 for [`Precision::F32`]), sums, and
/// sums of the blocks' halves, in `PAIR_ORDER`.
#[cfg(any(target_arch = "x86_64", test))]
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(super) struct Octet {
    pub(super) scales: [f32; 8],
    pub(super) sums: [f32; 8],
    pub(super) halves: [[f32; 8]; 2],
    /// Sums of the codes of both halves of each block, side by side.
    pub(super) codes: [i16; 16],
}

impl<'a> Activation<'a> {
    /// Prepares `x` (one value per matrix column) for kernels of `precision`.
    pub fn new(x: &'a [f32], precision: Precision) -> Self {
        Self::with_buffers(x, precision, ActivationBuffers::default())
    }

    /// The same in memory that an earlier one of at least this width has left.
    pub fn with_buffers(x: &'a [f32], precision: Precision, buffers: ActivationBuffers) -> Self {
        let ActivationBuffers { mut sums, mut quantized, rotated, .. } = buffers;
        let length = x.len().next_multiple_of(OCTET);
        zeroed(&mut sums, length / 16);
        match precision {
            Precision::F32 => {
                quantized.clear();
                sum_16(x, &mut sums);
            }
            Precision::Q8 => {
                zeroed(&mut quantized.codes, length);
                zeroed(&mut quantized.scales, length / 32);
                quantize(x, &mut quantized.codes, &mut quantized.scales, &mut sums);
                #[cfg(any(target_arch = "x86_64", test))]
                quantized.pair();
            }
        }
        Self {
            x,
            precision,
            #[cfg(any(target_arch = "x86_64", test))]
            octets: octets(&quantized, &sums, buffers.octets),
            sums,
            quantized,
            rotated: OnceLock::new(),
            spare: Mutex::new(rotated),
        }
    }

    /// Its memory.
    pub fn into_buffers(self) -> ActivationBuffers {
        let spare = || self.spare.into_inner().unwrap_or_else(PoisonError::into_inner);
        ActivationBuffers {
            rotated: self.rotated.into_inner().map_or_else(spare, |(_, rotated)| rotated),
            sums: self.sums,
            #[cfg(any(target_arch = "x86_64", test))]
            octets: self.octets,
            quantized: self.quantized,
        }
    }

    /// The values.
    pub fn x(&self) -> &'a [f32] {
        self.x
    }

    /// The values rotated by `rotate`, in place, which `key` identifies: kept for
    /// the first key asked for, so that matrices that share input and rotation, and
    /// all the tasks of each, rotate once.
    pub(super) fn rotated(&self, key: (u64, u8), rotate: impl Fn(&mut [f32])) -> Cow<'_, Rotated> {
        let new = |memory| Rotated::new(self.x, self.precision, memory, &rotate);
        let (first, kept) = self.rotated.get_or_init(|| {
            (key, new(std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner))))
        });
        if *first == key { Cow::Borrowed(kept) } else { Cow::Owned(new(Rotated::default())) }
    }

    /// How kernels read the values.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Sums of 16 values each.
    pub(super) fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Scales and sums by octet.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(super) fn octets(&self) -> &[Octet] {
        &self.octets
    }

    /// The 8-bit form; empty for [`Precision::F32`].
    pub(super) fn quantized(&self) -> &Quantized {
        &self.quantized
    }
}

/// Sets the length, all zeros.
fn zeroed<T: Copy + Default>(values: &mut Vec<T>, length: usize) {
    values.clear();
    values.resize(length, T::default());
}

impl Quantized {
    fn clear(&mut self) {
        self.codes.clear();
        self.scales.clear();
        #[cfg(any(target_arch = "x86_64", test))]
        {
            self.paired.clear();
            self.quartered.clear();
        }
    }
}

#[cfg(any(target_arch = "x86_64", test))]
impl Quantized {
    /// Fills `paired` and `quartered`.
    fn pair(&mut self) {
        zeroed(&mut self.quartered, self.codes.len());
        let fours = self.quartered.as_chunks_mut::<128>().0.iter_mut().zip(self.codes.as_chunks::<128>().0);
        for (four, codes) in fours {
            for (i, part) in four.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let (field, block) = (i / 4, i % 4);
                part.copy_from_slice(&codes[32 * block + 8 * field..][..8]);
            }
        }
        zeroed(&mut self.paired, self.codes.len());
        let pairs = self.paired.as_chunks_mut::<64>().0.iter_mut().zip(self.codes.as_chunks::<64>().0);
        for (pair, codes) in pairs {
            for (to, from) in [(0, 0), (16, 32), (32, 16), (48, 48)] {
                pair[to..to + 16].copy_from_slice(&codes[from..from + 16]);
            }
        }
    }
}

/// Scales (none: 0) and block sums by octet.
#[cfg(any(target_arch = "x86_64", test))]
fn octets(quantized: &Quantized, sums: &[f32], mut out: Vec<Octet>) -> Vec<Octet> {
    let sums = sums.as_chunks::<16>().0;
    let scales = quantized.scales.as_chunks::<8>().0.iter().copied().chain(std::iter::repeat([0.0; 8]));
    let codes = quantized.codes.as_chunks::<OCTET>().0.iter().map(Some).chain(std::iter::repeat(None));
    out.clear();
    out.extend(sums.iter().zip(scales.zip(codes)).map(|(sums, (scales, codes))| Octet {
        scales: PAIR_ORDER.map(|g| scales[g]),
        sums: PAIR_ORDER.map(|g| sums[2 * g] + sums[2 * g + 1]),
        halves: [0, 1].map(|h| PAIR_ORDER.map(|g| sums[2 * g + h])),
        codes: codes.map_or([0; 16], |codes| {
            let halves = codes.as_chunks::<16>().0;
            std::array::from_fn(|i| halves[2 * PAIR_ORDER[i / 2] + i % 2].iter().map(|q| i16::from(*q)).sum())
        }),
    }));
    out
}

multiversion! {
    fn sum_16(x: &[f32], sums: &mut [f32]) = sum_16_lanes;
}

#[inline(always)]
fn sum_16_lanes(x: &[f32], sums: &mut [f32]) {
    for (sum, x) in sums.iter_mut().zip(x.chunks(16)) {
        *sum = x.iter().sum();
    }
}

multiversion! {
    /// Codes and scale of each block of 32, and `scale * sum(codes)` of each 16.
    fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) = quantize_lanes;
}

#[inline(always)]
pub(super) fn quantize_lanes(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let blocks = codes.as_chunks_mut::<32>().0.iter_mut().zip(scales).zip(sums.as_chunks_mut::<2>().0);
    for (x, ((codes, scale), sums)) in x.chunks(32).zip(blocks) {
        let mut block = [0.0; 32];
        if let Ok(full) = <&[f32; 32]>::try_from(x) {
            block = *full;
        } else {
            for (b, x) in block.iter_mut().zip(x) {
                *b = *x;
            }
        }
        let peak = f32::from_bits(block.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
        *scale = peak / 127.0;
        let inverse = if *scale > 1e-30 { 127.0 / peak } else { 0.0 };
        for (code, v) in codes.iter_mut().zip(&block) {
            // Ties to even: adding 1.5 * 2^23 leaves the integer in the low byte.
            *code = (v * inverse + 12_582_912.0).to_bits() as i8;
        }
        for (sum, half) in sums.iter_mut().zip(codes.as_chunks::<16>().0) {
            *sum = *scale * half.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_forms_agree() {
        let x: Vec<f32> = (0..70u8).map(|i| f32::from(i) - 35.0).collect();
        let a = Activation::new(&x, Precision::Q8);
        let q = a.quantized();
        assert_eq!((q.codes.len(), q.scales.len(), a.octets().len()), (256, 8, 1));
        for (i, x) in x.iter().enumerate() {
            let value = q.scales[i / 32] * f32::from(q.codes[i]);
            assert!((value - x).abs() <= q.scales[i / 32] * 0.501, "{i}: {value} {x}");
        }
        assert!(q.codes[70..].iter().all(|c| *c == 0));
        for (i, &group) in PAIR_ORDER.iter().enumerate() {
            assert_eq!(a.octets()[0].scales[i].to_bits(), q.scales[group].to_bits());
            let sum: i32 = q.codes[32 * group..32 * group + 32].iter().map(|c| i32::from(*c)).sum();
            assert!((a.octets()[0].sums[i] - q.scales[group] * sum as f32).abs() < 1e-3);
            let [first, second] = [0, 1].map(|h| i32::from(a.octets()[0].codes[2 * i + h]));
            assert_eq!(first + second, sum);
            let half = &q.codes[32 * group..32 * group + 16];
            assert_eq!(first, half.iter().map(|c| i32::from(*c)).sum::<i32>());
        }
        assert_eq!(q.paired[16..32], q.codes[32..48]);
        assert_eq!(q.paired[32..48], q.codes[16..32]);
        assert_eq!(q.quartered[8..16], q.codes[32..40]);
        assert_eq!(q.quartered[40..48], q.codes[40..48]);
    }

    #[test]
    fn used_memory_leaves_no_trace() {
        let long: Vec<f32> = (0..700).map(|i| i as f32 * 0.3 - 90.0).collect();
        for (first, then) in [(Precision::Q8, Precision::F32), (Precision::F32, Precision::Q8)] {
            let used = Activation::new(&long, first).into_buffers();
            let (again, new) =
                (Activation::with_buffers(&long[..70], then, used), Activation::new(&long[..70], then));
            assert_eq!(format!("{again:?}"), format!("{new:?}"));
        }
    }

    #[test]
    fn a_rotation_is_kept_and_so_is_its_memory() {
        let x: Vec<f32> = (0..100).map(|i| i as f32 - 50.0).collect();
        let negate = |x: &mut [f32]| x.iter_mut().for_each(|x| *x = -*x);
        let a = Activation::new(&x, Precision::Q8);
        let kept = a.rotated((1, 2), negate);
        assert_eq!(
            (kept.floats[0], kept.floats.len(), kept.codes[0], kept.scales.len()),
            (50.0, 128, 127, 4)
        );
        let again = a.rotated((1, 2), |_| panic!("rotated twice"));
        assert_eq!(kept.floats.as_ptr(), again.floats.as_ptr());
        assert_eq!(a.rotated((2, 2), |_| ()).floats[..1], [-50.0]);
        let memory = kept.floats.as_ptr();
        let b = Activation::with_buffers(&x[..70], Precision::F32, a.into_buffers());
        let again = b.rotated((3, 4), |_| ());
        assert_eq!((again.floats.as_ptr(), again.floats.len(), again.codes.len()), (memory, 128, 0));
        assert_eq!(again.floats[69..71], [19.0, 0.0]);
    }

    #[test]
    fn float_sums_are_of_sixteen() {
        let x = vec![1.0; 40];
        let a = Activation::new(&x, Precision::F32);
        assert_eq!(a.sums()[..4], [16.0, 16.0, 8.0, 0.0]);
        assert!(a.quantized().codes.is_empty());
    }
}
