//! A reply as server-sent events, each sent when the engine has made it.

use super::app::Running;
use crate::serve::engine::{Event, Fault};
use crate::serve::error::ApiError;
use crate::serve::openai::{DONE, data};
use axum::body::Bytes;
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// A comment is sent this often while there is nothing else, so that neither
/// side, nor a proxy between, takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The body of a streamed reply. Dropping it cancels the request.
pub(super) struct EventStream {
    running: Running,
    opened: bool,
    ended: bool,
    idle: Interval,
}

impl EventStream {
    pub(super) fn new(running: Running) -> Self {
        let mut idle = interval(KEEP_ALIVE);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        idle.reset();
        Self { running, opened: false, ended: false, idle }
    }

    /// What an event is on the wire. The end always comes with `[DONE]`, an
    /// answer's end always with its `finish_reason` before.
    fn encode(&mut self, event: Option<Event>) -> String {
        let reply = &self.running.reply;
        match event {
            Some(Event::Started) => String::new(),
            Some(Event::Text { text, logprobs }) => data(&reply.text(&text, &logprobs)),
            Some(Event::Finished { reason, usage }) => {
                self.ended = true;
                let usage = reply.usage(usage).as_ref().map(data).unwrap_or_default();
                [&data(&reply.end(reason)), &usage, DONE].concat()
            }
            Some(Event::Failed(fault)) => self.fail(fault.into()),
            None => self.fail(Fault::Panic.into()),
        }
    }

    fn fail(&mut self, error: ApiError) -> String {
        self.ended = true;
        [&data(&error.body()), DONE].concat()
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.opened, true)
            && let Some(opening) = self.running.reply.opening()
        {
            return frame(data(&opening));
        }
        while !self.ended {
            let text = match self.running.events.poll_recv(cx) {
                Poll::Ready(event) => self.encode(event),
                Poll::Pending if self.idle.poll_tick(cx).is_ready() => ": keep-alive\n\n".to_owned(),
                Poll::Pending => return Poll::Pending,
            };
            if !text.is_empty() {
                self.idle.reset();
                return frame(text);
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn frame(text: String) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
    Poll::Ready(Some(Ok(Frame::data(text.into()))))
}
