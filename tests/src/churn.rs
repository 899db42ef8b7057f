//! Pods that come and go, twenty a second.

use std::{collections::VecDeque, time::Duration};

use anyhow::Result;
use tokio::{task::JoinSet, time::interval};
use tulle_lab::{Mesh, PodSpec};

/// Adds `count` pods called `<namespace>/<name>-<number>` on `node1` and `node2` in turn, and removes each when `alive` later
/// ones are there, the last ones at the end. Returns how long the mesh's plugin took for each, in no order.
///
/// # Errors
/// When a pod cannot be added or removed.
pub async fn churn(
    mesh: &mut Mesh,
    name: &str,
    count: usize,
    alive_at_a_time: usize,
) -> Result<Vec<Duration>> {
    let (mut alive, mut lasted) = (VecDeque::new(), Vec::new());
    let (mut starting, mut stopping) = (JoinSet::new(), JoinSet::new());
    let mut tick = interval(BETWEEN);
    for number in 0..count {
        tick.tick().await;
        let pod = format!("{name}-{number}");
        let node = if number % 2 == 0 { "node1" } else { "node2" };
        let start = mesh.starting(PodSpec::new(&pod, node))?;
        starting.spawn(async move { start.await.map(|lasted| (pod, lasted)) });
        while let Some(started) = starting.try_join_next() {
            let (pod, took) = started??;
            alive.push_back(pod);
            lasted.push(took);
        }
        if alive.len() > alive_at_a_time {
            stop(mesh, &mut stopping, alive.pop_front())?;
        }
        while let Some(stopped) = stopping.try_join_next() {
            mesh.forget_pod(&stopped??)?;
        }
    }
    while let Some(started) = starting.join_next().await {
        let (pod, took) = started??;
        alive.push_back(pod);
        lasted.push(took);
    }
    for pod in alive {
        tick.tick().await;
        stop(mesh, &mut stopping, Some(pod))?;
    }
    while let Some(stopped) = stopping.join_next().await {
        mesh.forget_pod(&stopped??)?;
    }
    Ok(lasted)
}

fn stop(
    mesh: &mut Mesh,
    stopping: &mut JoinSet<Result<String>>,
    pod: Option<String>,
) -> Result<()> {
    let Some(pod) = pod else { return Ok(()) };
    let stop = mesh.stopping(&pod)?;
    stopping.spawn(async move { stop.await.map(|()| pod) });
    Ok(())
}

const BETWEEN: Duration = Duration::from_millis(50);
