//! The engine's thread: slots in turn, requests in order.

use super::generation::{Environment, Generation, Step};
use super::slot::{Chosen, Free, choose};
use super::{Command, Event, Fault, FinishReason, Job, Sequence};
use crate::serve::metrics::{Ending, Metrics};
use squizd::text::Tokenizer;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

/// Prompt tokens per step while nobody else is being answered.
const LONG_PIECE: usize = 256;
/// Prompt tokens per step otherwise: what others wait for between two tokens.
const SHORT_PIECE: usize = 32;
/// How often clients that do not keep up are looked after.
const POLL: Duration = Duration::from_millis(2);

/// What an engine needs to know of model and server.
pub(crate) struct Settings {
    /// Requests answered at the same time; at least 1.
    pub(crate) slots: usize,
    /// Tokens that end an answer.
    pub(crate) eos: Vec<u32>,
    /// How long a client may take nothing before its request is given up.
    pub(crate) patience: Duration,
}

/// Answers requests on sequences that `make` creates.
pub(crate) struct Engine<'t, S, F> {
    make: F,
    slots: Vec<Slot<'t, S>>,
    queue: VecDeque<Job>,
    tokenizer: &'t Tokenizer,
    metrics: &'t Metrics,
    settings: Settings,
    /// Requests taken up so far.
    clock: u64,
}

struct Slot<'t, S> {
    /// `None` after a panic, until a new one could be made.
    sequence: Option<S>,
    generation: Option<Generation<'t>>,
    last_used: u64,
}

impl<'t, S: Sequence, F: FnMut() -> squizd::Result<S>> Engine<'t, S, F> {
    /// Reserves every slot's memory.
    ///
    /// # Errors
    /// What `make` returns.
    pub(crate) fn new(
        mut make: F,
        settings: Settings,
        tokenizer: &'t Tokenizer,
        metrics: &'t Metrics,
    ) -> squizd::Result<Self> {
        let slots = (0..settings.slots)
            .map(|_| Ok(Slot { sequence: Some(make()?), generation: None, last_used: 0 }))
            .collect::<squizd::Result<_>>()?;
        Ok(Self { make, slots, queue: VecDeque::new(), tokenizer, metrics, settings, clock: 0 })
    }

    /// Answers what comes in until told to stop, or nobody is left to ask.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        let mut moved = true;
        while self.receive(commands, moved) {
            self.assign();
            moved = self.round();
        }
        for slot in &mut self.slots {
            if let Some(mut generation) = slot.generation.take() {
                generation.finish(FinishReason::Length, self.metrics);
            }
        }
        for job in self.queue.drain(..) {
            self.metrics.ended(Ending::Failed);
            let _ = job.events.try_send(Event::Failed(Fault::ShuttingDown));
        }
        self.metrics.active.set(0);
    }

    /// Takes what has come in. Waits while there is nothing to do at all, and
    /// a little if the last round moved nothing; whether to go on.
    fn receive(&mut self, commands: &Receiver<Command>, moved: bool) -> bool {
        let busy = !self.queue.is_empty() || self.active() > 0;
        let mut wait = match (busy, moved) {
            (false, _) => Some(Duration::MAX),
            (true, false) => Some(POLL),
            (true, true) => None,
        };
        loop {
            let command = match wait.take() {
                Some(Duration::MAX) => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => commands.recv_timeout(time),
                None => commands.try_recv().map_err(|e| match e {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
            };
            match command {
                Ok(Command::Generate(job)) => self.queue.push_back(*job),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    /// Gives free slots to waiting requests.
    fn assign(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|job| !job.events.is_closed());
        (self.queue.len()..before).for_each(|_| self.metrics.ended(Ending::Cancelled));
        while let Some(job) = self.queue.front() {
            let free = self.slots.iter().enumerate().filter(|(_, s)| s.generation.is_none());
            let free = free.map(|(index, s)| Free {
                index,
                cached: s.sequence.as_ref().map_or(&[][..], Sequence::tokens),
                last_used: s.last_used,
            });
            let Some(chosen) = choose(free, &job.prompt, job.params.reuse) else { break };
            if let Some(job) = self.queue.pop_front() {
                self.start(job, chosen);
            }
        }
        self.metrics.active.set(self.active() as u64);
    }

    fn active(&self) -> usize {
        self.slots.iter().filter(|s| s.generation.is_some()).count()
    }

    fn start(&mut self, job: Job, chosen: Chosen) {
        let Some(slot) = self.slots.get_mut(chosen.index) else { return };
        self.clock += 1;
        slot.last_used = self.clock;
        if slot.sequence.is_none() {
            match (self.make)() {
                Ok(sequence) => slot.sequence = Some(sequence),
                Err(error) => {
                    self.metrics.ended(Ending::Failed);
                    let _ = job.events.try_send(Event::Failed(Fault::Model(error)));
                    return;
                }
            }
        }
        if let Some(sequence) = &mut slot.sequence {
            sequence.truncate(chosen.keep);
        }
        slot.generation = Some(Generation::new(job, chosen.keep, self.tokenizer, self.metrics));
    }

    /// Moves every slot by one step; whether any of them moved.
    fn round(&mut self) -> bool {
        let around = Environment {
            metrics: self.metrics,
            eos: &self.settings.eos,
            patience: self.settings.patience,
            piece: if self.active() > 1 { SHORT_PIECE } else { LONG_PIECE },
        };
        let mut moved = false;
        for slot in &mut self.slots {
            let Slot { sequence: Some(sequence), generation: Some(generation), .. } = slot else { continue };
            let step = catch_unwind(AssertUnwindSafe(|| generation.step(sequence, &around)));
            match step {
                Ok(Step::Waits) => continue,
                Ok(Step::Moved) => {}
                Ok(Step::Ended) => slot.generation = None,
                // What the sequence holds may be half written: it is dropped.
                Err(_) => {
                    generation.fail(Fault::Panic, self.metrics);
                    (slot.sequence, slot.generation) = (None, None);
                }
            }
            moved = true;
        }
        self.metrics.active.set(self.active() as u64);
        moved
    }
}
