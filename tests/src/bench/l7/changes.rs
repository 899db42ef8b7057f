//! How soon requests follow a route that has changed: from before its file is written, over the control plane, to the first response that
//! shows it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use super::{SERVICE, ask};
use crate::{
    report::{Mode, Samples},
    stage::Stage,
};

pub(super) async fn measure(stage: &mut Stage, samples: &mut Samples) -> Result<()> {
    let mut lasted = Vec::new();
    for number in 0..CHANGES {
        let wanted = format!("x-version: v{number}\r\n");
        let began = Instant::now();
        stage.mesh_mut().apply(&route(number)).await?;
        while !ask(stage, "/change").await?.contains(&wanted) {
            ensure!(began.elapsed() < PATIENCE, "a change is not followed");
        }
        lasted.push(began.elapsed());
    }
    lasted.sort();
    for (figure, share) in [("l7_change_p50", 50), ("l7_change_p99", 99)] {
        let value = lasted.get(lasted.len() * share / 100);
        let value = value.context("nothing was changed")?.as_secs_f64() * 1000.0;
        samples.add(figure, Mode::Mesh, value);
        eprintln!("{figure}: {value:.1} ms");
    }
    stage
        .mesh_mut()
        .remove("HTTPRoute", "bench", "change")
        .await
}

fn route(number: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: change, namespace: bench}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web}}]
  rules:
  - matches: [{{path: {{value: /change}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-version, value: v{number}}}]}}}}]
    backendRefs: [{{name: web, port: {}}}]
",
        SERVICE.1
    )
}

const CHANGES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);
