//! The plugin and the agent under a container runtime of others: containerd, with the network plugins of Debian.
//!
//! ```text
//! test ──CRI──▶ containerd ──exec──▶ ptp, portmap, tulle-cni ──▶ tulle-node ◀──ZDS── test, which says yes to every pod
//! ```
//!
//! It takes root and control groups; without them, or without containerd, the test says that it was skipped.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use tokio::process::Command;
use tulle_lab::{Binaries, Process, Program, sandbox::Sandbox, wait_for};
use tulle_net::{
    Netns,
    redirect::{RedirectConfig, verify},
};
use tulle_tests::{case, harness};
use tulle_zds::ZdsClient;

mod cgroups;
mod cri;

use cgroups::Cgroups;
use cri::Cri;

fn main() -> ExitCode {
    harness::main(&[case!(pods_of_containerd_enter).limit(Duration::from_secs(120))])
}

async fn pods_of_containerd_enter(sandbox: Sandbox) -> Result<()> {
    let present = NEEDED.iter().all(|program| find(program).is_some());
    let cgroups = Cgroups::make(cri::CGROUP);
    if sandbox.is_rootless() || !present || cgroups.is_err() {
        println!(
            "skipped: it takes root, control groups and {}",
            NEEDED.join(", ")
        );
        return Ok(());
    }
    let node = Node::start(&sandbox).await?;
    let mut cri = Cri::connect(&node.socket()).await?;
    ensure!(cri.plugins().await? == ["loopback", "ptp", "portmap"]);

    // One that ran before the agent came.
    let early = cri.run("shop", "early", &uid(1)).await?;
    node.put_pod("early", 1, &early.ips)?;
    let mut agent = node.agent()?;
    let says_yes = tokio::spawn(say_yes(node.folder.join("zds.sock")));
    wait_for("the runtime has loaded the plugin", SOON, async || {
        let plugins = Cri::connect(&node.socket()).await.ok()?.plugins().await;
        plugins
            .ok()?
            .contains(&"tulle-cni".to_owned())
            .then_some(())
    })
    .await?;
    wait_for("one that ran before is in the mesh", SOON, async || {
        is_redirected(&early.netns).ok().flatten()
    })
    .await
    .with_context(|| agent.log_tail(20))?;

    node.put_pod("web", 2, &[])?;
    let web = cri.run("shop", "web", &uid(2)).await?;
    let redirected = is_redirected(&web.netns)?;
    ensure!(redirected.is_some(), "a pod has started outside the mesh");
    let Err(refused) = cri.run("shop", "stranger", &uid(3)).await else {
        bail!("a pod that nobody knows has started");
    };
    ensure!(
        format!("{refused:#}").contains("no pod of that name and UID"),
        "{refused:#}"
    );

    agent.kill().await?;
    node.put_pod("late", 4, &[])?;
    let Err(refused) = cri.run("shop", "late", &uid(4)).await else {
        bail!("a pod has started without an agent");
    };
    ensure!(
        format!("{refused:#}").contains("is tulle-node running"),
        "{refused:#}"
    );
    says_yes.abort();

    agent.restart().await?;
    let says_yes = tokio::spawn(say_yes(node.folder.join("zds.sock")));
    wait_for("a pod that was refused starts", SOON, async || {
        let mut cri = Cri::connect(&node.socket()).await.ok()?;
        let late = cri.run("shop", "late", &uid(4)).await.ok()?;
        cri.end(late).await.ok()
    })
    .await?;
    ensure!(node.remembered()? == 2, "the agent remembers other pods");
    cri.end(web).await?;
    cri.end(early).await?;
    ensure!(
        node.remembered()? == 0,
        "the agent remembers pods that are gone"
    );
    says_yes.abort();
    Ok(())
}

/// A node with containerd on it.
struct Node {
    folder: PathBuf,
    logs: PathBuf,
    netns: Netns,
    _containerd: Process,
}

impl Node {
    async fn start(sandbox: &Sandbox) -> Result<Self> {
        let folder = sandbox.dir().join("node");
        let logs = sandbox.dir().join("logs");
        for name in ["net.d", "bin", "manifests"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::create_dir_all(&logs)?;
        // Where the library of CNI keeps its results, and others what they keep.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, "/var/lib", tmpfs, MsFlags::empty(), None::<&str>)?;
        for plugin in fs::read_dir(PLUGINS)? {
            let plugin = plugin?;
            fs::copy(plugin.path(), folder.join("bin").join(plugin.file_name()))?;
        }
        let text = folder.display().to_string();
        fs::write(
            folder.join("containerd.toml"),
            CONTAINERD.replace("<node>", &text),
        )?;
        fs::write(
            folder.join("net.d/10-pods.conflist"),
            NETWORK.replace("<node>", &text),
        )?;
        fs::write(
            folder.join("manifests/shop.yaml"),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n",
        )?;
        let netns = Netns::current()?;
        let config = folder.join("containerd.toml").display().to_string();
        let program = Program::new("containerd", find("containerd").context("no containerd")?);
        let mut containerd = Process::spawn(&netns, &logs, program.args(["--config", &config]))?;
        let socket = folder.join("containerd.sock");
        containerd
            .wait_until("answer", SOON, async || Cri::connect(&socket).await.ok())
            .await?;
        let node = Self {
            folder,
            logs,
            netns,
            _containerd: containerd,
        };
        node.import_pause().await?;
        Ok(node)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    fn agent(&self) -> Result<Process> {
        let binaries = Binaries::find()?;
        let text = |name: &str| self.folder.join(name).display().to_string();
        let plugin = binaries.path("tulle-cni")?.display().to_string();
        let program = Program::new("tulle-node", binaries.path("tulle-node")?)
            .env("NODE_NAME", "node1")
            .env("TULLE_NODE_MANIFESTS", text("manifests"))
            .env("TULLE_NODE_RUN_DIR", text("agent"))
            .env("TULLE_NODE_STATE", text("pods"))
            .env("ZTUNNEL_UDS_ADDRESS", text("zds.sock"))
            .env("TULLE_NODE_INSTALL", "true")
            .env("TULLE_NODE_CNI_PLUGIN", plugin)
            .env("TULLE_NODE_CNI_BIN_DIR", text("bin"))
            .env("TULLE_NODE_CNI_CONF_DIR", text("net.d"))
            .env("TULLE_NODE_NRI_SOCKET", "");
        Process::spawn(&self.netns, &self.logs, program)
    }

    fn put_pod(&self, name: &str, number: u32, ips: &[String]) -> Result<()> {
        let ips: Vec<String> = ips.iter().map(|ip| format!("{{ip: \"{ip}\"}}")).collect();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {}}}\n\
             spec: {{nodeName: node1}}\nstatus: {{podIPs: [{}]}}\n",
            uid(number),
            ips.join(", ")
        );
        let unready = self.folder.join(format!("manifests/.{name}"));
        fs::write(&unready, pod)?;
        Ok(fs::rename(
            unready,
            self.folder.join(format!("manifests/{name}.yaml")),
        )?)
    }

    /// How many pods the agent remembers.
    fn remembered(&self) -> Result<usize> {
        Ok(fs::read_dir(self.folder.join("pods"))?.count())
    }

    /// Gives containerd the image that holds a sandbox: a program that does nothing.
    async fn import_pause(&self) -> Result<()> {
        let image = self.folder.join("pause");
        fs::create_dir(&image)?;
        fs::write(image.join("pause.c"), PAUSE)?;
        let in_image = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).current_dir(&image);
            command
        };
        run(in_image(
            "cc",
            &["-static", "-O1", "-o", "pause", "pause.c"],
        ))
        .await?;
        run(in_image("tar", &["-cf", "layer.tar", "pause"])).await?;
        let digest = run(in_image("sha256sum", &["layer.tar"])).await?;
        let digest = digest.split_whitespace().next().context("no digest")?;
        fs::write(
            image.join("config.json"),
            IMAGE
                .replace("<digest>", digest)
                .replace("<arch>", architecture()),
        )?;
        fs::write(image.join("manifest.json"), MANIFEST)?;
        let parts = [
            "-cf",
            "image.tar",
            "manifest.json",
            "config.json",
            "layer.tar",
        ];
        run(in_image("tar", &parts)).await?;
        let socket = self.socket().display().to_string();
        let import = [
            "--address",
            &socket,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
            "image.tar",
        ];
        run(in_image("ctr", &import)).await.map(drop)
    }
}

/// Stands in for ztunnel: takes every pod at once.
async fn say_yes(socket: PathBuf) -> Result<()> {
    let connect = async || ZdsClient::connect(&socket).await.ok();
    let mut agent = wait_for("the agent's socket", SOON, connect).await?;
    while agent.recv().await?.is_some() {
        agent.ack(Ok(())).await?;
    }
    Ok(())
}

fn is_redirected(netns: &str) -> Result<Option<()>> {
    let netns = Netns::open(netns)?;
    Ok(verify(&netns, &RedirectConfig::default())
        .is_ok()
        .then_some(()))
}

async fn run(mut command: Command) -> Result<String> {
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}{errors}");
    Ok(text)
}

/// A program, where `PATH` or a server's usual place has it.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), PLUGINS.into()]);
    let mut all = folders.map(|folder: PathBuf| folder.join(program));
    all.find(|path: &PathBuf| Path::is_file(path))
}

/// This machine, as images name it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

const NEEDED: [&str; 6] = ["containerd", "ctr", "runc", "ptp", "cc", "tar"];
const PLUGINS: &str = "/usr/lib/cni";
/// The runtime gives a plugin some seconds, and the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
const IMAGE: &str = r#"{"architecture": "<arch>", "os": "linux", "config": {"Entrypoint": ["/pause"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:<digest>"]}}"#;
const MANIFEST: &str =
    r#"[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]"#;
const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "<node>/ipam",
        "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}
"#;
const CONTAINERD: &str = r#"version = 2
root = "<node>/root"
state = "<node>/state"
[grpc]
address = "<node>/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "<node>/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "<node>/bin"
conf_dir = "<node>/net.d"
"#;
