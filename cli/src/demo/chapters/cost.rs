//! What the mesh costs here, measured like the first chapter: same pods, same programs.

use anyhow::{Context, Result};

use super::super::{
    tale::{Tale, human},
    world::{Cost, World},
};
use std::time::Duration;

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let meshed = world.measure("mesh").await?;
    let plain = world
        .plain
        .as_ref()
        .context("there is nothing to compare with")?;
    tale.evidence("without", plain.describe());
    tale.evidence("with the mesh", meshed.describe());
    let failed = plain.requests.failed + meshed.requests.failed;
    let added =
        |of: fn(&Cost) -> u64| human(Duration::from_micros(of(&meshed).saturating_sub(of(plain))));
    let latency = format!(
        "p50 +{}, p99 +{}",
        added(|cost| cost.requests.p50_us),
        added(|cost| cost.requests.p99_us)
    );
    tale.claim_with(
        "cost: latency measured, no request failed",
        failed == 0 && meshed.requests.succeeded > 0,
        latency,
    );
    let ratio = meshed.bulk.megabits_per_second / plain.bulk.megabits_per_second;
    tale.claim_with(
        "cost: throughput measured, every byte arrived",
        ratio.is_finite() && ratio > 0.0,
        format!("{ratio:.2} of plain"),
    );
    if cfg!(debug_assertions) {
        tale.evidence(
            "note",
            "these are development builds; `make demo` measures release builds",
        );
    }
    Ok(())
}

impl Cost {
    /// The figures in one line.
    pub(super) fn describe(&self) -> String {
        let micros = |us| human(Duration::from_micros(us));
        format!(
            "{} requests at 500/s: p50 {}, p99 {}; bulk {:.1} Gbit/s",
            self.requests.succeeded,
            micros(self.requests.p50_us),
            micros(self.requests.p99_us),
            self.bulk.megabits_per_second / 1e3
        )
    }
}
