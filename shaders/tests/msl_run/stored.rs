//! Stored matrices with their exact weights, put together from the format's
//! specification.

/// A matrix as planes, and its weights.
pub(crate) struct Stored {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Columns of a unit.
    pub(crate) unit: usize,
    /// Bound at 0 and 1.
    pub(crate) planes: Vec<Vec<u8>>,
    /// Bytes from row to row of each.
    pub(crate) strides: [u32; 2],
    /// Numbers of the codec.
    pub(crate) extra: [u32; 4],
    pub(crate) weights: Vec<f64>,
}

/// Words of a fixed generator (xorshift64*).
fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// Numbers between -1 and 1.
pub(crate) fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut next = words(seed);
    (0..count).map(|_| (next() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A number near `v`, normal as f16, and its bits.
fn f16(v: f32) -> (f64, [u8; 2]) {
    let bits = v.to_bits() & !0x1fff;
    let exponent = (bits >> 23 & 0xff) - 112;
    let half = bits >> 31 << 15 | exponent << 10 | (bits & 0x7f_ffff) >> 13;
    (f64::from(f32::from_bits(bits)), (half as u16).to_le_bytes())
}

/// INT4, compact, with centred codes (b = 32) and an exponent.
pub(crate) fn int4(rows: usize, cols: usize) -> Stored {
    let exponent = -6i32;
    let mut next = words(4);
    let blocks = cols.div_ceil(32);
    let (mut codes, mut scales, mut weights) = (Vec::new(), Vec::new(), vec![0.0; rows * cols]);
    for row in 0..rows {
        for first in (0..blocks).step_by(8) {
            let (d, d_bytes) = f16(0.5 + (next() % 1000) as f32 / 1000.0);
            let (dmin, dmin_bytes) = f16(0.2 + (next() % 1000) as f32 / 1000.0);
            let count = (blocks - first).min(8);
            let mut entries = 0u128;
            for k in 0..count {
                let (sc, m) = (next() % 64, next() % 64);
                entries |= u128::from(sc | m << 6) << (12 * k);
                let block: Vec<u8> = (0..16).map(|_| next() as u8).collect();
                for i in 0..32 {
                    let col = (first + k) * 32 + i;
                    let q = if i < 16 { block[i] & 15 } else { block[i - 16] >> 4 };
                    let unit = 2f64.powi(exponent);
                    let w =
                        d * unit * f64::from(sc) * (f64::from(q) - 8.0) - dmin * unit * (f64::from(m) - 32.0);
                    if col < cols {
                        weights[row * cols + col] = w;
                    }
                }
                codes.extend(block);
            }
            scales.extend(d_bytes.into_iter().chain(dmin_bytes));
            scales.extend(&entries.to_le_bytes()[..(12 * count).div_ceil(32) * 4]);
        }
    }
    let strides = [codes.len() / rows, scales.len() / rows].map(|s| s as u32);
    let extra = [2f32.powi(exponent), 32.0, 8.0, 0.0].map(f32::to_bits);
    Stored { rows, cols, unit: 32, planes: vec![codes, scales], strides, extra, weights }
}

/// Q8 with f16 scales. Planes end with the padding that the format gives them.
pub(crate) fn q8(rows: usize, cols: usize) -> Stored {
    let mut next = words(8);
    let blocks = cols.div_ceil(32);
    let (mut codes, mut scales, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rows {
        let mut row = Vec::new();
        for _ in 0..blocks {
            let (scale, scale_bytes) = f16(0.01 + (next() % 1000) as f32 / 1e5);
            scales.extend(scale_bytes);
            for _ in 0..32 {
                let code = (next() % 255) as i32 - 127;
                codes.push(code as i8 as u8);
                row.push(scale * f64::from(code));
            }
        }
        weights.extend(&row[..cols]);
    }
    let strides = [codes.len() / rows, scales.len() / rows].map(|s| s as u32);
    scales.resize(scales.len().next_multiple_of(256), 0);
    Stored { rows, cols, unit: 32, planes: vec![codes, scales], strides, extra: [0; 4], weights }
}

/// BF16, a multiple of eight columns.
pub(crate) fn bf16(rows: usize, cols: usize) -> Stored {
    let values = random(6, rows * cols);
    let (mut plane, mut weights) = (Vec::new(), Vec::new());
    for v in values {
        let bits = v.to_bits() >> 16;
        plane.extend((bits as u16).to_le_bytes());
        weights.push(f64::from(f32::from_bits(bits << 16)));
    }
    let strides = [2 * cols as u32, 0];
    Stored { rows, cols, unit: 8, planes: vec![plane], strides, extra: [0; 4], weights }
}
