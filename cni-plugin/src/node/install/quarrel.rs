//! Noticing that somebody else keeps rewriting the configuration.

use std::time::Duration;

use tokio::time::Instant;

/// How often the configuration had to be repaired of late.
#[derive(Debug, Default)]
pub(super) struct Quarrel {
    repairs: u32,
    last: Option<Instant>,
    told: bool,
}

impl Quarrel {
    /// Takes note of a repair. Whether this is the moment to tell of it: once, until it has been calm.
    pub(super) fn repaired(&mut self, now: Instant) -> bool {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) > CALM)
        {
            *self = Self::default();
        }
        self.last = Some(now);
        self.repairs = self.repairs.saturating_add(1);
        self.is_on() && !std::mem::replace(&mut self.told, true)
    }

    /// Whether it has been too often.
    pub(super) fn is_on(&self) -> bool {
        self.repairs >= QUICK
    }
}

/// A primary that starts writes its file a few times.
const QUICK: u32 = 5;
/// After this long it is another quarrel.
const CALM: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarrel_is_told_once_until_it_was_calm() {
        let mut quarrel = Quarrel::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            let told: Vec<_> = (0..10).map(|_| quarrel.repaired(now)).collect();
            let fifth: Vec<_> = (0..10).map(|n| n == 4).collect();
            assert_eq!(told, fifth);
            assert!(quarrel.is_on());
            now += CALM + Duration::from_secs(1);
        }
        assert!(!quarrel.repaired(now));
        assert!(!quarrel.is_on());
    }
}
