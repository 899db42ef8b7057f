//! The namespaces are labelled, and nothing else happens to the applications.

use anyhow::{Result, ensure};
use tokio::time::Instant;
use tulle_lab::{
    Flow, PodSpec,
    capture::{ContentType, records},
};

use super::super::{
    tale::{Tale, human},
    world::{CART, LABEL, SECRET, World},
};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let servers = world.server_pids();
    let mut open_before = world.open(CART).await?;
    open_before.ask().await?;

    let started = Instant::now();
    for namespace in ["shop", "tools"] {
        world
            .mesh
            .label_namespace(namespace, LABEL, "ambient")
            .await?;
    }
    let took = human(started.elapsed());
    tale.evidence(
        "label",
        format!("namespaces shop and tools: {LABEL}=ambient, in effect after {took}"),
    );

    let capture = world.capture().await?;
    let answer = world.ask(CART).await?;
    let flows = capture.finish().await?;
    tale.evidence(
        "request",
        format!(
            "{CART} → http://{}/checkout, answered by {}",
            world.web(),
            answer.server
        ),
    );
    tale.evidence(
        "server sees",
        format!("client {}, as before", answer.client),
    );
    tale.claim(
        "labelled: same request, same answer, same client address",
        answer.client == world.ip(CART),
    );

    show(&flows, tale)?;
    let survived = open_before.ask().await;
    if let Err(error) = &survived {
        tale.evidence("old connection", format!("{error:#}"));
    }
    let untouched = survived.is_ok() && world.server_pids() == servers;
    tale.claim(
        "no restart: same processes, and open connections go on",
        untouched,
    );
    start_another(world, tale).await
}

/// A pod that is made from here on: the runtime starts its containers once the plugin says so.
async fn start_another(world: &mut World, tale: &mut Tale) -> Result<()> {
    let held_back = world
        .mesh
        .start_pod(PodSpec::new(NEWCOMER, "node1"))
        .await?;
    let outcome = [("outcome", "enrolled")];
    let counted = world.mesh.agent_mut("node1").metrics().await?;
    let enrolled = counted.sum("tulle_node_add_duration_seconds_count", &outcome);
    let checked = world.mesh.check_pod(NEWCOMER).await;
    tale.evidence(
        "new pod",
        format!(
            "{NEWCOMER}, held back {} by tulle-cni until redirection and ztunnel were there",
            human(held_back)
        ),
    );
    tale.claim(
        "new pods: in the mesh before their first packet",
        enrolled == 1.0 && checked.is_ok(),
    );
    world.mesh.remove_pod(NEWCOMER).await
}

fn show(flows: &[Flow], tale: &mut Tale) -> Result<()> {
    let talking: Vec<&Flow> = flows
        .iter()
        .filter(|flow| !flow.payload.is_empty())
        .collect();
    ensure!(!talking.is_empty(), "nothing was seen on the link");
    for flow in &talking {
        tale.evidence("on the link", describe(flow));
    }
    let to_tunnel = talking
        .iter()
        .any(|flow| flow.destination.port() == HBONE_PORT);
    let all_tls = talking.iter().all(|flow| records(&flow.payload).is_some());
    tale.claim(
        "encrypted: every byte on the link is TLS, over HBONE",
        to_tunnel && all_tls,
    );
    let readable = flows.iter().any(|flow| flow.contains(SECRET.as_bytes()));
    tale.claim(
        "encrypted: the request is not in the captured bytes",
        !readable,
    );
    Ok(())
}

fn describe(flow: &Flow) -> String {
    let ends = format!(
        "{} → {}: {} bytes",
        flow.source, flow.destination, flow.bytes
    );
    match records(&flow.payload) {
        Some(records) => {
            let encrypted = records
                .iter()
                .filter(|record| record.content == ContentType::ApplicationData);
            format!(
                "{ends}, {} TLS records, {} of them encrypted",
                records.len(),
                encrypted.count()
            )
        }
        None => format!(
            "{ends}, not TLS: {:?}",
            String::from_utf8_lossy(flow.payload.get(..32).unwrap_or(&flow.payload))
        ),
    }
}

const NEWCOMER: &str = "shop/newcomer";
const HBONE_PORT: u16 = 15008;
