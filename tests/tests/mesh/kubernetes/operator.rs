//! `tulle` against a real API server: installing, checking, waypoints and removing, as an operator does it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Process, sandbox::Sandbox};

use self::{
    controllers::Controllers,
    runner::{Operator, SERVICE},
};
use super::waypoints::{class, condition, path_of_class};
use crate::traffic::{eventually, settles_at};

mod controllers;
mod runner;

/// What is installed works, installing again changes nothing, what others changed is told of, and purging leaves nothing.
pub(crate) async fn installs_and_leaves_nothing(sandbox: Sandbox) -> Result<()> {
    let Some(operator) = Operator::start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = &operator.cluster;
    cluster.define_gateway_api().await?;
    cluster.put(&class("mine", "tulle.io/mesh-controller"))?;
    let before = operator.everything()?;
    let shop = operator.service()?;

    let planned = operator.tulle(&["install", "--dry-run"]).await?;
    planned.succeeds("nothing was changed")?;
    ensure!(
        operator.everything()? == before,
        "a dry run has changed something"
    );
    for platform in ["gke", "k3d", "k3s", "microk8s", "minikube", "openshift"] {
        let arguments = ["install", "--dry-run", "--platform", platform];
        let planned = operator.tulle(&arguments).await?;
        planned
            .succeeds("nothing was changed")
            .with_context(|| platform.to_owned())?;
    }
    let checked = operator.tulle(&["check"]).await?;
    checked.fails("Tulle is not installed in this cluster")?;

    let registry = [
        "install",
        "--image-registry",
        "registry.example/mesh",
        "--timeout",
        "30s",
    ];
    let mut controllers = Controllers::of(cluster);
    let installed = controllers.beside(operator.tulle(&registry)).await?;
    installed.succeeds("is installed in namespace istio-system and ready")?;
    let agent = cluster.get(AGENT)?;
    let image = agent.pointer("/spec/template/spec/containers/0/image");
    let expected = format!(
        "registry.example/mesh/tulle-node:{}",
        env!("CARGO_PKG_VERSION")
    );
    ensure!(image == Some(&json!(expected)), "{image:?}");
    let control_plane = operator.control_plane()?;
    let checked = operator
        .tulle(&["check", "--wait", "--timeout", "40s"])
        .await?;
    checked.succeeds("The mesh works: 1 pod in it on 2 nodes")?;

    let accepted = || condition(cluster, &path_of_class("mine"), "Accepted");
    let is_accepted = || accepted().is_some_and(|(status, _)| status == "True");
    eventually("the user's class is accepted", async || is_accepted()).await?;
    // What objects ask for and do not get is told of, by what the control plane says of them.
    cluster.merge(
        SERVICE,
        &json!({"metadata": {"labels": {"istio.io/use-waypoint": "none-such"}}}),
    )?;
    eventually("its status says so", async || {
        let service = cluster.get(SERVICE).ok();
        service.is_some_and(|service| service.pointer("/status/conditions/0").is_some())
    })
    .await?;
    let checked = operator.tulle(&["check", "-o", "json"]).await?;
    checked.fails("Service shop/web is not served by its waypoint")?;
    let report: Value = serde_json::from_str(&checked.stdout)?;
    ensure!(report.get("ok") == Some(&json!(false)), "{report}");
    cluster.merge(
        SERVICE,
        &json!({"metadata": {"labels": {"istio.io/use-waypoint": null}}}),
    )?;

    // The second time, images come from where the first one had them.
    let again = controllers
        .beside(operator.tulle(&["install", "--timeout", "30s"]))
        .await?;
    again.succeeds("nothing had to be changed")?;
    tampered(&operator, &mut controllers).await?;
    removed(&operator, &mut controllers, control_plane).await?;

    // The API server forgets of itself which kinds it served.
    let everything = async || operator.everything();
    settles_at("all objects", &before, everything).await?;
    ensure!(
        operator.service()? == shop,
        "{} was {shop}",
        operator.service()?
    );
    ensure!(!is_accepted(), "the user's class is {:?}", accepted());
    let again = operator.tulle(&["uninstall", "--yes", "--purge"]).await?;
    again.succeeds("There is nothing to remove.")
}

/// What the chart renders to if values ask for all that there is, field by field.
pub(crate) async fn every_value(sandbox: Sandbox) -> Result<()> {
    let Some(operator) = Operator::start(&sandbox).await? else {
        return Ok(());
    };
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"},
    });
    operator.cluster.put(&namespace)?;
    operator.cluster.define_monitors().await?;
    let tried = operator.cluster.rehearse(EVERYTHING)?;
    ensure!(tried >= 5, "only {tried} objects differ from the default");
    Ok(())
}

const EVERYTHING: &str = include_str!("../../../chart/everything.yaml");

/// Without rights nothing is changed, and each that is missing is named.
pub(crate) async fn refused(sandbox: Sandbox) -> Result<()> {
    let Some(operator) = Operator::start(&sandbox).await? else {
        return Ok(());
    };
    let reader = operator.with_role(
        "reader",
        &json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]},
        ]),
    )?;
    let before = operator.everything()?;
    let install = operator
        .tulle_as(&reader, &["install", "--no-wait"])
        .await?;
    install
        .fails("you may not create, patch, delete deployments.apps in namespace istio-system")?;
    install.fails("you may not create, patch, delete clusterroles.rbac.authorization.k8s.io\n")?;
    install.fails("Nothing was changed")?;
    ensure!(operator.everything()? == before, "something was changed");

    let nobody = operator.with_role("nobody", &json!([]))?;
    let pre = operator.tulle_as(&nobody, &["check", "--pre"]).await?;
    pre.fails("you may not get, list, create, patch, delete namespaces\n")?;
    pre.fails("nodes cannot be looked at")?;

    // All but one.
    let nearly = operator.with_role("nearly", &json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "create", "delete", "escalate", "bind"]},
        {"apiGroups": ["", "admissionregistration.k8s.io", "apiextensions.k8s.io", "policy", "rbac.authorization.k8s.io"],
            "resources": ["*"], "verbs": ["patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]},
    ]))?;
    let pre = operator
        .tulle_as(&nearly, &["check", "--pre", "-o", "json"])
        .await?;
    pre.fails("")?;
    let report: Value = serde_json::from_str(&pre.stdout)?;
    let failures = report
        .pointer("/findings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let failures = failures.filter(|finding| finding.get("level") == Some(&json!("failure")));
    let failures: Vec<&Value> = failures.filter_map(|finding| finding.get("what")).collect();
    ensure!(
        failures
            == [&json!(
                "you may not patch daemonsets.apps in namespace istio-system"
            )],
        "{failures:?}"
    );

    // Somebody else's node agent.
    let theirs = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "istio-cni-node", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "none"}]},
            },
        },
    });
    operator.cluster.put(&theirs)?;
    let pre = operator.tulle(&["check", "--pre"]).await?;
    pre.fails(
        "DaemonSet kube-system/istio-cni-node takes pods into a mesh, and is not of this mesh",
    )?;
    operator.cluster.delete(&theirs)?;
    let pre = operator.tulle(&["check", "--pre"]).await?;
    pre.succeeds("The mesh can be installed")?;
    pre.succeeds(
        "not there: gatewayclasses.gateway.networking.k8s.io, gateways.gateway.networking.k8s.io",
    )
}

/// Waypoints are made, shown with what the control plane says of them, and deleted.
pub(crate) async fn waypoints(sandbox: Sandbox) -> Result<()> {
    let Some(operator) = Operator::start(&sandbox).await? else {
        return Ok(());
    };
    let cluster = &operator.cluster;
    let apply = [
        "waypoint",
        "apply",
        "-n",
        "shop",
        "--for",
        "all",
        "--enroll-namespace",
    ];
    operator.tulle(&apply).await?.fails("install Gateway API")?;
    cluster.define_gateway_api().await?;

    operator
        .tulle(&apply)
        .await?
        .succeeds("Waypoint shop/waypoint is applied")?;
    let namespace = cluster.get("/api/v1/namespaces/shop")?;
    ensure!(
        namespace.pointer("/metadata/labels/istio.io~1use-waypoint") == Some(&json!("waypoint"))
    );
    let made = cluster.get(&format!("{GATEWAYS}/waypoint"))?;
    let generated = operator
        .tulle(&["waypoint", "generate", "-n", "shop", "--for", "all"])
        .await?;
    generated.succeeds("gatewayClassName: istio-waypoint")?;
    for (part, shown) in [
        ("/spec/gatewayClassName", "gatewayClassName: istio-waypoint"),
        ("/spec/listeners/0/protocol", "protocol: HBONE"),
        (
            "/metadata/labels/istio.io~1waypoint-for",
            "istio.io/waypoint-for: all",
        ),
    ] {
        let value = made.pointer(part).and_then(Value::as_str).context(part)?;
        ensure!(
            shown.ends_with(value) && generated.stdout.contains(shown),
            "{}",
            generated.stdout
        );
    }
    let other = [
        "waypoint",
        "apply",
        "-n",
        "shop",
        "--name",
        "other",
        "--enroll-namespace",
    ];
    operator
        .tulle(&other)
        .await?
        .fails("--overwrite has it use other instead")?;
    let overwritten = operator
        .tulle(&[&other[..], &["--overwrite"]].concat())
        .await?;
    overwritten.succeeds("labelled istio.io/use-waypoint=other")?;

    operator
        .tulle(&["waypoint", "list", "-A"])
        .await?
        .row(&["shop", "waypoint", "default", "all", "Unknown"])?;
    let waited = [
        "waypoint",
        "status",
        "waypoint",
        "-n",
        "shop",
        "--wait",
        "--waypoint-timeout",
        "1s",
    ];
    operator
        .tulle(&waited)
        .await?
        .fails("waypoints cannot be used, and nothing has changed for 1s: shop/waypoint: ")?;
    let condition = json!({
        "type": "Programmed", "status": "True", "reason": "Programmed", "message": "2 of 2 are ready",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {
        "conditions": [condition],
        "addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}],
    }});
    cluster.merge(&format!("{GATEWAYS}/waypoint/status"), &status)?;
    let status = operator.tulle(&waited).await?;
    status.succeeds("")?;
    status.row(&[
        "waypoint",
        "True",
        "Programmed",
        "Programmed",
        "2 of 2 are ready",
    ])?;
    operator
        .tulle(&["waypoint", "list", "-n", "shop"])
        .await?
        .row(&["waypoint", "default", "all", "True"])?;

    operator
        .tulle(&["waypoint", "delete", "none-such", "-n", "shop"])
        .await?
        .fails("there is no waypoint none-such")?;
    let deleted = operator
        .tulle(&["waypoint", "delete", "--all", "-n", "shop"])
        .await?;
    deleted.succeeds("2 waypoints deleted")?;
    deleted.succeeds("Namespace shop is still labelled istio.io/use-waypoint")?;
    operator
        .tulle(&["waypoint", "list", "-A"])
        .await?
        .succeeds("There are no waypoints.")?;
    earlier_gateways(&operator).await
}

/// Where only an earlier version of Gateway is served, a waypoint is written as that.
async fn earlier_gateways(operator: &Operator) -> Result<()> {
    let cluster = &operator.cluster;
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.gateway.networking.k8s.io";
    let mut versions = cluster.get(definition)?["spec"]["versions"].take();
    for version in versions.as_array_mut().context("no versions")? {
        version["served"] = (version["name"] == "v1beta1").into();
    }
    cluster.merge(definition, &json!({"spec": {"versions": versions}}))?;
    let gone = async || {
        let served = cluster.get("/apis/gateway.networking.k8s.io/v1");
        served.is_ok_and(|served| !served.to_string().contains(r#""gateways""#))
    };
    eventually("version 1 is not served", gone).await?;
    let apply = ["waypoint", "apply", "-n", "shop", "--name", "early"];
    operator
        .tulle(&apply)
        .await?
        .succeeds("Waypoint shop/early is applied")?;
    let earlier = GATEWAYS.replace("/v1/", "/v1beta1/");
    let made = cluster.get(&format!("{earlier}/early"))?;
    ensure!(
        made["apiVersion"] == "gateway.networking.k8s.io/v1beta1",
        "{made}"
    );
    let list = operator.tulle(&["waypoint", "list", "-A"]).await?;
    list.row(&["shop", "early", "default", "service", "Unknown"])?;
    let delete = ["waypoint", "delete", "early", "-n", "shop"];
    operator.tulle(&delete).await?.succeeds("deleted")
}

/// Somebody else changes what is ours; somebody left something behind.
async fn tampered(operator: &Operator, controllers: &mut Controllers<'_>) -> Result<()> {
    let cluster = &operator.cluster;
    let change = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}});
    cluster.merge(AGENT, &change)?;
    let refused = operator.tulle(&["install", "--no-wait"]).await?;
    refused.fails(".spec.template.spec.terminationGracePeriodSeconds")?;
    refused.fails("--force-conflicts takes these fields")?;
    refused.fails("nothing was changed")?;
    let old = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "of-an-earlier-version",
            "namespace": "istio-system",
            "labels": {"app.kubernetes.io/part-of": "tulle", "app.kubernetes.io/managed-by": "tulle"},
        },
        "spec": {"clusterIP": "None", "ports": [{"port": 1}]},
    });
    cluster.put(&old)?;
    let forced = ["install", "--force-conflicts", "--timeout", "30s"];
    let forced = controllers.beside(operator.tulle(&forced)).await?;
    forced.succeeds("spec.template.spec.terminationGracePeriodSeconds: 7 → 30")?;
    forced.succeeds("Service istio-system/of-an-earlier-version: deleted")
}

/// Pods first, then nodes, then the rest; without --purge, what others rely on stays.
async fn removed(
    operator: &Operator,
    controllers: &mut Controllers<'_>,
    control_plane: Process,
) -> Result<()> {
    let cluster = &operator.cluster;
    let nobody = operator.tulle(&["uninstall"]).await?;
    nobody.fails("--yes says that it is meant")?;
    cluster.put(&json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{}]},
    }))?;
    eventually("its status says so", async || {
        let policy = cluster.get(POLICY).ok();
        policy.is_some_and(|policy| policy.pointer("/status/conditions/0").is_some())
    })
    .await?;
    cluster.put(&waypoint())?;
    let is_deployed = async || cluster.get(WAYPOINT).is_ok();
    eventually("the waypoint is deployed", is_deployed).await?;
    let tells = operator
        .tulle(&["uninstall", "--purge", "--dry-run"])
        .await?;
    tells.succeeds("authorizationpolicies.security.istio.io, and 1 object of that kind")?;
    controllers.forget();
    controllers.control_plane = Some(control_plane);
    let removed = controllers
        .beside(operator.tulle(&["uninstall", "--yes", "--timeout", "30s"]))
        .await?;
    removed.succeeds("and namespace istio-system stay, with what is in them")?;
    let steps = controllers.seen();
    ensure!(steps == ["released", "taken off", "deleted"], "{steps:?}");
    let policy = cluster.get(POLICY)?;
    ensure!(policy.get("status").is_none(), "{policy}");
    ensure!(!is_deployed().await, "the waypoint is still deployed");
    let gateway = cluster.get(&format!("{GATEWAYS}/waypoint"))?;
    ensure!(gateway.pointer("/status/addresses").is_none(), "{gateway}");
    cluster.delete(&waypoint())?;
    cluster.get("/api/v1/namespaces/istio-system/secrets/istio-ca-secret")?;
    ensure!(
        cluster
            .get("/api/v1/namespaces/shop/configmaps/istio-ca-root-cert")
            .is_err()
    );
    let purged = controllers
        .beside(operator.tulle(&["uninstall", "--yes", "--purge", "--timeout", "30s"]))
        .await?;
    purged.succeeds("has left nothing in the cluster")
}

/// A user's, which the control plane deploys.
fn waypoint() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    })
}

const AGENT: &str = "/apis/apps/v1/namespaces/istio-system/daemonsets/istio-cni-node";
const POLICY: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/nobody";
const WAYPOINT: &str = "/apis/apps/v1/namespaces/shop/deployments/waypoint";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways";
