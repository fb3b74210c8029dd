//! Rate-distortion curves, as numbers and as pictures.

use super::encode::{Inputs, survey};
use super::{allocate, parts_of, plan_exponent};
use crate::Result;
use crate::codec::sample::Sample;
use crate::codec::{Request, Rows};
use squizd_spec::hybrid_layout::UNIT;
use std::fmt::Write;

/// A point of a rate-distortion curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RdPoint {
    /// All bits of the payload over the weights.
    pub bits_per_weight: f64,
    /// Energy of the weights, weighed by importance where calibration gives one.
    pub signal: f64,
    /// Squared error, weighed likewise.
    pub noise: f64,
}

impl RdPoint {
    /// `10 log10(signal / noise)`; infinite without noise.
    pub fn snr_db(&self) -> f64 {
        crate::codec::decibels(self.signal, self.noise)
    }
}

/// The rate-distortion curve of a tensor: what HYBRID would make of it at
/// about `points` rates between 2 bits and bfloat16 everywhere, spread evenly
/// over the bits.
///
/// # Errors
/// If the rows cannot be read, or hold NaN or infinity.
pub fn rd_curve(rows: &dyn Rows, request: &Request<'_>, points: usize) -> Result<Vec<RdPoint>> {
    let matrix = rows.matrix();
    let parts = parts_of(rows.name(), matrix)?;
    let exponent = i32::from(plan_exponent(&Sample::read(rows)?));
    let survey = survey(rows, exponent, &Inputs::by_importance(request.guide, matrix.rows))?;
    let per_weight = |units: u64| 8.0 * (parts.codes + units * UNIT) as f64 / matrix.elements().max(1) as f64;
    let all: Vec<_> = allocate::curve(&survey.tiles)
        .map(|(units, noise)| RdPoint {
            bits_per_weight: per_weight(units),
            signal: survey.signal,
            noise: noise.max(0.0),
        })
        .collect();
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(Vec::new()) };
    let span = last.bits_per_weight - first.bits_per_weight;
    let mut curve: Vec<RdPoint> = Vec::with_capacity(points + 1);
    for point in &all {
        let share = (point.bits_per_weight - first.bits_per_weight) / span.max(f64::MIN_POSITIVE);
        if share * points.max(1) as f64 >= curve.len() as f64 {
            curve.push(*point);
        }
    }
    if curve.last() != Some(last) {
        curve.push(*last);
    }
    Ok(curve)
}

/// Curves of several tensors as comma-separated values:
/// `tensor,bits_per_weight,snr_db`, an empty last field where nothing is lost.
pub fn curves_to_csv(curves: &[(&str, &[RdPoint])]) -> String {
    let mut out = String::from("tensor,bits_per_weight,snr_db\n");
    for (name, points) in curves {
        let quoted = if name.contains([',', '"', '\n']) {
            format!("\"{}\"", name.replace('"', "\"\""))
        } else {
            (*name).to_owned()
        };
        for point in *points {
            let snr = point.snr_db();
            let snr = if snr.is_finite() { format!("{snr:.3}") } else { String::new() };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{quoted},{:.4},{snr}", point.bits_per_weight);
        }
    }
    out
}

/// Size of a picture, and of the margin that holds its labels.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
const MARGIN: f64 = 56.0;
/// Bits per weight shown: beyond 5 bits there is only bfloat16.
const SHOWN: std::ops::RangeInclusive<f64> = 2.0..=6.0;

/// Curves of several tensors as an SVG picture, decibels over bits per weight
/// up to 6, tensors by colour with their names as titles.
pub fn curves_to_svg(curves: &[(&str, &[RdPoint])]) -> String {
    let shown = |p: &&RdPoint| SHOWN.contains(&p.bits_per_weight) && p.snr_db().is_finite();
    let snrs = || curves.iter().flat_map(|(_, c)| c.iter()).filter(shown).map(RdPoint::snr_db);
    let low = (snrs().fold(f64::INFINITY, f64::min).min(10.0) / 5.0).floor() * 5.0;
    let high = (snrs().fold(f64::NEG_INFINITY, f64::max).max(30.0) / 5.0).ceil() * 5.0;
    let x =
        |bits: f64| MARGIN + (bits - SHOWN.start()) / (SHOWN.end() - SHOWN.start()) * (WIDTH - 2.0 * MARGIN);
    let y = |snr: f64| HEIGHT - MARGIN - (snr - low) / (high - low) * (HEIGHT - 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<g stroke=\"#ccc\">\n"
    );
    let (left, right, top, bottom) = (x(*SHOWN.start()), x(*SHOWN.end()), y(high), y(low));
    let mut labels = String::new();
    // Writing to strings cannot fail.
    for half in 4..=12 {
        let bits = f64::from(half) / 2.0;
        let _ = writeln!(out, "<path d=\"M{0:.1} {top:.1}V{bottom:.1}\"/>", x(bits));
        let _ = writeln!(
            labels,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{bits}</text>",
            x(bits),
            bottom + 18.0
        );
    }
    let mut snr = low;
    while snr <= high {
        let _ = writeln!(out, "<path d=\"M{left:.1} {0:.1}H{right:.1}\"/>", y(snr));
        let _ = writeln!(
            labels,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{snr}</text>",
            left - 6.0,
            y(snr) + 4.0
        );
        snr += 5.0;
    }
    let _ = write!(
        out,
        "</g>\n{labels}<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">bits per weight</text>\n\
         <text x=\"{left:.1}\" y=\"{:.1}\">SNR, dB</text>\n<g fill=\"none\" stroke-width=\"1.5\">\n",
        WIDTH / 2.0,
        HEIGHT - 12.0,
        top - 10.0
    );
    for (i, (name, points)) in curves.iter().enumerate() {
        // The golden angle spreads hues evenly for any number of curves.
        let hue = (i as f64 * 137.508) % 360.0;
        let line: Vec<_> = points
            .iter()
            .filter(shown)
            .map(|p| format!("{:.1},{:.1}", x(p.bits_per_weight), y(p.snr_db())))
            .collect();
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            out,
            "<polyline stroke=\"hsl({hue:.0},70%,40%)\" points=\"{}\"><title>{name}</title></polyline>",
            line.join(" ")
        );
    }
    out.push_str("</g>\n</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTS: [RdPoint; 3] = [
        RdPoint { bits_per_weight: 2.5, signal: 100.0, noise: 10.0 },
        RdPoint { bits_per_weight: 4.0, signal: 100.0, noise: 1.0 },
        RdPoint { bits_per_weight: 16.5, signal: 100.0, noise: 0.0 },
    ];

    #[test]
    fn csv_has_a_line_a_point() {
        let csv = curves_to_csv(&[("a", &POINTS), ("b,\"c\"", &POINTS[..1])]);
        let expected = "tensor,bits_per_weight,snr_db\na,2.5000,10.000\na,4.0000,20.000\na,16.5000,\n\"b,\"\"c\"\"\",2.5000,10.000\n";
        assert_eq!(csv, expected);
    }

    #[test]
    fn svg_draws_what_is_in_range() {
        let svg = curves_to_svg(&[("x<y", &POINTS)]);
        // 2.5 bits: an eighth of the width; 10 dB: the bottom of 10 to 30 dB.
        assert!(svg.contains("points=\"132.0,424.0 360.0,240.0\"><title>x&lt;y"), "{svg}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(curves_to_svg(&[]).contains("bits per weight"));
    }
}
