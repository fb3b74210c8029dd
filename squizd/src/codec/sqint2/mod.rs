//! SQINT2: 2 to 4 bits a weight, trellis-coded under a Hadamard rotation.
//!
//! Rows are rotated ([`rotation`]) so that their weights become Gaussian
//! whatever they were, divided by one scale each ([`form`]), and coded in tiles
//! of 16 x 16 by a trellis code ([`tile`]): every weight is a table value
//! ([`table`]) of an 8 to 12 bit window that moves 2 to 4 bits per weight. The
//! encoder finds the best path ([`viterbi`]) and, with calibration, compensates
//! rounding errors ([`encode`]). The older four-level core is [`levels`].

mod check;
mod decode;
#[cfg(feature = "gpu")]
mod device;
mod encode;
mod factor;
mod form;
#[cfg(target_arch = "x86_64")]
mod gather;
#[cfg(test)]
mod golden;
mod levels;
mod matvec;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod pshufb;
mod rotation;
mod table;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vbmi;
mod viterbi;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::sample::Sample;
use super::stream::{for_row_chunks_of, geometry, out_of_range, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Quality, Request, Rows, Violation,
};
use crate::{Error, Result, simd::Level};
use encode::{Coded, Encoder, Worker, plan_scales};
use form::{Coding, Form, Scales};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params};
use std::ops::Range;
use tile::SIDE;

#[cfg(feature = "gpu")]
pub(crate) use device::{DeviceRotation, device_rotation, device_table};

/// The codec.
pub(super) const CODEC: &dyn Codec = &Sqint2;

/// Rate without a wish: 17/8 bits, 2.13 with scales at 1536 columns.
const DEFAULT_RATE: u8 = 17;

struct Sqint2;

/// The coding that is asked for.
fn coding(options: &EncodeOptions) -> Result<Coding> {
    if options.nf2 {
        return match (options.rate, options.quality) {
            (None, None) => Ok(Coding::Levels),
            _ => Err(Error::invalid("sqint2:nf2 has one rate and one quality: leave them away")),
        };
    }
    let window = match options.quality {
        Some(Quality::Fast) => 8,
        None | Some(Quality::Default) => 10,
        Some(Quality::Max) => 12,
    };
    Ok(Coding::trellis(eighths(options.rate)?, window))
}

/// The rate in eighths of a bit, of thousandths.
fn eighths(rate: Option<u16>) -> Result<u8> {
    let Some(rate) = rate else { return Ok(DEFAULT_RATE) };
    let exact = rate.is_multiple_of(125).then_some(rate / 125);
    exact.filter(|n| (16..=32).contains(n)).map(|n| n as u8).ok_or_else(|| {
        Error::invalid(format!(
            "sqint2 rate is {}.{:03} bits, allowed 2 to 4 in steps of 0.125",
            rate / 1000,
            rate % 1000
        ))
    })
}

/// The code that reads tiles, to multiply them and to decode them: AVX2 gathers
/// table values.
const fn trellis_kernel(asked: Level) -> Kernel {
    Kernel::avx2(asked, "gather")
}

impl Codec for Sqint2 {
    fn id(&self) -> CodecId {
        CodecId::SQINT2
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::Rate, OptionKind::Quality, OptionKind::Nf2]
    }

    fn gaussianizes(&self, options: &EncodeOptions) -> bool {
        !options.nf2
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, _: DType, _: Matrix, _: &EncodeOptions) -> bool {
        false
    }

    fn nominal(&self, matrix: Matrix, _: DType, options: &EncodeOptions) -> Result<Params> {
        Ok(Form::new(matrix.cols, coding(options)?, Scales::Byte(1.0)).params())
    }

    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        let coding = coding(&request.options)?;
        let sample = Sample::read(rows)?;
        let scales = plan_scales(&sample.trial, sample.trial_cols);
        Ok(Form::new(rows.matrix().cols, coding, scales).params())
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { planes: [scale_plane, code_plane, ..], length, .. } =
            geometry(self.id(), rows.name(), matrix, params)?;
        let mut stats = EncodeStats::default();
        if matrix.elements() == 0 {
            return Ok((length.max(), stats));
        }
        let form = Form::of(params);
        let cols = matrix.cols as usize;
        let rotation = form.rotation(cols);
        let place = |row: u64| match form.coding {
            Coding::Levels => row * code_plane.row_stride,
            Coding::Trellis { trellis, .. } => {
                row / SIDE as u64 * (cols.div_ceil(SIDE) * trellis.bytes()) as u64
            }
        };
        for (part, moments) in request.guide.split(0..matrix.rows) {
            // A strip belongs to the part of its first row.
            let strips = part.start.next_multiple_of(SIDE as u64)..part.end.next_multiple_of(SIDE as u64);
            let feedback = moments.and_then(|m| factor::feedback(m, form, &rotation));
            let encoder = Encoder { form, rotation: &rotation, feedback: feedback.as_deref() };
            let range = strips.start..strips.end.min(matrix.rows);
            let buffers = || (Worker::new(form), Vec::new());
            let part = for_row_chunks_of(rows, range, SIDE as u64, buffers, |(worker, weights), range| {
                read_finite(rows, range.clone(), self.id(), weights)?;
                let stats = match worker.encode(&encoder, weights, cols) {
                    Coded::Done(stats) => stats,
                    Coded::Overflow(row) => {
                        return Err(out_of_range(rows, range.start + row as u64, self.id()));
                    }
                };
                sink.write_at(range.start * scale_plane.row_stride, &worker.scales)?;
                sink.write_at(code_plane.offset + place(range.start), &worker.codes)?;
                Ok(stats)
            })?;
            stats.signal += part.signal;
            stats.noise += part.noise;
        }
        Ok((length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        decode::rows(tensor, rows, out)
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        check::check(tensor)
    }

    fn layout(&self, params: &Params) -> String {
        match Form::of(params).coding {
            Coding::Levels => "nf2".to_owned(),
            Coding::Trellis { trellis, .. } => format!("l{}", trellis.window),
        }
    }

    fn kernel(&self, params: &Params, operation: Operation, level: Level) -> Kernel {
        match (Form::of(params).coding, operation) {
            (Coding::Trellis { .. }, Operation::Decode) => trellis_kernel(level),
            (Coding::Trellis { trellis, .. }, Operation::Matvec(precision)) => {
                matvec::kernel(trellis, precision, level)
            }
            (Coding::Levels, Operation::Matvec(_)) => Kernel::compiled(level),
            (Coding::Levels, Operation::Decode) => {
                Kernel::plain(level, "the four-level core is unpacked in plain code")
            }
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        matvec::rows(tensor, x, rows, y);
    }
}
