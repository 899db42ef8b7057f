//! The agent's own process, which finds the API server by a kubeconfig.

use std::process::{Child, Command, Stdio};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

use super::*;

const COUNT: usize = 100;
/// What it may need of its own: buffers would show here.
const OWN: usize = 6 << 20;
/// With the code of a development build.
const ALL: usize = 24 << 20;

/// As long as a real pod is, most of which is none of our business.
fn long_pod(number: usize) -> Value {
    let mut pod = pod(&format!("web-{number}"), "node1", &format!("u-{number}"));
    let field = json!({"name": "VARIABLE", "value": "v".repeat(80)});
    pod["spec"]["containers"][0]["env"] = vec![field; 60].into();
    pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last": "a".repeat(4000)});
    pod
}

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kubeconfig(server: &Server, certificate: Option<&str>) -> Value {
    let mut cluster = match certificate {
        Some(_) => json!({"server": format!("https://{}", server.address)}),
        None => json!({"server": format!("http://{}", server.address)}),
    };
    cluster["certificate-authority-data"] = certificate.map(|pem| STANDARD.encode(pem)).into();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    })
}

fn agent(dir: &TempDir, server: &Server) -> Agent {
    let kubeconfig = kubeconfig(server, server.certificate.as_deref());
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("kubeconfig"), kubeconfig.to_string()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_tulle-node"))
        .env_clear()
        .env("KUBECONFIG", path("kubeconfig"))
        .args(["--node", "node1", "--kubernetes", "--http-port", "0"])
        .arg("--run-dir")
        .arg(path("run"))
        .arg("--state")
        .arg(path("state"))
        .arg("--ztunnel-socket")
        .arg(path("ztunnel.sock"))
        .stdout(Stdio::null())
        .spawn();
    Agent(child.unwrap())
}

/// Bytes of memory that a process has of its own, and in all.
fn memory(pid: u32) -> (usize, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    };
    (field("RssAnon:"), field("VmRSS:"))
}

#[tokio::test]
async fn agent_follows_a_hundred_pods_in_little_memory() {
    let server = Server::secure().await;
    server.put(NAMESPACES, namespace("shop", "ambient"));
    for number in 0..COUNT {
        server.put(PODS, long_pod(number));
    }
    let dir = TempDir::new().unwrap();
    let agent = agent(&dir, &server);
    let watches = |world: &server::World| {
        let watch = |request: &&String| request.contains("watch=true");
        world.requests.iter().filter(watch).count()
    };
    soon(server.until(|world| watches(world) == 2)).await;
    for round in 0..COUNT {
        server.put(PODS, long_pod(round));
    }
    let version = server.bookmark();
    server.end();
    // It has come that far, and goes on from there.
    let from = format!("&resourceVersion={version}");
    let there = |world: &server::World| {
        let there = |request: &&String| request.ends_with(&from);
        world.requests.iter().filter(there).count() == 2
    };
    soon(server.until(there)).await;
    let (own, all) = memory(agent.0.id());
    assert!(
        own < OWN && all < ALL,
        "{own} bytes of its own, {all} in all"
    );
}

#[tokio::test]
async fn only_the_server_that_the_kubeconfig_names_is_talked_to() {
    let (server, other) = (Server::secure().await, Server::secure().await);
    let fetched = async |certificate: &Option<String>| {
        let kubeconfig = kubeconfig(&server, certificate.as_deref()).to_string();
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let kubernetes = Kubernetes::new(config.unwrap(), "node1").unwrap();
        soon(kubernetes.fetch(&key("web-0"))).await
    };
    server.put(PODS, pod("web-0", "node1", "u-1"));
    assert_eq!(fetched(&other.certificate).await, None);
    assert_eq!(server.world().requests.len(), 0);
    assert_eq!(fetched(&server.certificate).await.unwrap().uid, "u-1");
    assert_eq!(server.world().caller.as_deref(), Some("Bearer secret"));
}
