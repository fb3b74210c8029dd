//! The engine on scripted sequences: what a model says is written down, and
//! every forward pass is recorded.

use super::*;
use crate::serve::metrics::Metrics;
use squizd::Error;
use squizd::model::SpecialTokens;
use squizd::text::{SamplerOptions, Tokenizer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const VOCAB: usize = 1024;
const CONTEXT: usize = 512;
/// The tokenizer's `<|endoftext|>`.
const EOS: u32 = 0;

fn tokenizer() -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-qwen3-1m/tokenizer.json");
    let files = BTreeMap::from([("tokenizer.json".to_owned(), std::fs::read(path).unwrap())]);
    Tokenizer::from_files(&files, &SpecialTokens::default(), VOCAB as u32).unwrap()
}

/// What a script does after the tokens it has seen.
#[derive(Clone, Copy)]
enum Says {
    Token(u32),
    Error,
    Panic,
}

type Script = Arc<dyn Fn(&[u32]) -> Says + Send + Sync>;
/// Slot and tokens of every forward pass.
type Passes = Arc<Mutex<Vec<(usize, Vec<u32>)>>>;

struct Scripted {
    slot: usize,
    script: Script,
    passes: Passes,
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

impl Sequence for Scripted {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn remaining(&self) -> usize {
        CONTEXT - self.tokens.len()
    }

    fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    fn forward(&mut self, tokens: &[u32]) -> squizd::Result<&mut [f32]> {
        assert!(!tokens.is_empty() && tokens.len() <= self.remaining());
        self.passes.lock().unwrap().push((self.slot, tokens.to_vec()));
        self.tokens.extend(tokens);
        self.logits.fill(0.0);
        match (self.script)(&self.tokens) {
            Says::Token(id) => self.logits[id as usize] = 10.0,
            Says::Error => return Err(Error::invalid("scripted failure")),
            Says::Panic => panic!("scripted panic"),
        }
        Ok(&mut self.logits)
    }
}

/// An engine on a thread of its own, while `with` talks to it.
struct Bench {
    tokenizer: Tokenizer,
    metrics: Metrics,
    passes: Passes,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Bench {
    fn new() -> Self {
        let places = Arc::new(Semaphore::new(64));
        let patience = Duration::from_mins(1);
        Self {
            tokenizer: tokenizer(),
            metrics: Metrics::default(),
            passes: Passes::default(),
            places,
            patience,
        }
    }

    fn run<R>(&self, slots: usize, script: Script, with: impl FnOnce(&Sender<Command>) -> R) -> R {
        let mut made = 0;
        let make = || {
            made += 1;
            let (script, passes) = (Arc::clone(&script), Arc::clone(&self.passes));
            Ok(Scripted { slot: made - 1, script, passes, tokens: Vec::new(), logits: vec![0.0; VOCAB] })
        };
        let settings = Settings { slots, eos: vec![EOS], patience: self.patience };
        let engine = Engine::new(make, settings, &self.tokenizer, &self.metrics).unwrap();
        let (sender, commands) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || engine.run(&commands));
            let result = with(&sender);
            let _ = sender.send(Command::Stop);
            result
        })
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).unwrap()
    }

    /// A script that answers each of these prompts with its text, then ends.
    fn answers(&self, pairs: &[(&str, &str)]) -> Script {
        let pairs: Vec<_> = pairs.iter().map(|(p, a)| (self.ids(p), self.ids(a))).collect();
        Arc::new(move |tokens| {
            let found = pairs.iter().find(|(p, _)| tokens.starts_with(p));
            let next = found.and_then(|(p, a)| a.get(tokens.len() - p.len()));
            Says::Token(next.copied().unwrap_or(EOS))
        })
    }

    fn ask(
        &self,
        engine: &Sender<Command>,
        prompt: &str,
        change: impl FnOnce(&mut Params),
    ) -> mpsc::Receiver<Event> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut params = Params {
            sampler: Sampler::new(SamplerOptions::default()).unwrap(),
            penalties: Penalties::default(),
            stops: StopMatcher::default(),
            max_tokens: 400,
            logprobs: None,
            ignore_eos: false,
            reuse: true,
            at_start: true,
        };
        change(&mut params);
        let place = Arc::clone(&self.places).try_acquire_owned().unwrap();
        let prompt = self.ids(prompt);
        let job = Job { prompt, params, events, received: Instant::now(), place: Some(place) };
        engine.send(Command::Generate(Box::new(job))).unwrap();
        receiver
    }

    fn ended(&self, how: &str) -> u64 {
        let line = format!("squizd_generations_total{{end=\"{how}\"}} ");
        let page = self.metrics.render(0, 0);
        page.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

/// A script that begins to speak when told to.
fn gated() -> (Script, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let script: Script = Arc::new(move |_| {
        while !gate.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Says::Token(70)
    });
    (script, open)
}

/// Everything a request got.
#[derive(Debug, Default)]
struct Got {
    pieces: Vec<String>,
    logprobs: Vec<TokenLogprob>,
    end: Option<(FinishReason, Usage)>,
    fault: Option<Fault>,
}

impl Got {
    fn all(mut events: mpsc::Receiver<Event>) -> Self {
        let mut got = Self::default();
        let mut started = false;
        while let Some(event) = events.blocking_recv() {
            assert!(got.end.is_none() && got.fault.is_none(), "{event:?} after the end");
            match event {
                Event::Started => assert!(!std::mem::replace(&mut started, true)),
                Event::Text { text, logprobs } => {
                    assert!(started);
                    got.pieces.push(text);
                    got.logprobs.extend(logprobs);
                }
                Event::Finished { reason, usage } => got.end = Some((reason, usage)),
                Event::Failed(fault) => got.fault = Some(fault),
            }
        }
        got
    }

    fn text(&self) -> String {
        self.pieces.concat()
    }

    fn reason(&self) -> FinishReason {
        self.end.unwrap().0
    }
}

#[test]
fn an_answer_comes_token_by_token_and_ends_at_the_end_token() {
    let bench = Bench::new();
    let script = bench.answers(&[("Blessed are", " the things which are")]);
    let got = bench.run(1, script, |e| Got::all(bench.ask(e, "Blessed are", |_| ())));
    let tokens = bench.ids(" the things which are").len();
    assert_eq!((got.text().as_str(), got.pieces.len()), (" the things which are", tokens));
    let prompt = bench.ids("Blessed are").len();
    assert_eq!(got.end, Some((FinishReason::Stop, Usage { prompt, cached: 0, completion: tokens })));
}

#[test]
fn limits_end_an_answer_with_length() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(70));
    let (three, full) = bench.run(1, script, |e| {
        let three = Got::all(bench.ask(e, "Blessed are", |p| p.max_tokens = 3));
        let full = Got::all(bench.ask(e, "Blessed are", |p| p.max_tokens = usize::MAX));
        (three, full)
    });
    assert_eq!((three.reason(), three.end.unwrap().1.completion), (FinishReason::Length, 3));
    // The last token sampled needs no place in the cache.
    let usage = full.end.unwrap().1;
    assert_eq!((full.reason(), usage.prompt + usage.completion), (FinishReason::Length, CONTEXT + 1));
}

#[test]
fn end_tokens_can_be_passed_over() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(EOS));
    let got = bench.run(1, script, |e| {
        Got::all(bench.ask(e, "And", |p| {
            p.ignore_eos = true;
            p.max_tokens = 5;
        }))
    });
    assert_eq!((got.reason(), got.text().as_str()), (FinishReason::Length, ""));
    assert_eq!(got.end.unwrap().1.completion, 5);
}

#[test]
fn stop_strings_across_tokens_are_not_handed_out() {
    let bench = Bench::new();
    let script = bench.answers(&[("Q", " one two three four")]);
    let stop = |s: &'static str| move |p: &mut Params| p.stops = StopMatcher::new([s]).unwrap();
    let (found, missed) = bench.run(1, script, |e| {
        (Got::all(bench.ask(e, "Q", stop("o three"))), Got::all(bench.ask(e, "Q", stop("four score"))))
    });
    assert!(bench.ids("o three").len() > 1);
    assert_eq!((found.text().as_str(), found.reason()), (" one tw", FinishReason::Stop));
    assert_eq!((missed.text().as_str(), missed.reason()), (" one two three four", FinishReason::Stop));
}

#[test]
fn characters_split_over_tokens_come_whole() {
    let bench = Bench::new();
    let answer = " naïve 😀 text";
    assert!(bench.ids("😀").len() > 1);
    let script = bench.answers(&[("Q", answer)]);
    let got = bench.run(1, script, |e| Got::all(bench.ask(e, "Q", |_| ())));
    assert_eq!(got.text(), answer);
    assert!(got.pieces.iter().all(|p| !p.is_empty() && !p.contains('\u{fffd}')), "{:?}", got.pieces);
    // Cut inside a character, its bytes are no text.
    let script = bench.answers(&[("Q", "😀")]);
    let got = bench.run(1, script, |e| Got::all(bench.ask(e, "Q", |p| p.max_tokens = 2)));
    assert_eq!((got.text().as_str(), got.reason()), ("\u{fffd}", FinishReason::Length));
}

#[test]
fn logprobs_belong_to_the_text_handed_out() {
    let bench = Bench::new();
    let script = bench.answers(&[("Q", " one two three four")]);
    let got = bench.run(1, script, |e| {
        Got::all(bench.ask(e, "Q", |p| {
            p.stops = StopMatcher::new(["o three"]).unwrap();
            p.logprobs = Some(2);
        }))
    });
    let spoken: Vec<u8> = got.logprobs.iter().flat_map(|l| l.token.bytes.clone()).collect();
    assert_eq!(String::from_utf8(spoken).unwrap(), " one two", "the token that the stop string cuts counts");
    let mut offset = 0;
    for l in &got.logprobs {
        assert_eq!(l.offset, offset);
        offset += l.token.bytes.len();
        // One logit of 10 among 1023 of 0.
        let expected = 10.0 - (10f64.exp() + 1023.0).ln();
        assert!((l.token.logprob - expected).abs() < 1e-9);
        assert_eq!((l.top.len(), &l.top[0]), (2, &l.token));
        assert!((l.top[1].logprob - (expected - 10.0)).abs() < 1e-9);
    }
}

#[test]
fn penalties_and_biases_reach_the_choice() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(70));
    let got = bench.run(1, script, |e| {
        Got::all(bench.ask(e, "Q", |p| {
            p.max_tokens = 2;
            p.penalties = Penalties::new(0.0, 0.0, [(70, -100.0), (71, 1.0)]).unwrap();
        }))
    });
    let expected = bench.tokenizer.decode(&[71, 71], true);
    assert_eq!(got.text(), expected);
}

#[test]
fn sequences_take_turns() {
    let bench = Bench::new();
    let (script, open) = gated();
    bench.run(2, script, |e| {
        let long = bench.ask(e, "And it came to pass", |p| p.max_tokens = 20);
        let short = bench.ask(e, "Blessed", |p| p.max_tokens = 5);
        open.store(true, Ordering::Relaxed);
        assert_eq!(Got::all(short).end.unwrap().1.completion, 5);
        assert_eq!(Got::all(long).end.unwrap().1.completion, 20);
    });
    let passes = bench.passes.lock().unwrap();
    let first = passes.iter().position(|p| p.0 == 1).unwrap();
    let turns: Vec<usize> = passes[first..first + 9].iter().map(|p| p.0).collect();
    assert!(turns.windows(2).all(|w| w[0] != w[1]), "{turns:?}");
}

#[test]
fn a_long_prompt_does_not_hold_up_others() {
    let bench = Bench::new();
    let prompt = "And it came to pass ".repeat(40);
    let length = bench.ids(&prompt).len();
    assert!((200..CONTEXT).contains(&length), "{length}");
    let (script, open) = gated();
    bench.run(2, script, |e| {
        let talking = bench.ask(e, "Blessed", |p| p.max_tokens = 25);
        let reading = bench.ask(e, &prompt, |p| p.max_tokens = 1);
        open.store(true, Ordering::Relaxed);
        Got::all(reading);
        Got::all(talking);
    });
    let passes = bench.passes.lock().unwrap();
    let pieces: Vec<usize> = passes.iter().filter(|p| p.0 == 1).map(|p| p.1.len()).collect();
    assert_eq!(pieces.iter().sum::<usize>(), length);
    assert!(pieces.iter().all(|p| (4..=32).contains(p)), "{pieces:?}");
    let turns: Vec<usize> = passes.iter().map(|p| p.0).skip(1).take(2 * pieces.len()).collect();
    assert!(turns.windows(2).all(|w| w[0] != w[1]), "{turns:?}");
}

#[test]
fn common_beginnings_are_not_computed_again() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(70));
    let one = "And it came to pass, that the king of Israel said";
    let two = format!("{one} unto Jehoshaphat");
    let (first, second, third) = bench.run(1, script, |e| {
        (
            Got::all(bench.ask(e, one, |p| p.max_tokens = 3)),
            Got::all(bench.ask(e, &two, |p| p.max_tokens = 3)),
            Got::all(bench.ask(e, &two, |p| {
                p.max_tokens = 3;
                p.reuse = false;
            })),
        )
    });
    let (one, two) = (bench.ids(one), bench.ids(&two));
    assert!(two.starts_with(&one));
    let cached = |g: &Got| g.end.unwrap().1.cached;
    assert_eq!((cached(&first), cached(&third)), (0, 0));
    assert_eq!(cached(&second), one.len().min(two.len() - 4));
    let computed: Vec<usize> = bench.passes.lock().unwrap().iter().map(|p| p.1.len()).collect();
    assert_eq!(computed, [one.len(), 1, 1, two.len() - cached(&second), 1, 1, two.len(), 1, 1]);
    assert_eq!(bench.metrics.cached_tokens.get(), cached(&second) as u64);
}

#[test]
fn a_failure_ends_one_request_only() {
    let bench = Bench::new();
    let [fails, panics] = ["Error:", "Panic:"].map(|p| bench.ids(p));
    let script: Script = Arc::new(move |tokens| match tokens {
        t if t.starts_with(&fails) && t.len() > fails.len() => Says::Error,
        t if t.starts_with(&panics) && t.len() > panics.len() => Says::Panic,
        _ => Says::Token(70),
    });
    bench.run(2, script, |e| {
        let well = bench.ask(e, "And", |p| p.max_tokens = 100);
        assert!(matches!(Got::all(bench.ask(e, "Error:", |_| ())).fault, Some(Fault::Model(_))));
        for _ in 0..3 {
            assert!(matches!(Got::all(bench.ask(e, "Panic:", |_| ())).fault, Some(Fault::Panic)));
        }
        assert_eq!(Got::all(well).end.unwrap().1.completion, 100);
        assert_eq!(Got::all(bench.ask(e, "And", |p| p.max_tokens = 2)).reason(), FinishReason::Length);
    });
    assert_eq!((bench.ended("failed"), bench.ended("finished")), (4, 2));
    assert_eq!(bench.places.available_permits(), 64);
}

#[test]
fn clients_that_leave_free_their_slot_and_their_place() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(70));
    bench.run(1, script, |e| {
        let mut running = bench.ask(e, "And", |_| ());
        let queued = bench.ask(e, "So", |_| ());
        let next = bench.ask(e, "But", |p| p.max_tokens = 2);
        for _ in 0..3 {
            running.blocking_recv().unwrap();
        }
        drop(queued);
        drop(running);
        assert_eq!(Got::all(next).end.unwrap().1.completion, 2);
    });
    assert_eq!((bench.ended("cancelled"), bench.ended("finished")), (2, 1));
    assert_eq!(bench.places.available_permits(), 64);
    let gone = bench.ids("So");
    assert!(
        bench.passes.lock().unwrap().iter().all(|p| p.1 != gone),
        "nothing was computed for the one in the queue"
    );
}

#[test]
fn clients_that_do_not_read_are_given_up() {
    let bench = Bench { patience: Duration::from_secs(1), ..Bench::new() };
    let script: Script = Arc::new(|_| Says::Token(70));
    bench.run(2, script, |e| {
        let slow = bench.ask(e, "And", |p| p.max_tokens = 400);
        // The other slot goes on meanwhile.
        assert_eq!(Got::all(bench.ask(e, "So", |p| p.max_tokens = 300)).end.unwrap().1.completion, 300);
        while bench.ended("slow_client") == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        // It has what fitted, and no end.
        let got = Got::all(slow);
        assert!(got.end.is_none() && got.fault.is_none() && (10..EVENTS).contains(&got.pieces.len()));
    });
    assert_eq!(bench.places.available_permits(), 64);
}

#[test]
fn stopping_ends_answers_properly() {
    let bench = Bench::new();
    let script: Script = Arc::new(|_| Says::Token(70));
    let (running, queued) = bench.run(1, script, |e| {
        let mut running = bench.ask(e, "And", |_| ());
        let queued = bench.ask(e, "So", |_| ());
        for _ in 0..5 {
            running.blocking_recv().unwrap();
        }
        e.send(Command::Stop).unwrap();
        let mut rest = Vec::new();
        while let Some(event) = running.blocking_recv() {
            rest.push(event);
        }
        (rest, Got::all(queued))
    });
    assert!(
        matches!(running.last(), Some(Event::Finished { reason: FinishReason::Length, .. })),
        "{running:?}"
    );
    assert!(matches!(queued.fault, Some(Fault::ShuttingDown)));
}
