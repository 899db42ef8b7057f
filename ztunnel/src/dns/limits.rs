//! What one pod may have open.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Room for the queries and connections of one pod. What is beyond is refused; names of the mesh are answered even then.
#[derive(Debug)]
pub struct DnsLimits {
    queries: Semaphore,
    conversations: Semaphore,
}

impl DnsLimits {
    /// Room for this many queries that name servers are asked.
    pub fn new(queries: usize) -> Self {
        Self {
            queries: Semaphore::new(queries),
            conversations: Semaphore::new(MOST_CONVERSATIONS),
        }
    }

    /// Room for a query of `len` bytes that a name server is asked.
    pub(super) fn query(&self, len: usize) -> Option<SemaphorePermit<'_>> {
        let units = 1 + len / UNIT;
        self.queries.try_acquire_many(units.try_into().ok()?).ok()
    }

    /// Room for a connection.
    pub(super) fn conversation(&self) -> Option<SemaphorePermit<'_>> {
        self.conversations.try_acquire().ok()
    }
}

const MOST_CONVERSATIONS: usize = 128;
/// Bytes of a query that takes the room of one.
const UNIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_queries_count_more() {
        let limits = DnsLimits::new(18);
        let _large = limits.query(65_535).unwrap();
        assert!(limits.query(2 * UNIT).is_none());
        let small = [limits.query(100).unwrap(), limits.query(UNIT - 1).unwrap()];
        assert!(limits.query(100).is_none());
        drop(small);
        assert!(limits.query(UNIT).is_some());
    }
}
