//! What the server counts, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All counts of a server; names and meanings are in [`Metrics::render`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    endings: [Number; Ending::ALL.len()],
    pub(crate) prompt_tokens: Number,
    pub(crate) cached_tokens: Number,
    pub(crate) generated_tokens: Number,
    /// Requests that hold a slot.
    pub(crate) active: Number,
    /// Forward passes of a request's prompt.
    pub(crate) prompt_forward: Histogram,
    pub(crate) first_token: Histogram,
    pub(crate) next_token: Histogram,
}

/// How a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished,
    /// The client went away.
    Cancelled,
    /// The client stayed and took nothing.
    SlowClient,
    Failed,
}

impl Ending {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Finished, "finished"),
        (Self::Cancelled, "cancelled"),
        (Self::SlowClient, "slow_client"),
        (Self::Failed, "failed"),
    ];
}

/// A number that any thread may change.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets, in milliseconds.
const BOUNDS_MS: [u64; 16] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000];

/// Durations in buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One per bound, and one for what lies above all.
    buckets: [Number; BOUNDS_MS.len() + 1],
    nanos: Number,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let bucket = BOUNDS_MS.partition_point(|&b| Duration::from_millis(b) < time);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.nanos.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        header(out, name, help, "histogram");
        let mut sum = 0;
        let bounds = BOUNDS_MS.iter().map(|&b| (b as f64 / 1e3).to_string()).chain(["+Inf".into()]);
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            sum += bucket.get();
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", self.nanos.get() as f64 / 1e9);
    }
}

impl Metrics {
    /// Counts a response. `route` must come from a fixed set.
    pub(crate) fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Counts the end of a generation.
    pub(crate) fn ended(&self, ending: Ending) {
        for (count, (each, _)) in self.endings.iter().zip(Ending::ALL) {
            if each == ending {
                count.add(1);
            }
        }
    }

    /// The page; `slots` is how many there are, `admitted` how many requests
    /// hold or wait for one.
    pub(crate) fn render(&self, slots: usize, admitted: usize) -> String {
        let mut out = String::new();
        header(&mut out, "squizd_requests_total", "HTTP requests by route and status", "counter");
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "squizd_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        header(&mut out, "squizd_generations_total", "Generations by how they ended", "counter");
        for (count, (_, name)) in self.endings.iter().zip(Ending::ALL) {
            let _ = writeln!(out, "squizd_generations_total{{end=\"{name}\"}} {}", count.get());
        }
        let active = self.active.get();
        let numbers = [
            (
                "squizd_prompt_tokens_total",
                "Prompt tokens of requests taken up",
                "counter",
                self.prompt_tokens.get(),
            ),
            (
                "squizd_cached_tokens_total",
                "Prompt tokens found in a cache",
                "counter",
                self.cached_tokens.get(),
            ),
            ("squizd_generated_tokens_total", "Tokens generated", "counter", self.generated_tokens.get()),
            ("squizd_slots", "Requests that can be answered at the same time", "gauge", slots as u64),
            ("squizd_slots_active", "Requests being answered", "gauge", active),
            (
                "squizd_queue_depth",
                "Requests waiting for a slot",
                "gauge",
                (admitted as u64).saturating_sub(active),
            ),
        ];
        for (name, help, kind, value) in numbers {
            header(&mut out, name, help, kind);
            let _ = writeln!(out, "{name} {value}");
        }
        self.prompt_forward.render(
            &mut out,
            "squizd_prompt_forward_seconds",
            "Forward passes of a request's prompt, cached tokens not among them",
        );
        self.first_token.render(
            &mut out,
            "squizd_time_to_first_token_seconds",
            "From the request's arrival to its first token",
        );
        self.next_token.render(&mut out, "squizd_inter_token_seconds", "From one token to the next");
        out
    }
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative_and_bounds_inclusive() {
        let h = Histogram::default();
        for ms in [0, 1, 3, 400_000] {
            h.observe(Duration::from_millis(ms));
        }
        let mut out = String::new();
        h.render(&mut out, "x", "Help");
        assert!(out.starts_with("# HELP x Help.\n# TYPE x histogram\nx_bucket{le=\"0.001\"} 2\n"), "{out}");
        assert!(out.contains("x_bucket{le=\"0.002\"} 2\nx_bucket{le=\"0.005\"} 3\n"), "{out}");
        assert!(
            out.ends_with("x_bucket{le=\"300\"} 3\nx_bucket{le=\"+Inf\"} 4\nx_sum 400.004\nx_count 4\n"),
            "{out}"
        );
    }

    #[test]
    fn the_page_names_every_count() {
        let m = Metrics::default();
        m.request("/v1/models", 200);
        m.request("/v1/models", 200);
        m.request("other", 404);
        m.ended(Ending::SlowClient);
        m.active.set(2);
        let page = m.render(4, 5);
        for line in [
            "squizd_requests_total{route=\"/v1/models\",status=\"200\"} 2",
            "squizd_requests_total{route=\"other\",status=\"404\"} 1",
            "squizd_generations_total{end=\"slow_client\"} 1",
            "squizd_generations_total{end=\"finished\"} 0",
            "squizd_slots 4",
            "squizd_slots_active 2",
            "squizd_queue_depth 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
