//! A certificate authority in memory whose answers a test scripts.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tulle_model::SpiffeId;

use crate::TestCa;

/// Signs like a [`TestCa`], remembers who was asked for, and fails or waits on demand.
pub struct FakeAuthority {
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    gate: Semaphore,
    script: Mutex<Script>,
}

struct Script {
    ca: TestCa,
    asked: Vec<SpiffeId>,
    failures: usize,
    waiting: usize,
}

impl FakeAuthority {
    /// One that answers at once. Certificates are dated by `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self {
            now: Box::new(now),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            script: Mutex::new(Script {
                ca: TestCa::new(),
                asked: Vec::new(),
                failures: 0,
                waiting: 0,
            }),
        }
    }

    /// Makes requests wait until [`FakeAuthority::release`].
    pub fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets `count` waiting or coming requests go on.
    pub fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Makes the next `count` requests fail.
    pub fn fail_next(&self, count: usize) {
        self.script.lock().failures = count;
    }

    /// Replaces the CA by one with another root.
    pub fn change_root(&self) {
        self.script.lock().ca = TestCa::new();
    }

    /// Who was asked for, in order.
    pub fn asked(&self) -> Vec<SpiffeId> {
        self.script.lock().asked.clone()
    }

    /// How many requests are waiting.
    pub fn waiting(&self) -> usize {
        self.script.lock().waiting
    }

    /// Signs: the answer of a CA, or a message that says why not.
    ///
    /// # Errors
    /// When the script says so, or the CSR is malformed.
    pub async fn sign(
        &self,
        id: &SpiffeId,
        csr_pem: &str,
        validity: Duration,
    ) -> Result<Vec<String>, String> {
        {
            let mut script = self.script.lock();
            script.asked.push(id.clone());
            script.waiting += 1;
        }
        let permit = self.gate.acquire().await;
        permit.expect("the gate is never closed").forget();
        let mut script = self.script.lock();
        script.waiting -= 1;
        if script.failures > 0 {
            script.failures -= 1;
            return Err("the script says no".to_owned());
        }
        let now = (self.now)();
        let not_before = now - Duration::from_secs(120);
        script
            .ca
            .sign(csr_pem, id, not_before, now + validity)
            .map_err(|error| error.to_string())
    }
}
