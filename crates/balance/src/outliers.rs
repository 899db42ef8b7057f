//! When an endpoint is left alone.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tulle_model::traffic::Outliers;

use crate::endpoint::Endpoint;

/// How something went that an endpoint had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, with a status of HTTP, or one that stands for that of gRPC.
    Answered(u16),
    /// It took a connection, which is all that was asked of it.
    Connected,
    /// It did not: there was no connection, or it ended, or it took too long.
    Lost,
}

/// What outlier detection makes of an outcome.
pub(crate) trait Judge {
    /// Counts it, and tells whether there are too many failures in a row.
    fn is_enough(&self, endpoint: &Endpoint, outcome: Outcome) -> bool;

    /// Leaves an endpoint alone, if not too many are; for how long.
    fn eject<'a>(
        &self,
        endpoint: &Endpoint,
        all: impl Iterator<Item = &'a Endpoint>,
        now: Duration,
    ) -> Option<Duration>;
}

impl Judge for Outliers {
    fn is_enough(&self, endpoint: &Endpoint, outcome: Outcome) -> bool {
        let reaches = |count: &AtomicU32, most: Option<u32>| {
            let count = count.fetch_add(1, Relaxed).saturating_add(1);
            most.is_some_and(|most| count >= most)
        };
        let local = match outcome {
            Outcome::Lost if self.split => {
                return reaches(&endpoint.local_failures, self.local_failures);
            }
            Outcome::Lost => true,
            Outcome::Answered(_) | Outcome::Connected => {
                endpoint.local_failures.store(0, Relaxed);
                false
            }
        };
        let status = match outcome {
            Outcome::Answered(status) => status,
            Outcome::Connected => 200,
            Outcome::Lost => 503,
        };
        let mut enough = false;
        if local || status >= 500 {
            enough |= reaches(&endpoint.server_errors, self.server_errors);
        } else {
            endpoint.server_errors.store(0, Relaxed);
        }
        if local || (502..=504).contains(&status) {
            enough |= reaches(&endpoint.gateway_errors, self.gateway_errors);
        } else {
            endpoint.gateway_errors.store(0, Relaxed);
        }
        enough
    }

    fn eject<'a>(
        &self,
        endpoint: &Endpoint,
        all: impl Iterator<Item = &'a Endpoint>,
        now: Duration,
    ) -> Option<Duration> {
        if endpoint.is_ejected(now) {
            return None;
        }
        // From here on it begins anew, whether it is left alone or not.
        endpoint.forget_failures();
        let (mut there, mut ejected) = (0_u64, 1_u64);
        for other in all {
            there += 1;
            ejected += u64::from(other.is_ejected(now));
        }
        if ejected * 100 > there * u64::from(self.most_ejected) {
            return None;
        }
        // It was well in between for so many intervals, and is forgiven as often.
        let well = now.saturating_sub(endpoint.ejected_until()).as_micros();
        let forgiven = well / self.interval.as_micros().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        let before = endpoint.ejections.load(Relaxed).saturating_sub(forgiven);
        let count = before.saturating_add(1);
        endpoint.ejections.store(count, Relaxed);
        let lasts = self.base.saturating_mul(count).min(self.base.max(LONGEST));
        endpoint.eject(now + lasts);
        Some(lasts)
    }
}

/// However often an endpoint was left alone before.
const LONGEST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::outliers;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// How many of these it takes.
    fn until_enough(outliers: &Outliers, outcomes: &[Outcome]) -> Option<usize> {
        let endpoint = Endpoint::new(Duration::ZERO);
        let mut outcomes = outcomes.iter();
        outcomes.position(|outcome| outliers.is_enough(&endpoint, *outcome))
    }

    #[test]
    fn failures_in_a_row_count_by_kind() {
        use Outcome::{Answered, Lost};
        let all = outliers();
        let mut gateway = all;
        (gateway.server_errors, gateway.gateway_errors) = (None, Some(2));
        let mut split = all;
        (split.split, split.local_failures) = (true, Some(2));
        let mut off = all;
        off.server_errors = None;
        for (outliers, outcomes, expected) in [
            (all, &[Answered(500), Lost, Answered(503)][..], Some(2)),
            (all, &[Answered(500), Answered(200), Lost, Lost], None),
            (all, &[Answered(499); 9], None),
            (off, &[Answered(500); 9], None),
            (gateway, &[Answered(500), Answered(502), Lost], Some(2)),
            (
                gateway,
                &[Answered(504), Answered(500), Answered(504)],
                None,
            ),
            (split, &[Lost, Answered(500), Lost, Answered(500)], None),
            (split, &[Answered(500), Lost, Lost], Some(2)),
        ] {
            assert_eq!(until_enough(&outliers, outcomes), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_same_one_is_left_alone_for_longer_and_is_forgiven() {
        let outliers = outliers();
        let endpoint = Endpoint::new(Duration::ZERO);
        let mut now = seconds(1);
        let mut lasts = Vec::new();
        let mut eject = |now| {
            let lasted = outliers.eject(&endpoint, [&endpoint].into_iter(), now);
            lasts.extend(lasted.map(|lasted| lasted.as_secs()));
            endpoint.ejected_until()
        };
        for _ in 0..12 {
            now = eject(now);
        }
        // Well for four intervals of ten seconds.
        now = eject(now + seconds(40));
        eject(now + seconds(1_000));
        let expected = [
            30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300, 270, 30,
        ];
        assert_eq!(lasts, expected);
    }

    #[test]
    fn never_too_many_are_left_alone() {
        let mut outliers = outliers();
        outliers.most_ejected = 50;
        let all = [(); 5].map(|()| Endpoint::new(Duration::ZERO));
        let ejected = |endpoint, now| outliers.eject(endpoint, all.iter(), now).is_some();
        let now = seconds(1);
        assert!(ejected(&all[0], now));
        // It is already.
        assert!(!ejected(&all[0], now));
        assert!(ejected(&all[1], now));
        assert!(!ejected(&all[2], now));
        // Those before are back.
        assert!(ejected(&all[2], seconds(31)));
        outliers.most_ejected = 19;
        assert!(outliers.eject(&all[4], all.iter(), seconds(99)).is_none());
    }
}
