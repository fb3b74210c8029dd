//! Random damage for the runs under `cargo test`: no coverage, but the same
//! kinds of change that fuzzers make, fast, and reproducible from a number.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n as u64) as usize
    }
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Words that text formats trip over.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "0.5",
    "{}",
    "[]",
    "[[[[[[[[",
    "\"\"",
    "\\u0000",
    "../",
    "{% if a %}",
    "{% endif %}",
    "{% for a in a %}",
    "{% set a = [a, a] %}",
    "{{ a }}",
    "|list",
    "~a",
    "**9",
    "\u{feff}",
    "\u{1f980}",
    "\0",
];

/// `seed`, damaged in one to six places; `other` is material to splice in.
pub fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..=random.below(6) {
        step(&mut data, other, random);
    }
    data
}

fn step(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    // Headers are where readers decide; half of all damage goes there.
    let reach = if random.number().is_multiple_of(2) { data.len().min(1200) } else { data.len() };
    let at = if reach == 0 { 0 } else { random.below(reach) };
    let span = |random: &mut Random, room: usize| if room == 0 { 0 } else { 1 + random.below(room.min(64)) };
    match random.below(12) {
        0 | 1 if !data.is_empty() => data[at] ^= 1 << random.below(8),
        2 if !data.is_empty() => data[at] = random.number() as u8,
        3..=5 => {
            let value = EDGES[random.below(EDGES.len())];
            let near = value.wrapping_add(random.number() % 3).wrapping_sub(1);
            let width = [1, 2, 4, 8][random.below(4)];
            let at = if random.number().is_multiple_of(2) { at - at % width } else { at };
            for (to, from) in data.iter_mut().skip(at).zip(near.to_le_bytes().into_iter().take(width)) {
                *to = from;
            }
        }
        6 => data.truncate(at),
        7 => {
            let length = span(random, data.len() - at.min(data.len()));
            data.drain(at..at + length);
        }
        8 if !data.is_empty() => {
            let length = span(random, data.len() - at);
            let copy = data[at..at + length].to_vec();
            let to = random.below(data.len() + 1);
            data.splice(to..to, copy);
        }
        9 if !other.is_empty() => {
            let from = random.below(other.len());
            let length = span(random, other.len() - from);
            data.splice(at..at, other[from..from + length].iter().copied());
        }
        10 => {
            let word = WORDS[random.below(WORDS.len())];
            data.splice(at..at, word.bytes());
        }
        _ => {
            let length = span(random, data.len() - at.min(data.len()));
            let fill = [0, 0xff, b' ', b'9', b'['][random.below(5)];
            for b in data.iter_mut().skip(at).take(length) {
                *b = fill;
            }
        }
    }
    data.truncate(MOST);
}

/// Longest input made.
const MOST: usize = 256 << 10;
