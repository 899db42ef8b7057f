//! What the mesh costs here, measured like the first chapter: same pods, same programs.

use std::time::Duration;

use anyhow::{Context, Result};

use super::super::{
    tale::{Tale, human},
    world::{Cost, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let meshed = world.measure("mesh").await?;
    let plain = world
        .plain
        .as_ref()
        .context("there is nothing to compare with")?;
    tale.evidence("without", plain.describe());
    tale.evidence("with the mesh", meshed.describe());
    let failed = plain.requests.failed + meshed.requests.failed;
    let change = |of: fn(&Cost) -> u64| format!("{} → {}", micros(of(plain)), micros(of(&meshed)));
    let latency = format!(
        "p50 {}, p99 {}",
        change(|cost| cost.requests.p50_us),
        change(|cost| cost.requests.p99_us)
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
            "these are development builds; release builds cost less",
        );
    }
    Ok(())
}

impl Cost {
    /// The figures in one line.
    pub(super) fn describe(&self) -> String {
        format!(
            "{} requests at 500/s: p50 {}, p99 {}; bulk {:.1} Gbit/s",
            self.requests.succeeded,
            micros(self.requests.p50_us),
            micros(self.requests.p99_us),
            self.bulk.megabits_per_second / 1e3
        )
    }
}

fn micros(micros: u64) -> String {
    human(Duration::from_micros(micros))
}
