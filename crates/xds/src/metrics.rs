//! Plain counters that a binary exports under the names it likes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A number of things that exist right now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A latency histogram with fixed buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; Latency::BOUNDS.len()],
    above: Counter,
    total_microseconds: Counter,
}

impl Latency {
    /// Upper bounds of the buckets in milliseconds; what is slower is counted only in the total.
    pub const BOUNDS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1_000, 5_000];

    /// Observations per bucket, not cumulative; the last one has no upper bound.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets
            .iter()
            .chain(std::iter::once(&self.above))
            .map(Counter::value)
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// Sum of all observations.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.total_microseconds.value())
    }

    pub(crate) fn observe(&self, latency: Duration) {
        let bucket = Self::BOUNDS
            .iter()
            .zip(&self.buckets)
            .find(|(bound, _)| latency <= Duration::from_millis(**bound))
            .map_or(&self.above, |(_, bucket)| bucket);
        bucket.add(1);
        self.total_microseconds
            .add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
}
