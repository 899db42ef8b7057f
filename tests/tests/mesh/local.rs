//! A local file beside the control plane.

use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use tulle_lab::{Pod, sandbox::Sandbox};

use crate::{
    traffic::{Echo, call, call_until_reached, eventually},
    world::{self, CART, LEGACY, SERVICE_PORT, WEB},
};

/// It adds to what the control plane says, a change of it arrives, and a broken one changes nothing.
pub(crate) async fn file_is_reloaded(sandbox: Sandbox) -> Result<()> {
    let path = sandbox.dir().join("local.yaml");
    fs::write(&path, "{}\n")?;
    let mesh = world::start_with(&sandbox, |config| {
        let path = path.to_string_lossy().into_owned();
        config.ztunnel_env.push(("LOCAL_XDS_PATH".into(), path));
    })
    .await?;
    let legacy = mesh.pod(LEGACY);
    let (one, two) = (Echo::on(legacy, 7001)?, Echo::on(legacy, 7002)?);
    let _web = Echo::start(mesh.pod(WEB))?;
    let to: SocketAddr = "10.96.201.1:80".parse()?;
    ensure!(
        call(mesh.pod(CART), to).await.is_err(),
        "reached before it exists"
    );

    fs::write(&path, service(legacy, to, 7001))?;
    call_until_reached(mesh.pod(CART), to).await?;
    ensure!(one.accepted() > 0 && two.accepted() == 0);

    // As an editor or a mounted volume replaces it.
    let next = path.with_extension("next");
    fs::write(&next, service(legacy, to, 7002))?;
    fs::rename(&next, &path)?;
    eventually("the new port is called", async || {
        call(mesh.pod(CART), to).await.is_ok() && two.accepted() > 0
    })
    .await?;

    fs::write(&path, "services: [{nonsense: true}]\n")?;
    eventually("the broken file is reported", async || {
        let log = mesh.ztunnel("node1").process().log();
        log.lines()
            .any(|line| line.contains("local.yaml") && line.contains("nonsense"))
    })
    .await?;
    let before = two.accepted();
    call(mesh.pod(CART), to).await?;
    ensure!(
        two.accepted() == before + 1,
        "the last good version is lost"
    );
    let web = (mesh.lab().service(WEB).ip(), SERVICE_PORT).into();
    call(mesh.pod(CART), web).await
}

/// A service at `to` in front of a port of a pod outside the mesh.
fn service(pod: &Pod, to: SocketAddr, port: u16) -> String {
    let (vip, service_port, ip) = (to.ip(), to.port(), pod.ip());
    format!(
        "
services:
- name: local
  namespace: shop
  hostname: local.shop.svc.cluster.local
  vips: [/{vip}]
  ports: {{{service_port}: {port}}}
workloads:
- uid: local-endpoint
  name: local-endpoint
  namespace: out
  workloadIps: [{ip}]
  protocol: TCP
  services: {{shop/local.shop.svc.cluster.local: {{{service_port}: {port}}}}}
"
    )
}
