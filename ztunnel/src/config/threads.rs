//! How many data-plane threads.

use std::num::NonZeroUsize;

use tulle_environment::{ConfigError, ProxyConfig, Variables};

/// What is asked for, in this order: `ZTUNNEL_WORKER_THREADS`, `concurrency`, what Kubernetes grants, a quarter of the
/// processors but at least one.
///
/// One thread keeps about one processor busy, with tens of thousands of requests per second; and each costs memory, a
/// listener in every pod and a pool that shares nothing. So a node that has not said otherwise gives its mesh a quarter
/// of its processors, and the pods the rest.
pub(super) fn workers(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
    cores: NonZeroUsize,
) -> Result<NonZeroUsize, ConfigError> {
    let cores = variables.processors("ZTUNNEL_CPU_LIMIT")?.unwrap_or(cores);
    let expected =
        "a number up to 1024 (0 for one per processor) or a percentage of the processors";
    let asked = variables.parse("ZTUNNEL_WORKER_THREADS", expected, |text| {
        count(text, cores)
    })?;
    let limit = variables.processors("ZTUNNEL_RESOURCE_CPU_LIMIT")?;
    let request = variables.processors("ZTUNNEL_RESOURCE_CPU_REQUEST")?;
    let quarter = share(25, cores);
    let granted = limit
        .unwrap_or(quarter)
        .max(request.unwrap_or(NonZeroUsize::MIN));
    let configured = defaults.concurrency.map(|threads| match threads {
        0 => cores,
        threads => NonZeroUsize::MIN.saturating_add(usize::from(threads) - 1),
    });
    Ok(asked.or(configured).unwrap_or(granted.min(cores)).min(MOST))
}

fn count(text: &str, cores: NonZeroUsize) -> Option<NonZeroUsize> {
    if let Some(percentage) = text.strip_suffix('%') {
        let percentage = percentage.parse().ok()?;
        return (1..=100)
            .contains(&percentage)
            .then(|| share(percentage, cores));
    }
    match text.parse().ok()? {
        0 => Some(cores),
        threads => NonZeroUsize::new(threads).filter(|&threads| threads <= MOST),
    }
}

/// Rounded up.
fn share(percentage: usize, cores: NonZeroUsize) -> NonZeroUsize {
    let share = cores.get().saturating_mul(percentage).div_ceil(100);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

const MOST: NonZeroUsize = NonZeroUsize::new(1024).expect("is not zero");
