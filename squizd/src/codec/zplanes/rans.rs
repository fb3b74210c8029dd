//! Order-0 entropy coding of bytes: four interleaved range asymmetric numeral
//! systems (Duda, arXiv 1311.2540) with frequencies of 12 bits.
//!
//! A state `x` in `2^16 .. 2^32` holds what is still to be decoded. A symbol
//! with frequency `f` and the sum `c` of the frequencies before it takes
//!
//! ```text
//! encode   x' = floor(x / f) 2^12 + x mod f + c
//! decode   s = symbol of slot x' mod 2^12,  x = f floor(x' / 2^12) + x' mod 2^12 - c
//! ```
//!
//! and states shed or take in 16 bits to stay in range. Symbol j uses state
//! j mod 4; the encoder runs backwards.

/// Frequencies add up to 2 to this.
const SCALE_BITS: u32 = 12;
const SCALE: u32 = 1 << SCALE_BITS;
/// Smallest state; also what the encoder begins and the decoder ends with.
const LOW: u32 = 1 << 16;
/// Interleaved states.
const STATES: usize = 4;
/// Bytes of the set of symbols that occur.
const SYMBOLS: usize = 32;

/// Why coded bytes do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt(pub(super) &'static str);

/// Frequencies of at least 1 for the symbols counted, adding up to [`SCALE`];
/// `None` for fewer than two symbols.
fn frequencies(counts: &[u32; 256]) -> Option<[u32; 256]> {
    let total: u64 = counts.iter().map(|c| u64::from(*c)).sum();
    if counts.iter().filter(|c| **c > 0).count() < 2 {
        return None;
    }
    let mut freqs = [0u32; 256];
    let mut rests = [(0u64, 0usize); 256];
    for (s, (count, freq)) in counts.iter().zip(&mut freqs).enumerate() {
        let share = u64::from(*count) * u64::from(SCALE);
        *freq = ((share / total) as u32).max(u32::from(*count > 0));
        rests[s] = (if share < total { 0 } else { share % total }, s);
    }
    let mut sum: u32 = freqs.iter().sum();
    // What is missing goes to the largest remainders, what is too much comes
    // from the largest frequencies.
    rests.sort_unstable_by_key(|(rest, s)| (std::cmp::Reverse(*rest), *s));
    for (_, s) in rests {
        if sum < SCALE && freqs[s] > 0 {
            freqs[s] += 1;
            sum += 1;
        }
    }
    while sum != SCALE {
        let largest = (0..256).max_by_key(|s| (freqs[*s], std::cmp::Reverse(*s)))?;
        if sum > SCALE {
            freqs[largest] -= 1;
            sum -= 1;
        } else {
            freqs[largest] += 1;
            sum += 1;
        }
    }
    Some(freqs)
}

/// Encodes `symbols`; `None` where fewer than two different ones occur.
pub(super) fn encode(symbols: &[u8]) -> Option<Vec<u8>> {
    let mut counts = [0u32; 256];
    for s in symbols {
        counts[usize::from(*s)] += 1;
    }
    let freqs = frequencies(&counts)?;
    let mut starts = [0u32; 256];
    let mut sum = 0;
    for (start, freq) in starts.iter_mut().zip(&freqs) {
        *start = sum;
        sum += freq;
    }
    let mut words: Vec<u16> = Vec::with_capacity(symbols.len() / 2);
    let mut states = [LOW; STATES];
    for (j, s) in symbols.iter().enumerate().rev() {
        let (freq, start) = (freqs[usize::from(*s)], starts[usize::from(*s)]);
        let x = &mut states[j % STATES];
        if *x >= freq << (32 - SCALE_BITS) {
            words.push(*x as u16);
            *x >>= 16;
        }
        *x = ((*x / freq) << SCALE_BITS) + *x % freq + start;
    }
    let mut out = table(&freqs);
    out.extend(states.iter().flat_map(|x| x.to_le_bytes()));
    out.extend(words.iter().rev().flat_map(|w| w.to_le_bytes()));
    Some(out)
}

/// The set of symbols, then their frequencies, 12 bits each.
fn table(freqs: &[u32; 256]) -> Vec<u8> {
    let mut out = vec![0; SYMBOLS];
    for (s, _) in freqs.iter().enumerate().filter(|(_, f)| **f > 0) {
        out[s / 8] |= 1 << (s % 8);
    }
    let present: Vec<u32> = freqs.iter().copied().filter(|f| *f > 0).collect();
    for pair in present.chunks(2) {
        let bits = pair[0] | pair.get(1).unwrap_or(&0) << SCALE_BITS;
        out.extend(&bits.to_le_bytes()[..if pair.len() == 2 { 3 } else { 2 }]);
    }
    out
}

/// Per slot: symbol in bits 0 to 7, frequency above, and how far into the
/// symbol's slots it lies in bits 20 to 31.
type Slots = [u32; SCALE as usize];

/// Reads the table and returns the bytes behind it.
fn slots(coded: &[u8]) -> Result<(Box<Slots>, &[u8]), Corrupt> {
    let short = Corrupt("the table of frequencies ends early");
    let (set, rest) = coded.split_first_chunk::<SYMBOLS>().ok_or(short)?;
    let count: usize = set.iter().map(|b| b.count_ones() as usize).sum();
    if count < 2 {
        return Err(Corrupt("fewer than two symbols have frequencies"));
    }
    let (packed, rest) = rest.split_at_checked((3 * count).div_ceil(2)).ok_or(short)?;
    let mut slots = Box::new([0; SCALE as usize]);
    let mut start = 0usize;
    let present = (0..256usize).filter(|s| set[s / 8] >> (s % 8) & 1 == 1);
    for (i, s) in present.enumerate() {
        let pair = packed.get(i / 2 * 3..).unwrap_or_default();
        let bits = pair.iter().take(3).rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
        let freq = if i % 2 == 0 { bits & (SCALE - 1) } else { bits >> SCALE_BITS };
        let own = slots.get_mut(start..start + freq as usize).unwrap_or_default();
        if own.is_empty() {
            return Err(Corrupt("a frequency is 0, or they add up to more than 4096"));
        }
        for (within, slot) in own.iter_mut().enumerate() {
            *slot = s as u32 | freq << 8 | (within as u32) << 20;
        }
        start += freq as usize;
        if i + 1 == count && i % 2 == 0 && bits >> SCALE_BITS != 0 {
            return Err(Corrupt("unused bits of the table of frequencies are not zero"));
        }
    }
    if start == SCALE as usize {
        Ok((slots, rest))
    } else {
        Err(Corrupt("frequencies add up to less than 4096"))
    }
}

/// Decodes exactly `out.len()` symbols, of which there are all in `coded`.
pub(super) fn decode(coded: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    let (slots, rest) = slots(coded)?;
    let (heads, rest) =
        rest.split_first_chunk::<{ 4 * STATES }>().ok_or(Corrupt("the states are missing"))?;
    let mut states = [0; STATES];
    for (state, head) in states.iter_mut().zip(heads.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*head);
    }
    let (words, odd) = rest.as_chunks::<2>();
    let mut at = 0;
    for quad in out.chunks_mut(STATES) {
        for (symbol, state) in quad.iter_mut().zip(&mut states) {
            let slot = slots[(*state & (SCALE - 1)) as usize];
            *symbol = slot as u8;
            // At most 4095 (2^20 - 1) + 4095, so it fits.
            let x = (slot >> 8 & (SCALE - 1)) * (*state >> SCALE_BITS) + (slot >> 20);
            // Without a branch: which symbols need a word cannot be predicted.
            let word = words.get(at).map_or(0, |w| u32::from(u16::from_le_bytes(*w)));
            let short = x < LOW;
            *state = if short { x << 16 | word } else { x };
            at += usize::from(short);
        }
    }
    if !odd.is_empty() || at != words.len() || states != [LOW; STATES] {
        return Err(Corrupt("the coded symbols do not end where the piece does"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bits per symbol of the counts' own distribution.
    fn entropy(symbols: &[u8]) -> f64 {
        let mut counts = [0u32; 256];
        for s in symbols {
            counts[usize::from(*s)] += 1;
        }
        let n = symbols.len() as f64;
        let bits = |c: f64| -c / n * (c / n).log2();
        counts.iter().filter(|c| **c > 0).map(|c| bits(f64::from(*c))).sum()
    }

    fn geometric(count: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                120 + (state >> 32).leading_zeros() as u8 - 32
            })
            .collect()
    }

    #[test]
    fn sizes_are_near_the_entropy() {
        let symbols = geometric(1 << 18, 7);
        let coded = encode(&symbols).unwrap();
        let bits = coded.len() as f64 * 8.0 / symbols.len() as f64;
        assert!(bits < entropy(&symbols) + 0.01, "{bits} {}", entropy(&symbols));
        let mut out = vec![0; symbols.len()];
        decode(&coded, &mut out).unwrap();
        assert!(out == symbols);
    }

    #[test]
    fn one_symbol_is_left_to_others() {
        assert_eq!(encode(&[]), None);
        assert_eq!(encode(&[3; 100]), None);
    }

    #[test]
    fn every_change_is_found_or_decodes_to_the_same_length() {
        let symbols = geometric(500, 3);
        let coded = encode(&symbols).unwrap();
        let mut out = vec![0; 500];
        for length in 0..coded.len() {
            assert!(decode(&coded[..length], &mut out).is_err(), "{length}");
        }
        let mut undetected = 0;
        for at in 0..coded.len() {
            for bit in 0..8 {
                let mut changed = coded.clone();
                changed[at] ^= 1 << bit;
                undetected += usize::from(decode(&changed, &mut out).is_ok());
            }
        }
        assert!(undetected * 100 < coded.len(), "{undetected} of {}", coded.len() * 8);
        assert!(decode(&coded, &mut out[..499]).is_err());
        assert!(decode(&coded, &mut vec![0; 501]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(symbols in prop::collection::vec(any::<u8>(), 0..2000), mask: u8) {
            let symbols: Vec<u8> = symbols.iter().map(|s| s & mask).collect();
            if let Some(coded) = encode(&symbols) {
                let mut out = vec![0; symbols.len()];
                prop_assert_eq!(decode(&coded, &mut out), Ok(()));
                prop_assert_eq!(out, symbols);
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(coded in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&coded, &mut [0; 100]);
        }

        #[test]
        fn any_counts_have_frequencies(counts in prop::collection::vec(any::<u32>(), 256), rare in 0usize..256) {
            let mut table = [0; 256];
            for (i, (t, c)) in table.iter_mut().zip(counts).enumerate() {
                *t = if i < rare { 1 } else { c };
            }
            let freqs = frequencies(&table).unwrap();
            prop_assert_eq!(freqs.iter().sum::<u32>(), SCALE);
            prop_assert!(freqs.iter().zip(&table).all(|(f, c)| (*f > 0) == (*c > 0) && *f < SCALE));
        }
    }
}
