//! From sampled tokens to text that may be handed out.

use super::logprobs::{Choice, Distribution, TokenLogprob};
use squizd::text::{StopMatcher, StreamDecoder, Tokenizer};
use std::collections::VecDeque;

/// Decodes an answer token by token; keeps back incomplete characters, text
/// that may turn out to be a stop string, and the log-probabilities that
/// belong to it.
pub(super) struct Output<'t> {
    tokenizer: &'t Tokenizer,
    /// `None` once the answer has ended.
    decoder: Option<StreamDecoder<'t>>,
    stops: StopMatcher,
    /// Alternatives per token, where log-probabilities are wanted.
    alternatives: Option<usize>,
    /// Handed out so far, in bytes.
    certain: usize,
    /// Decoded so far, in bytes and in characters.
    decoded: usize,
    characters: usize,
    waiting: VecDeque<Waiting>,
}

/// A log-probability and its token's place in the answer, in bytes.
struct Waiting {
    start: usize,
    end: usize,
    logprob: TokenLogprob,
}

/// What a token made certain.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprob>,
    /// A stop string was met: the answer ends before it.
    pub(super) stopped: bool,
}

impl<'t> Output<'t> {
    pub(super) fn new(
        tokenizer: &'t Tokenizer,
        stops: StopMatcher,
        alternatives: Option<usize>,
        at_start: bool,
    ) -> Self {
        Self {
            tokenizer,
            decoder: Some(tokenizer.stream(true, at_start)),
            stops,
            alternatives,
            certain: 0,
            decoded: 0,
            characters: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Logits to be kept for [`Output::push`], where they are needed.
    pub(super) fn distribution(&self, logits: &[f32]) -> Option<Distribution> {
        self.alternatives.map(|_| Distribution::new(logits))
    }

    /// Takes the next token.
    pub(super) fn push(&mut self, id: u32, distribution: Option<Distribution>) -> Piece {
        let (start, offset) = (self.decoded, self.characters);
        let mut text = String::new();
        if let Some(decoder) = &mut self.decoder {
            decoder.push(id, &mut text);
        }
        self.count(&text);
        if let Some(distribution) = distribution {
            let choice = |id| Choice {
                bytes: self.tokenizer.token_bytes(id).to_vec(),
                logprob: distribution.logprob(id),
            };
            let top = distribution.top(self.alternatives.unwrap_or(0)).into_iter().map(choice).collect();
            let logprob = TokenLogprob { token: choice(id), top, offset };
            self.waiting.push_back(Waiting { start, end: self.decoded, logprob });
        }
        let mut piece = Piece::default();
        piece.stopped = self.stops.push(&text, &mut piece.text);
        self.release(&mut piece);
        piece
    }

    /// Ends the answer: what was kept back belongs to it after all.
    pub(super) fn finish(&mut self) -> Piece {
        let mut text = String::new();
        if let Some(decoder) = self.decoder.take() {
            decoder.finish(&mut text);
        }
        self.count(&text);
        let mut piece = Piece::default();
        piece.stopped = self.stops.push(&text, &mut piece.text);
        if !piece.stopped {
            self.stops.finish(&mut piece.text);
        }
        self.release(&mut piece);
        if !piece.stopped {
            piece.logprobs.extend(self.waiting.drain(..).map(|w| w.logprob));
        }
        piece
    }

    fn count(&mut self, text: &str) {
        self.decoded += text.len();
        self.characters += text.chars().count();
    }

    /// Moves the log-probabilities of tokens that are certain into `piece`. A
    /// token that a stop string cuts in two counts; those after it do not.
    fn release(&mut self, piece: &mut Piece) {
        let certain = self.certain + piece.text.len();
        self.certain = certain;
        while let Some(w) = self.waiting.front() {
            let counts = if piece.stopped { w.start < certain } else { w.end <= certain };
            if !counts {
                break;
            }
            piece.logprobs.extend(self.waiting.pop_front().map(|w| w.logprob));
        }
        if piece.stopped {
            self.waiting.clear();
        }
    }
}
