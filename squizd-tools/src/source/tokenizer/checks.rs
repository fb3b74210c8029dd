//! Caps and consistency of a vocabulary, whatever file it comes from.

use squizd::{Error, Result};
use std::collections::HashMap;

/// Most tokens accepted (the largest known vocabulary has 262,144).
pub(super) const MAX_TOKENS: usize = 1 << 21;
/// Longest token, in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 4096;
/// Most merges accepted.
pub(super) const MAX_MERGES: usize = 1 << 22;
/// Longest character map (SentencePiece's nmt_nfkc has 240 KB).
pub(super) const MAX_CHARSMAP: usize = 4 << 20;

/// Ids by spelling; refuses empty, overlong and repeated tokens by index.
pub(super) fn index_tokens<'a>(tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>> {
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return Err(Error::refused(
            "tokenizer-size",
            format!("the vocabulary has {} tokens, allowed 1..={MAX_TOKENS}", tokens.len()),
        ));
    }
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, &token) in (0u32..).zip(tokens) {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(Error::refused(
                "tokenizer-token",
                format!("token {id} has {} bytes, allowed 1..={MAX_TOKEN_BYTES}", token.len()),
            ));
        }
        if let Some(first) = ids.insert(token, id) {
            return Err(Error::refused(
                "tokenizer-duplicate",
                format!("token {id} {token:?} repeats token {first}"),
            ));
        }
    }
    Ok(ids)
}

/// Refuses NaN and infinity by index.
pub(super) fn check_scores(scores: &[f32]) -> Result<()> {
    match scores.iter().enumerate().find(|(_, s)| !s.is_finite()) {
        Some((i, score)) => {
            Err(Error::refused("tokenizer-score", format!("the score of token {i} is {score}, not a number")))
        }
        None => Ok(()),
    }
}

/// Refuses an overlong character map.
pub(super) fn check_charsmap(map: &[u8]) -> Result<()> {
    if map.len() > MAX_CHARSMAP {
        return Err(Error::refused(
            "tokenizer-charsmap",
            format!("precompiled_charsmap has {} bytes, at most {MAX_CHARSMAP} are allowed", map.len()),
        ));
    }
    Ok(())
}
