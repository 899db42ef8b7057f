//! At most so many certificates per caller and time: a token bucket for each node proxy, and for each pod that asks for itself.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::access::Account;

/// The pace of a node. That of a pod is a tenth of it.
#[derive(Clone, Debug)]
pub struct LimiterConfig {
    /// Certificates at once, as when a node proxy starts with many workloads. Default 1000.
    pub burst: u32,
    /// Certificates per second after that. Default 50.
    pub per_second: f64,
    /// Nodes that are remembered, and pods. Default 20 000.
    pub max_callers: usize,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self {
            burst: 1000,
            per_second: 50.0,
            max_callers: 20_000,
        }
    }
}

/// Keeps the pace of all callers.
#[derive(Debug)]
pub struct Limiters {
    nodes: Limiter,
    pods: Limiter,
}

impl Limiters {
    /// Limiters that have seen nobody yet.
    pub fn new(of_nodes: &LimiterConfig) -> Self {
        Self {
            nodes: Limiter::new(of_nodes.clone()),
            pods: Limiter::new(LimiterConfig {
                burst: (of_nodes.burst / 10).max(1),
                per_second: of_nodes.per_second / 10.0,
                max_callers: of_nodes.max_callers,
            }),
        }
    }

    /// Takes one from the caller's bucket, unless it is empty.
    pub fn allows(&mut self, account: &Account, now: Instant) -> bool {
        match account {
            Account::Node(name) => self.nodes.allows(name, now),
            Account::Pod(uid) => self.pods.allows(uid, now),
        }
    }
}

/// Keeps the pace of callers of one kind.
#[derive(Debug)]
struct Limiter {
    config: LimiterConfig,
    buckets: HashMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    fn new(config: LimiterConfig) -> Self {
        Self {
            config,
            buckets: HashMap::new(),
        }
    }

    fn allows(&mut self, caller: &str, now: Instant) -> bool {
        if !self.buckets.contains_key(caller) && !self.make_room(now) {
            return false;
        }
        let burst = f64::from(self.config.burst);
        let bucket = self.buckets.entry(caller.to_owned()).or_insert(Bucket {
            left: burst,
            at: now,
        });
        bucket.left = bucket.refilled(&self.config, now);
        bucket.at = now;
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }

    /// Forgets callers whose bucket is full again, if there are too many; whether that made room for another.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.buckets.len() >= self.config.max_callers {
            let (config, full) = (&self.config, f64::from(self.config.burst));
            self.buckets
                .retain(|_, bucket| bucket.refilled(config, now) < full);
        }
        self.buckets.len() < self.config.max_callers
    }
}

impl Bucket {
    fn refilled(&self, config: &LimiterConfig, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + passed * config.per_second).min(f64::from(config.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_node_has_a_burst_and_a_pace() {
        let mut limiter = Limiter::new(LimiterConfig {
            burst: 2,
            per_second: 1.0,
            max_callers: 2,
        });
        let start = Instant::now();
        let mut ask =
            |node: &str, after: f64| limiter.allows(node, start + Duration::from_secs_f64(after));
        for (node, after, expected) in [
            ("a", 0.0, true),
            ("a", 0.0, true),
            ("a", 0.5, false),
            ("b", 0.5, true),
            ("a", 1.0, true),
            ("a", 1.5, false),
            // No room for a third node until the bucket of one is full again.
            ("c", 1.5, true),
            ("b", 1.5, false),
            ("c", 1.6, true),
            ("b", 9.0, true),
        ] {
            assert_eq!(ask(node, after), expected, "{node} after {after}");
        }
    }

    #[test]
    fn pods_take_nothing_from_their_node() {
        let mut limiters = Limiters::new(&LimiterConfig {
            burst: 20,
            per_second: 1.0,
            max_callers: 2,
        });
        let now = Instant::now();
        let mut times =
            |account: Account| (0..100).filter(|_| limiters.allows(&account, now)).count();
        for uid in ["a", "b", "c"] {
            let expected = if uid == "c" { 0 } else { 2 };
            assert_eq!(times(Account::Pod(uid.into())), expected, "{uid}");
        }
        assert_eq!(times(Account::Node("n1".into())), 20);
    }
}
