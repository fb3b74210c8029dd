//! The ASTC encoder beside ARM's astcenc on the same weights, one thread each,
//! by turns: `cargo run --release -p squizd --features arm-astcenc --example
//! astc_speed`. CPU time counts, not the clock, since other work may run beside.

use ctt_astcenc::bindings::{astcenc_image, astcenc_type_ASTCENC_TYPE_F32};
use ctt_astcenc::{Context, Flags, Preset, Profile, Swizzle, config_init};
use rustix::time::{ClockId, clock_gettime};
use squizd::codec::{EncodeOptions, PayloadSink, Quality, Rows, codec};
use squizd_spec::{CodecId, DType, Matrix};
use std::{borrow::Cow, error::Error, ops::Range};

const MATRIX: Matrix = Matrix { rows: 192, cols: 768 };
/// Half the range of weights that becomes texels, in root mean squares: what
/// serves astcenc best on Gaussian weights.
const HALF_RANGE: f32 = 3.0;
const ROUNDS: usize = 3;

/// Standard normal weights.
struct Weights(Vec<f32>);

impl Weights {
    fn gaussian() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 + 0.5) / (1 << 24) as f32
        };
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
        Self((0..MATRIX.elements()).map(|_| normal()).collect())
    }
}

impl Rows for Weights {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn matrix(&self) -> Matrix {
        MATRIX
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = MATRIX.cols as usize;
        out.copy_from_slice(&self.0[rows.start as usize * cols..rows.end as usize * cols]);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

/// A payload that nobody reads.
struct Nowhere;

impl PayloadSink for Nowhere {
    fn write_at(&self, _: u64, bytes: &[u8]) -> squizd::Result<()> {
        std::hint::black_box(bytes);
        Ok(())
    }
}

/// CPU seconds of this thread.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// CPU seconds and decibels of ours.
fn ours(weights: &Weights, quality: Quality) -> squizd::Result<(f64, f64)> {
    let codec = codec(CodecId::ASTC).ok_or_else(|| squizd::Error::unsupported("no ASTC"))?;
    let request = EncodeOptions { quality: Some(quality), ..EncodeOptions::NONE }.into();
    let start = cpu();
    let params = codec.plan(weights, &request)?;
    let (_, stats) = codec.encode(weights, &params, &request, &Nowhere)?;
    Ok((cpu() - start, stats.snr_db()))
}

/// An image of four f32 channels over `pixels`.
fn image(slice: &mut *mut std::ffi::c_void) -> astcenc_image {
    astcenc_image {
        dim_x: MATRIX.cols as u32,
        dim_y: MATRIX.rows as u32,
        dim_z: 1,
        data_type: astcenc_type_ASTCENC_TYPE_F32,
        data: slice,
    }
}

/// CPU seconds and decibels of astcenc -thorough.
fn theirs(weights: &Weights) -> Result<(f64, f64), Box<dyn Error>> {
    let texel = |w: &f32| (w / (2.0 * HALF_RANGE) + 0.5).clamp(0.0, 1.0);
    let mut pixels: Vec<f32> = weights.0.iter().flat_map(|w| [texel(w), texel(w), texel(w), 1.0]).collect();
    let mut blocks = vec![0; (MATRIX.rows.div_ceil(6) * MATRIX.cols.div_ceil(6) * 16) as usize];
    let mut context = Context::new(&config_init(Profile::Ldr, 6, 6, 1, Preset::Thorough, Flags::empty())?)?;
    let mut slice = pixels.as_mut_ptr().cast();
    let start = cpu();
    context.compress(&mut image(&mut slice), Swizzle::RRR1, &mut blocks)?;
    let seconds = cpu() - start;
    let mut slice = pixels.as_mut_ptr().cast();
    context.decompress(&blocks, &mut image(&mut slice), Swizzle::IDENTITY)?;
    let (mut signal, mut noise) = (0.0, 0.0);
    for (w, pixel) in weights.0.iter().zip(pixels.as_chunks::<4>().0) {
        let error = f64::from(w - (pixel[0] - 0.5) * 2.0 * HALF_RANGE);
        signal += f64::from(*w) * f64::from(*w);
        noise += error * error;
    }
    Ok((seconds, 10.0 * (signal / noise).log10()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let weights = Weights::gaussian();
    let qualities = [Quality::Fast, Quality::Default, Quality::Max];
    // One rayon thread: this one, whose time is measured.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    ours(&weights, Quality::Default)?;
    let (mut best, mut decibels) = ([f64::INFINITY; 4], [0.0; 4]);
    for _ in 0..ROUNDS {
        for (i, quality) in qualities.into_iter().enumerate() {
            let (seconds, db) = ours(&weights, quality)?;
            (best[i], decibels[i]) = (best[i].min(seconds), db);
        }
        let (seconds, db) = theirs(&weights)?;
        (best[3], decibels[3]) = (best[3].min(seconds), db);
    }
    for (i, name) in ["fast", "default", "max", "astcenc -thorough"].into_iter().enumerate() {
        let rate = MATRIX.elements() as f64 / best[i] / 1e6;
        println!("{name:18} {:6.2} dB {rate:8.2} Mweights/s  x{:.1}", decibels[i], best[3] / best[i]);
    }
    Ok(())
}
