//! Which slot a request goes to, and how much of its cache it keeps.

/// Prompt tokens that are computed even where all of them are cached. The last
/// one's logits are needed in any case; and the runtime multiplies batches of
/// fewer than four inputs with other kernels, so that with fewer the answer
/// could depend, by rounding, on what was cached.
pub(super) const FRESH: usize = 4;

/// A slot without work, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free<'a> {
    pub(super) index: usize,
    /// Tokens in its cache.
    pub(super) cached: &'a [u32],
    /// Larger is later.
    pub(super) last_used: u64,
}

/// A slot, and the tokens of its cache to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) index: usize,
    pub(super) keep: usize,
}

/// The slot for `prompt`: the one whose cache shares the longest beginning
/// with it, if that is at least half of the prompt; otherwise the one not used
/// for longest, so that a short common beginning (a system prompt) does not
/// cost another conversation its cache. Without `reuse`, nothing is kept.
pub(super) fn choose<'a>(
    free: impl Iterator<Item = Free<'a>> + Clone,
    prompt: &[u32],
    reuse: bool,
) -> Option<Chosen> {
    let common = |slot: &Free<'_>| {
        if reuse { slot.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count() } else { 0 }
    };
    let oldest = free.clone().min_by_key(|s| s.last_used)?;
    let longest = free.max_by_key(|s| (common(s), std::cmp::Reverse(s.last_used)))?;
    let slot = if 2 * common(&longest) >= prompt.len() { longest } else { oldest };
    let keep = common(&slot).min(prompt.len().saturating_sub(FRESH));
    Some(Chosen { index: slot.index, keep })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(slots: &[(&[u32], u64)], prompt: &[u32], reuse: bool) -> (usize, usize) {
        let free =
            slots.iter().enumerate().map(|(index, &(cached, last_used))| Free { index, cached, last_used });
        let c = choose(free, prompt, reuse).unwrap();
        (c.index, c.keep)
    }

    #[test]
    fn the_longest_common_beginning_then_the_least_recently_used() {
        let prompt: Vec<u32> = (0..20).collect();
        let slots: [(&[u32], u64); 3] = [(&prompt[..12], 3), (&prompt[..15], 2), (&[], 1)];
        assert_eq!(chosen(&slots, &prompt, true), (1, 15));
        assert_eq!(chosen(&slots, &prompt, false), (2, 0));
        // A short common beginning is not worth another's cache ...
        let slots: [(&[u32], u64); 2] = [(&[0, 1, 2, 9, 9, 9], 2), (&[], 1)];
        assert_eq!(chosen(&slots, &prompt, true), (1, 0));
        // ... but what is there anyway is kept.
        let slots: [(&[u32], u64); 2] = [(&[0, 1, 2, 9, 9, 9], 1), (&[], 2)];
        assert_eq!(chosen(&slots, &prompt, true), (0, 3));
        // Of equals, the one not used for longest.
        assert_eq!(chosen(&[(&prompt, 5), (&prompt, 4)], &prompt, true), (1, 16));
        assert_eq!(choose([].into_iter(), &prompt, true), None);
    }

    #[test]
    fn some_tokens_are_always_computed() {
        assert_eq!(chosen(&[(&[1, 2, 3, 4, 5], 0)], &[1, 2, 3, 4, 5], true), (0, 1));
        assert_eq!(chosen(&[(&[1, 2, 3], 0)], &[1, 2, 3], true), (0, 0));
        assert_eq!(chosen(&[(&[7], 0)], &[7], true), (0, 0));
    }
}
