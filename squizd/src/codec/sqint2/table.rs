//! The value of each trellis state, by window length and table number.
//!
//! All tables are odd under complement, `v(!s) = -v(s)`: a Gaussian source has
//! no preferred sign, and a reader needs half a table. Units are 1/36 of the standard deviation that the table suits.
//!
//! For L = 8 the values of the states below 128 are listed: Lloyd iterations
//! over the Viterbi paths of Gaussian tiles at rate 17/8, 3 and 4, the best of
//! 29 to 44 starts. For L = 10 and 12 a state's value is a Gaussian quantile
//! whose rank a multiplication scatters,
//!
//! ```text
//! v(s) = Q[(s M mod 2^32) >> 20],  Q[r] = round(36 Phi^-1((r + 1/2) / 4096)) within +-127
//! ```
//!
//! with the best of some 8000 (L = 10) and 2500 (L = 12) random multipliers at
//! each of the same three rates. Trained tables of L = 10 came to 12.12, 17.31
//! and 23.11 dB on Gaussian tiles, these to 12.13, 17.23 and 22.98; at L = 12 no
//! trained one was better.

use std::sync::OnceLock;

/// The standard deviation that the tables suit.
pub(super) const UNIT: f32 = 36.0;

/// States below 128 of L = 8, for rates about 17/8, 3 and 4.
const LISTED: [[i8; 128]; 3] = [
    half(
        b"c6f30c34fa1743de94ec0b49f10921d2d5f40c23f90d2fe0caea0523e7041fb6\
ddfc1a59f60d3bdebcee0e24fc1444dddffa0d23f6102bdcb3eb072af30a24c8\
f70f26de1035a4f6e60449bb0b27d2f1f21135c71328e0fced031eda0844d8ef\
f71057de0923dff9ea0636cb1634cbf7f51034c81229e0fcf51129de0925c8ee",
    ),
    half(
        b"cde1eef906132a3dd8edfc0a182031b29ee1eef70310223cdaecfb08152434bf\
e2f0fb06132156ceecfc0a1a2c389edad5edf8030f2043baeafa07172647c3d5\
f1fd08132133cee2f908192d46c8d6e9e9fa05101f34c1d7f605132946c1d6e7\
fe0a162235cde0f00615284eafdee9f7fa08121f76c7daeb03112056cad9e7f5",
    ),
    half(
        b"bcd0dde5edf3faff070b1319222b386adae4edf3fb00070d141b252c3c47c0ce\
d1dce5ecf4f900050d131b243259b3c5ecf3faff060b1319222a375184c1d7e2\
e4ebf3f8ff040b121b232f42a9cde0d8f9ff060d141a2129364dbac9d3dce8f1\
f3f9ff050c1119202b3ec3d2dce4efea070c13191d243161b6c9d5dfecf4fb01",
    ),
];

/// Multipliers M of L = 10 and 12, for the same rates.
pub(super) const MULTIPLIERS: [(u32, [u32; 3]); 2] =
    [(10, [0x3e79_5975, 0xa0f2_795f, 0x8f80_46f9]), (12, [0xbb20_9d37, 0x5e9f_7ed7, 0xafdf_e3bd])];

/// How many of the upper 2048 ranks have the value 0, 1, 2, ... 127.
const COUNTS: [u8; 128] = [
    23, 45, 45, 46, 45, 45, 44, 45, 44, 44, 44, 43, 43, 43, 42, 41, 42, 40, 40, 40, 39, 38, 38, 37, 36, 36,
    35, 34, 33, 33, 32, 32, 30, 30, 29, 28, 28, 27, 26, 25, 24, 24, 23, 22, 22, 21, 20, 19, 19, 18, 17, 17,
    16, 15, 15, 14, 13, 13, 13, 12, 11, 11, 10, 10, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 5, 5, 5, 5, 4, 4, 4, 4, 3,
    3, 3, 3, 3, 2, 2, 3, 2, 1, 2, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0,
    0, 0, 0, 0, 1, 0, 0, 0, 0, 1,
];

/// Signed bytes from 256 hexadecimal digits.
const fn half(hex: &[u8; 256]) -> [i8; 128] {
    const fn digit(c: u8) -> u8 {
        if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 }
    }
    let mut out = [0; 128];
    let mut i = 0;
    while i < 128 {
        out[i] = (digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1])).cast_signed();
        i += 1;
    }
    out
}

/// The quantiles `Q`.
const fn quantiles() -> [i8; 4096] {
    let mut out = [0; 4096];
    let (mut value, mut rank) = (0, 0);
    while value < 128 {
        let mut left = COUNTS[value];
        while left > 0 {
            out[2048 + rank] = value as i8;
            out[2047 - rank] = -(value as i8);
            rank += 1;
            left -= 1;
        }
        value += 1;
    }
    out
}

/// The whole table whose first half is `half`.
const fn listed(half: &[i8; 128]) -> [i8; 256] {
    let mut out = [0; 256];
    let mut s = 0;
    while s < 128 {
        out[s] = half[s];
        out[255 - s] = -half[s];
        s += 1;
    }
    out
}

/// The table of `N` states that the multiplier `m` scatters.
const fn scattered<const N: usize>(m: u32) -> [i8; N] {
    let quantiles = quantiles();
    let mut out = [0; N];
    let mut s = 0;
    while s < N / 2 {
        let value = quantiles[((s as u32).wrapping_mul(m) >> 20) as usize];
        out[s] = value;
        out[N - 1 - s] = -value;
        s += 1;
    }
    out
}

static TABLES_8: [[i8; 256]; 3] = [listed(&LISTED[0]), listed(&LISTED[1]), listed(&LISTED[2])];
static TABLES_10: [[i8; 1024]; 3] = three(MULTIPLIERS[0].1);
static TABLES_12: [[i8; 4096]; 3] = three(MULTIPLIERS[1].1);

/// The tables of three multipliers.
const fn three<const N: usize>(m: [u32; 3]) -> [[i8; N]; 3] {
    [scattered(m[0]), scattered(m[1]), scattered(m[2])]
}

/// The table of windows of `window` bits (8, 10, otherwise 12) and of number
/// `id` (at most 2).
pub(super) fn table(window: u32, id: u8) -> &'static [i8] {
    let id = usize::from(id.min(2));
    match window {
        8 => &TABLES_8[id],
        10 => &TABLES_10[id],
        _ => &TABLES_12[id],
    }
}

/// The table that suits rates of `rate` eighths.
pub(super) fn suited(rate: u8) -> u8 {
    match rate {
        ..=20 => 0,
        21..=29 => 1,
        _ => 2,
    }
}

/// The same values as floats.
pub(super) fn floats(window: u32, id: u8) -> &'static [f32] {
    static FLOATS: [OnceLock<Vec<f32>>; 9] = [const { OnceLock::new() }; 9];
    let id = id.min(2);
    let at = match window {
        8 => 0,
        10 => 3,
        _ => 6,
    };
    FLOATS[at + usize::from(id)].get_or_init(|| table(window, id).iter().map(|v| f32::from(*v)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cumulative distribution of the standard normal (Marsaglia's series).
    fn normal(x: f64) -> f64 {
        let (mut term, mut sum, mut i) = (x, x, 1.0);
        while term.abs() > 1e-18 {
            i += 2.0;
            term *= x * x / i;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn quantiles_are_the_rounded_ones() {
        for (r, value) in quantiles().into_iter().enumerate() {
            let p = (r as f64 + 0.5) / 4096.0;
            let bound = |edge: f64| normal((f64::from(value) + edge) / f64::from(UNIT));
            assert!(value == -127 || bound(-0.5) < p, "{r}: {value}");
            assert!(value == 127 || p < bound(0.5), "{r}: {value}");
        }
    }

    #[test]
    fn tables_are_odd_and_about_as_wide_as_the_source() {
        for window in [8, 10, 12] {
            for id in 0..3 {
                let table = table(window, id);
                assert_eq!(table.len(), 1 << window);
                assert!(table.iter().zip(table.iter().rev()).all(|(a, b)| *a == -*b));
                let square: f32 = floats(window, id).iter().map(|v| v * v).sum();
                let deviation = (square / table.len() as f32).sqrt() / UNIT;
                assert!((0.9..1.2).contains(&deviation), "{window} {id}: {deviation}");
            }
        }
    }
}
