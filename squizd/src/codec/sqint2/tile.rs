//! Tiles of 16 x 16 weights and the windows of their bit streams.
//!
//! A tile at n/8 bits per weight has 32 n bits, in bytes from the lowest bit.
//! Weight t reads the L bits from bit `floor(n t / 8)`, cyclically: the stream
//! bites its tail, so the tile's size is exactly the rate. t runs over rows of
//! four neighbouring columns: weight t lies in row `(t / 4) mod 16` and column
//! `4 (t / 64) + t mod 4`. So eight rows of four columns are 4 n bits that
//! begin at a multiple of four bits, one 32-bit word holds the windows of four
//! neighbours, and they make one operand of a four-byte dot product.

/// Rows and columns of a tile.
pub(super) const SIDE: usize = 16;
/// Weights of a tile.
pub(super) const TILE: usize = SIDE * SIDE;
/// Bytes of a tile at most (4 bits a weight).
pub(super) const MAX_BYTES: usize = TILE / 2;
/// Bytes of the stream's beginning that are repeated behind its end.
const LAP: usize = 16;

/// How a tile is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trellis {
    /// Rate in eighths of a bit, n.
    pub(super) rate: usize,
    /// Bits of a window, L.
    pub(super) window: u32,
}

impl Trellis {
    /// Bytes of a tile.
    pub(super) const fn bytes(self) -> usize {
        4 * self.rate
    }

    /// Bit at which the window of weight `t` begins.
    #[inline(always)]
    pub(super) const fn offset(self, t: usize) -> usize {
        self.rate * t / 8
    }

    /// Bits that the window moves from weight `t` to the next: 2, 3 or 4.
    #[inline(always)]
    pub(super) const fn shift(self, t: usize) -> u32 {
        (self.offset(t + 1) - self.offset(t)) as u32
    }

    /// States of the trellis: values of a window.
    pub(super) const fn states(self) -> usize {
        1 << self.window
    }
}

/// Row and column within the tile of weight `t`.
#[inline(always)]
pub(super) const fn place(t: usize) -> (usize, usize) {
    (t / 4 % SIDE, t / 64 * 4 + t % 4)
}

/// A tile's bytes with the first [`LAP`] repeated at the end, so that every
/// window is one load.
#[derive(Clone, Copy)]
pub(super) struct Stream([u8; MAX_BYTES + LAP]);

impl Stream {
    /// The stream of `tile`, at most [`MAX_BYTES`].
    #[inline(always)]
    pub(super) fn new(tile: &[u8]) -> Self {
        let mut bytes = [0; MAX_BYTES + LAP];
        let length = tile.len().min(MAX_BYTES);
        bytes[..length].copy_from_slice(&tile[..length]);
        bytes.copy_within(..LAP, length);
        Self(bytes)
    }

    /// The `window` bits (at most 24) from bit `offset`.
    #[inline(always)]
    pub(super) fn window(&self, offset: usize, window: u32) -> usize {
        let at = (offset / 8).min(MAX_BYTES + LAP - 4);
        let word = u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]);
        (word >> (offset % 8)) as usize & ((1 << window) - 1)
    }

    /// The bytes.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) fn bytes(&self) -> &[u8; MAX_BYTES + LAP] {
        &self.0
    }
}

/// The table values of a tile, in stream order.
#[inline(always)]
pub(super) fn values(tile: &[u8], trellis: Trellis, table: &[i8], out: &mut [i8; TILE]) {
    let stream = Stream::new(tile);
    for (t, out) in out.iter_mut().enumerate() {
        *out = table.get(stream.window(trellis.offset(t), trellis.window)).copied().unwrap_or(0);
    }
}

/// Writes the low [`Trellis::shift`] bits of each window into `tile`.
pub(super) fn pack(trellis: Trellis, states: &[u16; TILE], tile: &mut [u8]) {
    let (mut pending, mut count) = (0u64, 0);
    let mut bytes = tile.iter_mut();
    for (t, &state) in states.iter().enumerate() {
        let shift = trellis.shift(t);
        pending |= (u64::from(state) & ((1 << shift) - 1)) << count;
        count += shift;
        while count >= 8 {
            if let Some(byte) = bytes.next() {
                *byte = pending as u8;
            }
            pending >>= 8;
            count -= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_states_are_the_windows() {
        for rate in 16..=32 {
            for window in [8, 10, 12] {
                let trellis = Trellis { rate, window };
                let bytes: Vec<u8> = (0..trellis.bytes()).map(|i| (i * 151 + rate * 7) as u8).collect();
                let stream = Stream::new(&bytes);
                let mut states = [0; TILE];
                for (t, s) in states.iter_mut().enumerate() {
                    *s = stream.window(trellis.offset(t), window) as u16;
                }
                let mut packed = vec![0; trellis.bytes()];
                pack(trellis, &states, &mut packed);
                assert_eq!(packed, bytes, "{rate} {window}");
                // Windows overlap cyclically.
                for t in 0..TILE {
                    let next = states[(t + 1) % TILE];
                    assert_eq!(
                        states[t] >> trellis.shift(t),
                        next & ((1 << (window - trellis.shift(t))) - 1)
                    );
                }
            }
        }
    }

    #[test]
    fn every_place_occurs_once() {
        let mut seen = [false; TILE];
        for t in 0..TILE {
            let (r, c) = place(t);
            assert!(!std::mem::replace(&mut seen[SIDE * r + c], true));
        }
    }
}
