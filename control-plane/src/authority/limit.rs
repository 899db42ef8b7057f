//! At most so many certificates per node and time: a token bucket per node.

use std::collections::HashMap;

use tokio::time::Instant;

/// The pace of a node.
#[derive(Clone, Debug)]
pub struct LimiterConfig {
    /// Certificates at once, as when a node proxy starts with many workloads. Default 1000.
    pub burst: u32,
    /// Certificates per second after that. Default 50.
    pub per_second: f64,
    /// Nodes that are remembered. Default 20 000.
    pub max_nodes: usize,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self {
            burst: 1000,
            per_second: 50.0,
            max_nodes: 20_000,
        }
    }
}

/// Keeps the pace of all nodes.
#[derive(Debug)]
pub struct Limiter {
    config: LimiterConfig,
    buckets: HashMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limiter {
    /// A limiter that has seen nobody yet.
    pub fn new(config: LimiterConfig) -> Self {
        Self {
            config,
            buckets: HashMap::new(),
        }
    }

    /// Takes one from the node's bucket, unless it is empty.
    pub fn allows(&mut self, node: &str, now: Instant) -> bool {
        if !self.buckets.contains_key(node) && !self.make_room(now) {
            return false;
        }
        let burst = f64::from(self.config.burst);
        let bucket = self.buckets.entry(node.to_owned()).or_insert(Bucket {
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

    /// Forgets nodes whose bucket is full again, if there are too many; whether that made room for another.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.buckets.len() >= self.config.max_nodes {
            let (config, full) = (&self.config, f64::from(self.config.burst));
            self.buckets
                .retain(|_, bucket| bucket.refilled(config, now) < full);
        }
        self.buckets.len() < self.config.max_nodes
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
            max_nodes: 2,
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
}
