//! A real Kubernetes API server, and the etcd that it needs, in a namespace of the lab.
//!
//! No controllers and no kubelet run: what they would do, the lab does, as far as it is needed.
//!
//! ```text
//! <dir>/etcd                 etcd's data
//! <dir>/certificates         the API server's own, which everybody trusts
//! <dir>/<who>.kubeconfig     for [`Cluster::kubeconfig`]
//! ```

mod rest;
mod worker;

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use tulle_net::Netns;

use crate::{
    binaries::Binaries,
    node::Node,
    process::{Process, Program, TAIL_LINES, wait_for},
};
use rest::Rest;
use worker::Worker;

/// The API server of a lab.
#[derive(Debug)]
pub struct Cluster {
    netns: Netns,
    dir: PathBuf,
    address: SocketAddr,
    etcd: Mutex<Process>,
    server: Mutex<Process>,
    api: Arc<Rest>,
}

impl Cluster {
    /// The folder of `kube-apiserver` and `etcd`, if there is one: `KUBEBUILDER_ASSETS`, or what `scripts/peers.sh kubernetes`
    /// has built. None without the definitions of others, which that script fetches.
    pub fn programs() -> Option<PathBuf> {
        let built = || Some(Binaries::find().ok()?.folder().parent()?.join(BUILT));
        let folder = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let folder = folder.or_else(built)?;
        let is_there = |name: &&str| folder.join(name).is_file();
        let are_there = ["kube-apiserver", "etcd"].iter().all(is_there);
        let defined = |name: &&str| built().is_some_and(|built| built.join(name).is_dir());
        let are_defined = [GATEWAY_API, PROMETHEUS_OPERATOR].iter().all(defined);
        (are_there && are_defined).then_some(folder)
    }

    /// Starts both on `node` and waits until they answer.
    ///
    /// # Errors
    /// When a program is missing or ends early; the message has its last log lines.
    pub async fn start(node: &Node, dir: PathBuf, logs: &Path) -> Result<Self> {
        let programs = Self::programs().context("no kube-apiserver and etcd")?;
        let addresses = node.addresses();
        let ip = *addresses.first().context("a node without address")?;
        fs::create_dir_all(&dir)?;
        let netns = node.netns();
        let etcd = Program::new("etcd", programs.join("etcd"))
            .args(["--data-dir".into(), text(&dir.join("etcd"))])
            .args([
                "--listen-client-urls",
                ETCD,
                "--advertise-client-urls",
                ETCD,
            ])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            // What is kept goes with the lab.
            .args(["--unsafe-no-fsync", "--log-level", "warn"]);
        let etcd = Process::spawn(netns, logs, etcd)?;
        let server = server(&programs, &dir, ip, &addresses)?;
        let mut server = Process::spawn(netns, logs, server)?;
        let address = SocketAddr::new(ip, PORT);
        let certificate = dir.join("certificates/apiserver.crt");
        // It is there before it is written: the server names itself and its authority, in this order.
        let made = async || {
            let written = fs::read_to_string(&certificate).ok()?;
            (written.matches(END_OF_CERTIFICATE).count() == 2).then_some(())
        };
        server.wait_until("certificate", START_LIMIT, made).await?;
        let kubeconfig = kubeconfig(&dir, address, "admin", ADMIN)?;
        let worker = Worker::start(netns, &kubeconfig)?;
        let api = Arc::new(Rest::new(worker));
        let cluster = Self {
            netns: netns.clone(),
            dir,
            address,
            etcd: Mutex::new(etcd),
            server: Mutex::new(server),
            api,
        };
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self) -> Result<()> {
        let ready = async || self.api.call(Method::GET, "/readyz", "", "").ok().map(drop);
        let waited = wait_for("API server ready", START_LIMIT, ready).await;
        let tail = self.server.lock().await.log_tail(TAIL_LINES);
        waited.context(tail)
    }

    /// etcd, to be stopped, paused or started again.
    pub async fn etcd(&self) -> MutexGuard<'_, Process> {
        self.etcd.lock().await
    }

    /// The API server, to be stopped, killed or started again.
    pub async fn server(&self) -> MutexGuard<'_, Process> {
        self.server.lock().await
    }

    /// Makes or changes an object, and its status if it has one. Returns it as it is then.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn put(&self, object: &Value) -> Result<Value> {
        self.api.put(object)
    }

    /// Changes what is at a path, by a merge patch.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn merge(&self, path: &str, change: &Value) -> Result<Value> {
        let kind = "application/merge-patch+json";
        self.api
            .call(Method::PATCH, path, kind, &change.to_string())
    }

    /// Replaces what is at a path.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.api.call(Method::PUT, path, "", &object.to_string())
    }

    /// Makes an object exactly as it is written, `null` included.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn create(&self, object: &Value) -> Result<Value> {
        self.api.create(object)
    }

    /// Tries whether the API server would take objects as they are written, and changes nothing. Returns how many there are.
    ///
    /// # Errors
    /// When it would not take one: also for a field that it does not know.
    pub fn rehearse(&self, yaml: &str) -> Result<usize> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
        for object in &objects {
            let rehearsed = self.api.rehearse(object);
            rehearsed.with_context(|| format!("{object}"))?;
        }
        Ok(objects.len())
    }

    /// Removes an object, at once. One that is not there is none to remove.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn delete(&self, object: &Value) -> Result<()> {
        self.api.delete(object)
    }

    /// Makes what a mesh needs to be there before it, from the manifest that people install it by: kinds of objects, and what its
    /// parts may do.
    ///
    /// # Errors
    /// When the API server refuses, or does not serve the kinds in time.
    pub async fn prepare(&self) -> Result<()> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(MESH)?;
        let is_definition = |object: &&Value| {
            let kind = object.get("kind").and_then(Value::as_str);
            kind == Some("CustomResourceDefinition")
        };
        for definition in objects.iter().filter(is_definition) {
            self.define(definition).await?;
        }
        // Deployments and daemon sets too: nobody here makes pods of them, but they have to be in order.
        objects
            .iter()
            .try_for_each(|object| self.put(object).map(drop))
    }

    /// Defines the kinds of the Gateway API, as users do who want waypoints.
    ///
    /// # Errors
    /// When `scripts/peers.sh kubernetes` has not fetched them, or the API server refuses.
    pub async fn define_gateway_api(&self) -> Result<()> {
        self.define_all(GATEWAY_API).await
    }

    /// Defines the kinds of the Prometheus operator, as users do who want monitors.
    ///
    /// # Errors
    /// As for the Gateway API.
    pub async fn define_monitors(&self) -> Result<()> {
        self.define_all(PROMETHEUS_OPERATOR).await
    }

    async fn define_all(&self, name: &str) -> Result<()> {
        let binaries = Binaries::find()?;
        let target = binaries.folder().parent().context("no target folder")?;
        let folder = target.join(BUILT).join(name);
        let files = fs::read_dir(&folder).with_context(|| format!("{name} was not fetched"))?;
        for file in files {
            let text = fs::read_to_string(file?.path())?;
            for definition in serde_saphyr::from_multiple::<Value>(&text)? {
                if !definition.is_null() {
                    self.define(&definition).await?;
                }
            }
        }
        Ok(())
    }

    /// Adds a kind, and waits until it is served.
    async fn define(&self, definition: &Value) -> Result<()> {
        let name = definition.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.context("a definition without name")?.to_owned();
        self.put(definition)?;
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let established = async || {
            let definition = self.get(&path).ok()?;
            let conditions = definition.pointer("/status/conditions")?.as_array()?;
            let is_it = |condition: &Value| {
                condition.get("type").and_then(Value::as_str) == Some("Established")
                    && condition.get("status").and_then(Value::as_str) == Some("True")
            };
            conditions.iter().any(is_it).then_some(())?;
            // What can be discovered follows a moment later, and what can be listed after that.
            let group = definition.pointer("/spec/group")?.as_str()?;
            let plural = definition.pointer("/spec/names/plural")?;
            for version in definition.pointer("/spec/versions")?.as_array()? {
                if version.get("served") != Some(&true.into()) {
                    continue;
                }
                let path = format!("/apis/{group}/{}", version.get("name")?.as_str()?);
                let served = self.get(&path).ok()?;
                let mut served = served.get("resources")?.as_array()?.iter();
                served.find(|one| one.get("name") == Some(plural))?;
                self.get(&format!("{path}/{}", plural.as_str()?)).ok()?;
            }
            Some(())
        };
        wait_for(&name, SERVED_LIMIT, established).await
    }

    /// What is at a path.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.api.call(Method::GET, path, "", "")
    }

    /// A token of a service account, which is made if it is not there; bound to a pod by name and UID if one is given.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: &str,
        pod: Option<(&str, &str)>,
    ) -> Result<String> {
        self.put(&json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        }))?;
        let bound = pod.map(
            |(name, uid)| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}),
        );
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 7200, "boundObjectRef": bound},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.api.call(
            Method::POST,
            &path,
            "application/json",
            &request.to_string(),
        )?;
        let token = answer.pointer("/status/token").and_then(Value::as_str);
        Ok(token.context("no token")?.to_owned())
    }

    /// Merges a change into the object at a path as whoever has this token.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn merge_as(&self, token: &str, path: &str, change: &Value) -> Result<Value> {
        let worker = Worker::start(&self.netns, &self.kubeconfig("caller", token)?)?;
        let kind = "application/merge-patch+json";
        Rest::new(worker).call(Method::PATCH, path, kind, &change.to_string())
    }

    /// What is at a path, as whoever has this token sees it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn get_as(&self, token: &str, path: &str) -> Result<Value> {
        let worker = Worker::start(&self.netns, &self.kubeconfig("caller", token)?)?;
        Rest::new(worker).call(Method::GET, path, "", "")
    }

    /// A file by which whoever has this token finds the API server.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, who: &str, token: &str) -> Result<PathBuf> {
        kubeconfig(&self.dir, self.address, who, token)
    }

    /// The audience of tokens for the API server itself.
    pub const AUDIENCE: &str = "https://kubernetes.default.svc";
}

fn server(programs: &Path, dir: &Path, ip: IpAddr, addresses: &[IpAddr]) -> Result<Program> {
    let tokens = dir.join("tokens.csv");
    fs::write(&tokens, format!("{ADMIN},admin,1,system:masters\n"))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (private, public) = (dir.join("accounts.key"), dir.join("accounts.pub"));
    fs::write(&private, key.serialize_pem())?;
    fs::write(&public, key.public_key_pem())?;
    let has = |v6: bool| addresses.iter().any(|ip| ip.is_ipv6() == v6);
    let mut services = Vec::new();
    services.extend(has(false).then_some("10.96.0.0/16"));
    services.extend(has(true).then_some("fd00:10:96::/112"));
    let option = |name: &str, value: &str| format!("--{name}={value}");
    Ok(
        Program::new("kube-apiserver", programs.join("kube-apiserver")).args([
            option("etcd-servers", ETCD),
            option("cert-dir", &text(&dir.join("certificates"))),
            option("secure-port", &PORT.to_string()),
            option("bind-address", &ip.to_string()),
            option("advertise-address", &ip.to_string()),
            option("token-auth-file", &text(&tokens)),
            option("authorization-mode", "RBAC"),
            option("service-account-issuer", Cluster::AUDIENCE),
            option("api-audiences", Cluster::AUDIENCE),
            option("service-account-signing-key-file", &text(&private)),
            option("service-account-key-file", &text(&public)),
            option("service-cluster-ip-range", &services.join(",")),
            option("disable-admission-plugins", "ServiceAccount"),
            option("allow-privileged", "true"),
            // Nobody serves the service `kubernetes`.
            option("endpoint-reconciler-type", "none"),
            option("profiling", "false"),
        ]),
    )
}

fn kubeconfig(dir: &Path, address: SocketAddr, who: &str, token: &str) -> Result<PathBuf> {
    let authority = fs::read(dir.join("certificates/apiserver.crt"))?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": BASE64_STANDARD.encode(authority),
        }}],
        "users": [{"name": who, "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": who}}],
        "current-context": "lab",
    });
    let path = dir.join(format!("{who}.kubeconfig"));
    fs::write(&path, config.to_string())?;
    Ok(path)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

const MESH: &str = include_str!("../../../deploy/tulle.yaml");
const SERVED_LIMIT: Duration = Duration::from_secs(20);
/// Below the folder of all that is built.
const BUILT: &str = "peers/kubernetes";
const GATEWAY_API: &str = "gateway-api";
const PROMETHEUS_OPERATOR: &str = "prometheus-operator";
const ETCD: &str = "http://127.0.0.1:2379";
const PORT: u16 = 6443;
const ADMIN: &str = "the-administrators-token";
const END_OF_CERTIFICATE: &str = "-----END CERTIFICATE-----";
const START_LIMIT: Duration = Duration::from_secs(60);
