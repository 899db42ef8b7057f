//! Another root of trust, while everybody goes on.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Mesh, sandbox::Sandbox, wait_for};

use super::{
    replicas::{SECOND, holder, is_ready, start_second},
    start_with,
};
use crate::{
    traffic::{Echo, Held, at, call, call_until_reached},
    world::{CART, MODE, SOON, WEB},
};

/// A new root comes into use and the old one goes, though another replica has to end what one has begun: no connection breaks, and
/// none is refused.
pub(crate) async fn rotated(sandbox: Sandbox) -> Result<()> {
    let started = start_with(&sandbox, |config| {
        config.certificate_lifetime = Some(LIFETIME);
        config.root_overlap = Some(OVERLAP);
    });
    let Some(mut mesh) = started.await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    let mut held = Held::open(mesh.pod(CART), to).await?;
    let file = mesh.control_plane().root();
    let first = roots(&mesh, "shop")?;

    let ask = json!({"metadata": {"annotations": {"tulle.io/rotate-root": "now"}}});
    mesh.cluster().merge(SECRET, &ask)?;
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let flags = ["--root-overlap".into(), seconds(OVERLAP)].into_iter();
    let flags = flags.chain(["--cert-ttl-max".into(), seconds(LIFETIME)]);
    let flags: Vec<String> = flags.collect();
    let mut trusted = BTreeSet::from([first.clone()]);
    let mut second = None;
    loop {
        held.ping().await?;
        call(mesh.pod(CART), to).await?;
        let now = roots(&mesh, "shop")?;
        // A kubelet does it for the volumes of pods.
        fs::write(&file, &now)?;
        trusted.insert(now);
        if trusted.len() == 2 && second.is_none() {
            second = Some(start_second(&mesh, &flags)?);
            hand_over(&mesh).await?;
        }
        if trusted.len() == STEPS && is_over(&mesh)? {
            break;
        }
    }
    ensure!(holder(&mesh)? == SECOND, "nothing was handed over");
    let second = second.context("there was no second replica")?;
    ensure!(
        second.log().contains("this replica writes"),
        "it has not written"
    );
    drop(second);
    let certificates = |pem: &str| pem.matches("BEGIN CERTIFICATE").count();
    let last = roots(&mesh, "shop")?;
    ensure!(certificates(&first) == 1 && certificates(&last) == 1 && first != last);
    let both = trusted.iter().find(|pem| certificates(pem) == 2);
    let both = both.context("they were never trusted together")?;
    ensure!(both.contains(first.trim()) && both.contains(last.trim()));

    // Proxies that know of nothing before, against those that went through all of it.
    held.ping().await?;
    for node in ["node1", "node2"] {
        mesh.ztunnel_mut(node).process_mut().restart().await?;
        mesh.ztunnel_mut(node).wait_ready(SOON).await?;
        call_until_reached(mesh.pod(CART), to).await?;
    }
    // And a control plane that starts with what is in the Secret.
    let control_plane = mesh.control_plane();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(SOON).await?;
    mesh.ztunnel_mut("node1").process_mut().restart().await?;
    mesh.ztunnel_mut("node1").wait_ready(SOON).await?;
    call_until_reached(mesh.pod(CART), to).await?;
    ensure!(roots(&mesh, "shop")? == last);
    deleted(&mut mesh).await
}

/// Another replica has the lease from now on, as if it had taken it; the one that serves the proxies goes on serving.
async fn hand_over(mesh: &Mesh) -> Result<()> {
    is_ready(mesh).await?;
    let taken = json!({"spec": {"holderIdentity": SECOND}});
    mesh.cluster().merge(LEASE, &taken)?;
    Ok(())
}

/// Without the Secret nothing changes for as long as a replica runs, and it says what to do.
async fn deleted(mesh: &mut Mesh) -> Result<()> {
    let secret = mesh.cluster().get(SECRET)?;
    mesh.cluster().delete(&secret)?;
    let process = mesh.control_plane().process_mut();
    let told = async || {
        let log = process.log();
        log.contains("istio-ca-secret is gone").then_some(())
    };
    wait_for("that it says so", SOON, told).await?;
    // One that has no certificates yet.
    mesh.ztunnel_mut("node1").process_mut().restart().await?;
    mesh.ztunnel_mut("node1").wait_ready(SOON).await?;
    call_until_reached(mesh.pod(CART), at(mesh.pod(WEB))).await
}

/// Whether nothing is left of the rotation in the Secret.
fn is_over(mesh: &Mesh) -> Result<bool> {
    let secret = mesh.cluster().get(SECRET)?;
    let data = secret.get("data").and_then(Value::as_object);
    let data = data.context("no data")?;
    let annotations = secret.pointer("/metadata/annotations");
    let annotations = annotations.and_then(Value::as_object);
    let begun = annotations.is_some_and(|all| all.keys().any(|key| key.contains("root")));
    Ok(data.len() == 4 && !begun)
}

fn roots(mesh: &Mesh, namespace: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/istio-ca-root-cert");
    let found = mesh.cluster().get(&path)?;
    let roots = found.pointer("/data/root-cert.pem").and_then(Value::as_str);
    Ok(roots.context("no roots")?.to_owned())
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/istio-system/leases/tulled";
const SECRET: &str = "/api/v1/namespaces/istio-system/secrets/istio-ca-secret";
/// Of certificates, which are renewed at half of it.
const LIFETIME: Duration = Duration::from_secs(6);
/// A replica looks at the Secret each 5 s.
const OVERLAP: Duration = Duration::from_secs(14);
/// The old root, both, the new one.
const STEPS: usize = 3;
