//! The mesh in a cluster: objects in a real API server, tokens that it reviews, annotations that the agent writes there.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tulle_lab::{
    Access, Lab, LabSpec, Mesh, MeshConfig, PodSpec, cluster::Cluster, sandbox::Sandbox, wait_for,
};

use self::services::says;
use crate::{
    paths::STRICT,
    traffic::{Echo, Held, at, call, call_until_reached, call_until_refused, eventually},
    world::{CART, MODE, SOON, VISITOR, WEB},
};

pub(crate) mod operator;
pub(crate) mod replicas;
pub(crate) mod rotation;
pub(crate) mod routes;
pub(crate) mod services;
pub(crate) mod waypoints;

/// Labels, policies and their removal take effect, as from a folder, and the pods' objects say what became of them.
pub(crate) async fn followed(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    call(mesh.pod(CART), to).await?;
    ensure!(
        annotation(&mesh, WEB)?.is_none(),
        "it is not in the mesh yet"
    );
    let mut before = Held::open(mesh.pod(CART), to).await?;

    mesh.label_namespace("shop", MODE, "ambient").await?;
    for pod in [CART, WEB] {
        eventually("it is annotated", async || {
            annotation(&mesh, pod).is_ok_and(|found| found.as_deref() == Some("enabled"))
        })
        .await?;
    }
    before.ping().await?;
    call(mesh.pod(CART), to).await?;
    is_proven(&mesh, "node2", "src.identity", "cart").await?;

    mesh.apply(STRICT).await?;
    call_until_refused(mesh.pod(VISITOR), to).await?;
    call(mesh.pod(CART), to).await?;
    mesh.apply(&deny().to_string()).await?;
    call_until_refused(mesh.pod(CART), to).await?;
    mesh.remove("AuthorizationPolicy", "shop", "nobody").await?;
    call_until_reached(mesh.pod(CART), to).await?;

    // One that starts now, by the plugin.
    mesh.add_pod(PodSpec::new("shop/late", "node1")).await?;
    call(mesh.pod("shop/late"), to).await?;
    mesh.remove_pod("shop/late").await?;
    mesh.unlabel_namespace("shop", MODE).await?;
    eventually("it is no longer annotated", async || {
        annotation(&mesh, WEB).is_ok_and(|found| found.is_none())
    })
    .await?;
    call_until_reached(mesh.pod(VISITOR), to).await
}

/// A pod that cannot be in the mesh says why, where people look for it: among its events.
pub(crate) async fn told(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let on_the_node = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": "shop"},
        "spec": {
            "nodeName": "node1",
            "hostNetwork": true,
            "containers": [{"name": "app", "image": "none"}],
        },
    });
    let made = mesh.cluster().put(&on_the_node)?;
    let uid = made.pointer("/metadata/uid").context("no UID")?.clone();
    let events = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let told = async || {
        let events = mesh.cluster().get(events).ok()?;
        let mut events = events.get("items")?.as_array()?.iter();
        let is_it = |event: &&Value| event.pointer("/regarding/uid") == Some(&uid);
        events.find(is_it).cloned()
    };
    let event = wait_for("an event", SOON, told).await?;
    let note = event.get("note").and_then(Value::as_str);
    ensure!(note == Some("not capturable: hostNetwork"), "{event}");
    ensure!(event.get("type").is_some_and(|kind| kind == "Warning"));
    Ok(())
}

/// Whoever has the token of a node's agent says of that node's pods whether they are in the mesh, and nothing else of any pod.
pub(crate) async fn held_to_annotations(sandbox: Sandbox) -> Result<()> {
    let Some(mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = mesh.cluster();
    let agent = cluster.create(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": "istio-system"},
        "spec": {
            "serviceAccountName": "tulle-node",
            "nodeName": "node1",
            "containers": [{"name": "main", "image": "none"}],
        },
    }))?;
    let uid = agent.pointer("/metadata/uid").and_then(Value::as_str);
    let pod = Some(("agent", uid.context("no UID")?));
    let token = |pod| cluster.token("istio-system", "tulle-node", Cluster::AUDIENCE, pod);
    let (of_agent, of_nobody) = (token(pod)?, token(None)?);
    let pod = |name: &str| format!("/api/v1/namespaces/shop/pods/{name}");
    let status = |name: &str| format!("{}/status", pod(name));
    let redirection =
        json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "pending"}}});
    // The API server takes a moment to act on what it has just been given: who may do what, and what is admitted.
    eventually("the agent may say so", async || {
        let written = cluster.merge_as(&of_agent, &status("cart"), &redirection);
        written.is_ok()
    })
    .await?;
    eventually("the policy is in force", async || {
        let written = cluster.merge_as(&of_agent, &status("web"), &redirection);
        written.is_err_and(|refused| format!("{refused:#}").contains("of that node only"))
    })
    .await?;
    let label = json!({"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}});
    let owner = json!({"metadata": {"finalizers": ["example.com/stays"]}});
    for (token, path, change, why) in [
        (
            &of_agent,
            status("web"),
            &redirection,
            "of the pods of that node only",
        ),
        (
            &of_nobody,
            status("cart"),
            &redirection,
            "of the pods of that node only",
        ),
        (
            &of_agent,
            status("cart"),
            &json!({"status": {"message": "m"}}),
            "changes no status",
        ),
        (&of_agent, status("cart"), &label, "neither labels"),
        (&of_agent, status("cart"), &owner, "nor finalizers"),
        (
            &of_agent,
            status("cart"),
            &json!({"metadata": {"annotations": {"example.com/a": "b"}}}),
            "changes no other annotation",
        ),
        (&of_agent, pod("cart"), &label, "cannot patch resource"),
    ] {
        let written = cluster.merge_as(token, &path, change);
        let Err(refused) = written else {
            bail!("{path} took {change}");
        };
        ensure!(format!("{refused:#}").contains(why), "{refused:#}");
    }
    Ok(())
}

/// `verify-sa-for-gateway-secrets`, CVE-2021-34824: nobody of the mesh reads Secrets, but the control plane the one with its own key.
pub(crate) async fn reads_no_secrets(sandbox: Sandbox) -> Result<()> {
    let Some(mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = mesh.cluster();
    for namespace in ["shop", "istio-system"] {
        cluster.put(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "tls", "namespace": namespace},
            "stringData": {"tls.key": "private"},
        }))?;
    }
    let own = "/api/v1/namespaces/istio-system/secrets/istio-ca-secret";
    cluster.get(own)?;
    for account in ["tulled", "tulle-node", "ztunnel"] {
        let token = cluster.token("istio-system", account, Cluster::AUDIENCE, None)?;
        for path in [
            "/api/v1/secrets",
            "/api/v1/namespaces/shop/secrets",
            "/api/v1/namespaces/shop/secrets/tls",
            "/api/v1/namespaces/istio-system/secrets/tls",
        ] {
            let Err(refused) = cluster.get_as(&token, path) else {
                bail!("{account} may read {path}");
            };
            let refused = format!("{refused:#}");
            ensure!(
                refused.contains("secrets") && refused.contains("cannot"),
                "{refused}"
            );
        }
        let reads_own = cluster.get_as(&token, own).is_ok();
        ensure!(reads_own == (account == "tulled"), "{account}: {reads_own}");
    }
    Ok(())
}

/// A pod starts in the mesh although its node's agent has not been told of it: it is asked for.
pub(crate) async fn asked_for(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    // The agents may get single objects only, and are told of no others.
    mesh.cluster().put(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "tulle-node"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
        ],
    }))?;
    mesh.cluster().server().await.restart().await?;
    mesh.cluster().wait_ready().await?;
    mesh.start_pod(PodSpec::new("shop/late", "node1")).await?;
    mesh.check_pod("shop/late").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    call(mesh.pod("shop/late"), at(mesh.pod(WEB))).await?;
    is_proven(&mesh, "node2", "src.identity", "late").await
}

/// An API server that goes and comes back, or a control plane, changes nothing of what is known, and loses nothing.
pub(crate) async fn interrupted(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    let mut held = Held::open(mesh.pod(CART), to).await?;

    mesh.cluster().server().await.kill().await?;
    held.ping().await?;
    call(mesh.pod(CART), to).await?;
    mesh.cluster().server().await.restart().await?;
    mesh.cluster().wait_ready().await?;
    mesh.apply(&deny().to_string()).await?;
    call_until_refused(mesh.pod(CART), to).await?;
    mesh.remove("AuthorizationPolicy", "shop", "nobody").await?;
    call_until_reached(mesh.pod(CART), to).await?;

    let mut held = Held::open(mesh.pod(CART), to).await?;
    let control_plane = mesh.control_plane();
    control_plane.process_mut().kill().await?;
    for _ in 0..CALLS {
        held.ping().await?;
        call(mesh.pod(CART), to).await?;
    }
    mesh.cluster().put(&deny())?;
    let control_plane = mesh.control_plane();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(SOON).await?;
    call_until_refused(mesh.pod(CART), to).await
}

/// What the control plane missed for so long that the API server has forgotten it is found out by listing again.
pub(crate) async fn expired(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await?;
    // So that the last change of a policy is not its status, written after what is to be missed.
    says(mesh.cluster(), DENIED, ACCEPTED).await?;
    mesh.control_plane().process_mut().signal(Signal::SIGSTOP)?;
    // Of another kind, so that those who follow policies are behind without having been told anything.
    let change = json!({"metadata": {"labels": {"colour": "blue"}}});
    mesh.cluster().merge("/api/v1/namespaces/out", &change)?;
    // One that starts now remembers nothing from before.
    mesh.cluster().server().await.kill().await?;
    mesh.cluster().server().await.restart().await?;
    mesh.cluster().wait_ready().await?;
    // Before it serves the kind, it says that there is none.
    says(mesh.cluster(), DENIED, ACCEPTED).await?;
    mesh.cluster().delete(&deny())?;
    ensure!(call(mesh.pod(CART), to).await.is_err(), "nobody told of it");
    mesh.control_plane().process_mut().signal(Signal::SIGCONT)?;
    call_until_reached(mesh.pod(CART), to).await?;
    let log = mesh.control_plane().process_mut().log();
    ensure!(log.contains("too much was missed"), "it was not missed");
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await
}

/// A store that does not answer for a while holds up what changes, and nothing else; with a slow one, all changes arrive.
pub(crate) async fn slow_store(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    let mut held = Held::open(mesh.pod(CART), to).await?;
    mesh.cluster().etcd().await.signal(Signal::SIGSTOP)?;
    // The API server, asked by others than us, waits as well.
    let change = json!({"metadata": {"labels": {"colour": "blue"}}});
    let changed = mesh
        .cluster()
        .merge("/api/v1/namespaces/shop?timeout=3s", &change);
    ensure!(changed.is_err(), "the store answers");
    held.ping().await?;
    call(mesh.pod(CART), to).await?;
    mesh.cluster().etcd().await.signal(Signal::SIGCONT)?;
    mesh.cluster().wait_ready().await?;
    held.ping().await?;
    let etcd = mesh.cluster().etcd().await.pid().context("a store")?;
    let _slow = Command::new("sh")
        .args(["-c", HALF_THE_TIME, "sh", &etcd.to_string()])
        .kill_on_drop(true)
        .spawn()?;
    for _ in 0..3 {
        mesh.cluster().put(&deny())?;
        call_until_refused(mesh.pod(CART), to).await?;
        mesh.cluster().delete(&deny())?;
        call_until_reached(mesh.pod(CART), to).await?;
    }
    Ok(())
}

/// Where an earlier version of a kind is all that is served, its objects count, and say what became of them.
pub(crate) async fn earlier_versions(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.security.istio.io";
    let defined = mesh.cluster().get(definition)?;
    let mut stored = defined["spec"]["versions"][0].clone();
    let mut earlier = stored.clone();
    stored["served"] = false.into();
    earlier["storage"] = false.into();
    earlier["name"] = "v1beta1".into();
    let change = json!({"spec": {"versions": [&stored, &earlier]}});
    mesh.cluster().merge(definition, &change)?;
    let mut policy = deny();
    policy["apiVersion"] = json!("security.istio.io/v1beta1");
    // What a definition says is served a moment later.
    let put = async || mesh.cluster().put(&policy).is_ok();
    eventually("the earlier version is served", put).await?;
    call_until_refused(mesh.pod(CART), to).await?;
    let path = "/apis/security.istio.io/v1beta1/namespaces/shop/authorizationpolicies/nobody";
    says(mesh.cluster(), path, "ZtunnelAccepted True Accepted").await?;
    // The definition is brought up to date.
    stored["served"] = true.into();
    earlier["served"] = false.into();
    let change = json!({"spec": {"versions": [&stored, &earlier]}});
    mesh.cluster().merge(definition, &change)?;
    let deleted = async || mesh.cluster().delete(&deny()).is_ok();
    eventually("the later version is served", deleted).await?;
    call_until_reached(mesh.pod(CART), to).await?;
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await
}

/// A kind whose definition is removed takes its objects with it, and counts again once it is back.
pub(crate) async fn kinds_come_and_go(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await?;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "authorizationpolicies.security.istio.io"},
    });
    mesh.cluster().delete(&definition)?;
    call_until_reached(mesh.pod(CART), to).await?;
    // A control plane that starts now waits for nothing.
    let control_plane = mesh.control_plane();
    control_plane.process_mut().restart().await?;
    control_plane.wait_ready(SOON).await?;
    call(mesh.pod(CART), to).await?;
    mesh.cluster().prepare().await?;
    mesh.cluster().put(&deny())?;
    call_until_refused(mesh.pod(CART), to).await
}

/// What is written as nothing, or in words that nobody knows, is no permission.
pub(crate) async fn half_written(sandbox: Sandbox) -> Result<()> {
    let Some(mut mesh) = start(&sandbox).await? else {
        return Ok(());
    };
    mesh.label_namespace("shop", MODE, "ambient").await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = at(mesh.pod(WEB));
    call(mesh.pod(CART), to).await?;
    for rule in [
        json!({"from": null}),
        json!({"from": [{"source": null}]}),
        json!({"from": [{"source": {"namespaces": ["shop"], "notYetKnown": ["x"]}}]}),
        json!({"when": null}),
    ] {
        let policy = json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "half", "namespace": "shop"},
            "spec": {"action": "ALLOW", "rules": [rule]},
        });
        // That the API server takes none of it is as good.
        if let Err(error) = mesh.cluster().create(&policy) {
            ensure!(format!("{error:#}").contains("422"), "{error:#}");
            continue;
        }
        let refused = call_until_refused(mesh.pod(CART), to).await;
        refused.with_context(|| rule.to_string())?;
        mesh.cluster().delete(&policy)?;
        call_until_reached(mesh.pod(CART), to).await?;
    }
    Ok(())
}

/// Three pods on two nodes, none in the mesh. None where there is no API server to be had.
pub(super) async fn start(sandbox: &Sandbox) -> Result<Option<Mesh>> {
    start_with(sandbox, |_| ()).await
}

/// The same with another configuration.
pub(super) async fn start_with(
    sandbox: &Sandbox,
    configure: impl FnOnce(&mut MeshConfig),
) -> Result<Option<Mesh>> {
    if Cluster::programs().is_none() {
        println!("skipped: it takes what `scripts/peers.sh kubernetes` provides");
        return Ok(None);
    }
    let lab = Lab::create(sandbox, &LabSpec::default()).await?;
    let mut config = MeshConfig {
        kubernetes: true,
        ..MeshConfig::new()?
    };
    configure(&mut config);
    let mut mesh = Mesh::start(lab, config).await?;
    for (pod, node) in [(CART, "node1"), (VISITOR, "node1"), (WEB, "node2")] {
        mesh.add_pod(PodSpec::new(pod, node)).await?;
    }
    Ok(Some(mesh))
}

/// Waits until the proxy of the client has seen this identity on one side of a connection.
pub(super) async fn is_proven(mesh: &Mesh, node: &str, side: &str, account: &str) -> Result<()> {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let proven = |line: &Access| line.is(side, &identity);
    let waited = mesh
        .ztunnel(node)
        .wait_for_access("an identity", SOON, proven);
    waited.await.map(drop)
}

/// What the agent has written to a pod's object.
fn annotation(mesh: &Mesh, pod: &str) -> Result<Option<String>> {
    let (namespace, name) = pod.split_once('/').context("no namespace")?;
    let object = mesh
        .cluster()
        .get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))?;
    let annotation = object.pointer("/metadata/annotations/ambient.istio.io~1redirection");
    Ok(annotation.and_then(Value::as_str).map(str::to_owned))
}

fn deny() -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{}]},
    })
}

/// Where [`deny`] is, and what it says once it is in order.
const DENIED: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/nobody";
const ACCEPTED: &str = "ZtunnelAccepted True Accepted";
const CALLS: usize = 20;
/// Lets a process work for half of the time.
const HALF_THE_TIME: &str = "while kill -STOP $1 && sleep 0.1 && kill -CONT $1; do sleep 0.1; done";
