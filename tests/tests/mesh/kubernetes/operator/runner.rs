//! Whoever runs `tulle` beside a cluster, and what came of it.

use std::{collections::BTreeSet, process::Output};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tulle_lab::{Binaries, Lab, LabSpec, Process, Program, cluster::Cluster, sandbox::Sandbox};

use super::controllers;

/// A cluster, and whoever runs `tulle` beside it.
pub(super) struct Operator {
    lab: Lab,
    pub(super) cluster: Cluster,
    admin: String,
}

/// What became of a command.
pub(super) struct Ran {
    what: String,
    output: Output,
    pub(super) stdout: String,
}

impl Operator {
    /// A cluster with two nodes, and a namespace with a service and a pod that is in the mesh.
    pub(super) async fn start(sandbox: &Sandbox) -> Result<Option<Self>> {
        if Cluster::programs().is_none() {
            println!("skipped: it takes what `scripts/peers.sh kubernetes` provides");
            return Ok(None);
        }
        let lab = Lab::create(sandbox, &LabSpec::default()).await?;
        let dir = lab.dir().join("cluster");
        let cluster = Cluster::start(lab.control(), dir, &lab.logs()).await?;
        let admin = lab.dir().join("cluster/admin.kubeconfig");
        for name in ["node1", "node2"] {
            cluster.put(&node(name))?;
        }
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let metadata = json!({"name": "shop", "labels": labels});
        cluster.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))?;
        cluster.put(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "http", "port": 80}]},
        }))?;
        cluster.put(&controllers::pod("shop", "web", &json!({}), "enabled"))?;
        Ok(Some(Self {
            lab,
            cluster,
            admin: admin.to_string_lossy().into_owned(),
        }))
    }

    pub(super) async fn tulle(&self, args: &[&str]) -> Result<Ran> {
        self.tulle_as(&self.admin, args).await
    }

    pub(super) async fn tulle_as(&self, kubeconfig: &str, args: &[&str]) -> Result<Ran> {
        let binaries = Binaries::find()?;
        let program = Program::new("tulle", binaries.path("tulle")?)
            .args(args.iter().copied())
            .args(["--kubeconfig", kubeconfig]);
        let output = program.output_in(self.lab.control().netns()).await?;
        Ok(Ran {
            what: args.join(" "),
            stdout: String::from_utf8(output.stdout.clone())?,
            output,
        })
    }

    /// The real control plane, as its pods would run it.
    pub(super) fn control_plane(&self) -> Result<Process> {
        let token = self
            .cluster
            .token("istio-system", "tulled", Cluster::AUDIENCE, None)?;
        let kubeconfig = self.cluster.kubeconfig("tulled", &token)?;
        let program = Program::new("tulled", Binaries::find()?.path("tulled")?)
            .args(["serve", "--kubernetes", "--identity", "the-first"])
            .args(["--waypoint-image", "localhost/tulle/waypoint:lab"])
            .args(["--listen", "127.0.0.1:15012", "--http", "127.0.0.1:15014"])
            .env("KUBECONFIG", kubeconfig.to_string_lossy());
        let node = self.lab.control();
        // For as long as its Deployment, as the API server sees it.
        self.cluster.put(&controllers::pod(
            "istio-system",
            "tulled-1",
            &json!({
                "app": "tulled", "app.kubernetes.io/part-of": "tulle",
            }),
            "",
        ))?;
        Process::spawn(node.netns(), &self.lab.logs(), program)
    }

    /// The address of somebody who may do this, and nothing else.
    pub(super) fn with_role(&self, who: &str, rules: &Value) -> Result<String> {
        let rbac = "rbac.authorization.k8s.io";
        self.cluster.put(&json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
            "metadata": {"name": who}, "rules": rules,
        }))?;
        self.cluster.put(&json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding",
            "metadata": {"name": who},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": who},
            "subjects": [{"kind": "ServiceAccount", "name": who, "namespace": "default"}],
        }))?;
        let token = self
            .cluster
            .token("default", who, Cluster::AUDIENCE, None)?;
        let kubeconfig = self.cluster.kubeconfig(who, &token)?;
        Ok(kubeconfig.to_string_lossy().into_owned())
    }

    pub(super) fn service(&self) -> Result<Value> {
        let mut service = self.cluster.get(SERVICE)?;
        let metadata = service
            .pointer_mut("/metadata")
            .and_then(Value::as_object_mut);
        let metadata = metadata.context("no metadata")?;
        metadata
            .retain(|key, _| key != "resourceVersion" && key != "managedFields" && key != "labels");
        Ok(service)
    }

    /// Every object of every kind that can be listed, by its UID; but for what the API server itself makes all the time.
    pub(super) fn everything(&self) -> Result<BTreeSet<String>> {
        let mut versions = vec!["/api/v1".to_owned()];
        let groups = self.cluster.get("/apis")?;
        for group in groups
            .pointer("/groups")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let version = group
                .pointer("/preferredVersion/groupVersion")
                .and_then(Value::as_str);
            versions.push(format!(
                "/apis/{}",
                version.context("a group without version")?
            ));
        }
        let mut all = BTreeSet::new();
        for version in versions {
            let kinds = self.cluster.get(&version)?;
            for kind in kinds
                .pointer("/resources")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let name = kind
                    .get("name")
                    .and_then(Value::as_str)
                    .context("a kind without name")?;
                let can_be_listed = kind
                    .get("verbs")
                    .and_then(Value::as_array)
                    .is_some_and(|verbs| verbs.contains(&json!("list")));
                if !can_be_listed || name == "events" {
                    continue;
                }
                let list = self.cluster.get(&format!("{version}/{name}"))?;
                for object in list
                    .pointer("/items")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    let text = |pointer| {
                        object
                            .pointer(pointer)
                            .and_then(Value::as_str)
                            .unwrap_or_default()
                    };
                    let (namespace, own, uid) = (
                        text("/metadata/namespace"),
                        text("/metadata/name"),
                        text("/metadata/uid"),
                    );
                    if name != "leases" || namespace != "kube-system" {
                        all.insert(format!("{name} {namespace}/{own} {uid}"));
                    }
                }
            }
        }
        Ok(all)
    }
}

impl Ran {
    pub(super) fn succeeds(&self, saying: &str) -> Result<()> {
        ensure!(
            self.output.status.success() && self.says(saying),
            "{self} does not say {saying:?}"
        );
        Ok(())
    }

    pub(super) fn fails(&self, saying: &str) -> Result<()> {
        ensure!(
            !self.output.status.success() && self.says(saying),
            "{self} does not say {saying:?}"
        );
        Ok(())
    }

    /// Whether a line of a table has these cells.
    pub(super) fn row(&self, cells: &[&str]) -> Result<()> {
        let is_it = |line: &str| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .eq(cells.iter().copied())
        };
        ensure!(
            self.stdout.lines().any(is_it),
            "{self} has no line {cells:?}"
        );
        Ok(())
    }

    fn says(&self, what: &str) -> bool {
        self.stdout.contains(what) || String::from_utf8_lossy(&self.output.stderr).contains(what)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errors = String::from_utf8_lossy(&self.output.stderr);
        write!(
            f,
            "`tulle {}` ({}): {}\n{errors}",
            self.what, self.output.status, self.stdout
        )
    }
}

/// A node as a kubelet tells of it.
fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
        "status": {"nodeInfo": {
            "architecture": "amd64", "bootID": "b", "containerRuntimeVersion": "containerd://2.0.1",
            "kernelVersion": "6.1.0-21-amd64", "kubeProxyVersion": "", "kubeletVersion": "v1.33.1", "machineID": "m",
            "operatingSystem": "linux", "osImage": "Debian", "systemUUID": "u",
        }},
    })
}

pub(super) const SERVICE: &str = "/api/v1/namespaces/shop/services/web";
