//! The mesh under attack.
//!
//! ```text
//!  node1: shop/cart  out/attacker  out/bystander     node2: shop/web  shop/near
//!         (namespace `shop` is in the mesh)                 (both echo, and count who reached them)
//! ```

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tulle_lab::{Lab, LabSpec, Mesh, MeshConfig, Pod, PodSpec, ServiceSpec, sandbox::Sandbox};
use tulle_model::SpiffeId;
use tulle_testkit::TestCa;

use crate::peer::{Attempt, Peer};

pub(crate) struct World {
    pub(crate) mesh: Mesh,
    /// With the key that signs the mesh's certificates: the worst that can be stolen.
    pub(crate) ca: TestCa,
    pub(crate) web: Target,
    pub(crate) near: Target,
    files: usize,
}

/// A server in the mesh.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    reached: Arc<AtomicUsize>,
}

impl Target {
    fn start(pod: &Pod) -> Result<Self> {
        let reached = Arc::new(AtomicUsize::new(0));
        tokio::spawn(echo(pod.listen(PORT)?, Arc::clone(&reached)));
        Ok(Self {
            address: (pod.ip(), PORT).into(),
            reached,
        })
    }

    /// Where its tunnels end.
    pub(crate) fn hbone(&self) -> SocketAddr {
        (self.address.ip(), HBONE).into()
    }

    /// What to ask for to reach it.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Connections to the application so far.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

impl World {
    pub(crate) async fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::with(sandbox, &[]).await
    }

    /// With further environment variables for the ztunnels.
    pub(crate) async fn with(sandbox: &Sandbox, env: &[(&str, &str)]) -> Result<Self> {
        let mut lab = Lab::create(sandbox, &LabSpec::default()).await?;
        for (pod, node) in PODS {
            lab.add_pod(PodSpec::new(pod, node)).await?;
        }
        for pod in [WEB, NEAR] {
            lab.add_service(ServiceSpec::new(pod).port(80, PORT))?;
        }
        let mut config = MeshConfig::new()?;
        let env = env
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        config.ztunnel_env.extend(env);
        let mut mesh = Mesh::start(lab, config).await?;
        mesh.label_namespace("shop", "istio.io/dataplane-mode", "ambient")
            .await?;
        let web = Target::start(mesh.pod(WEB))?;
        let near = Target::start(mesh.pod(NEAR))?;
        let ca = mesh.lab().dir().join("state/ca");
        let read = |name: &str| fs::read_to_string(ca.join(name)).with_context(|| name.to_owned());
        let mut world = Self {
            ca: TestCa::from_pem(&read("ca-cert.pem")?, &read("ca-key.pem")?),
            mesh,
            web,
            near,
            files: 0,
        };
        // Connections between the honest are pooled, so they are there before and after.
        world.honest_request().await?;
        world.files = world.open_files()?;
        Ok(world)
    }

    pub(crate) fn attacker(&self) -> &Pod {
        self.mesh.pod(ATTACKER)
    }

    /// Another client that is not behind a ztunnel of its own.
    pub(crate) fn bystander(&self) -> &Pod {
        self.mesh.pod(BYSTANDER)
    }

    /// The identity of an honest client.
    pub(crate) fn cart(&self) -> SpiffeId {
        identity("cart")
    }

    /// Opens a tunnel from outside of the mesh, as who has that certificate.
    pub(crate) async fn attempt(&self, attempt: &Attempt<'_>) -> Result<bool> {
        let from = self.attacker();
        soon("an answer", Peer::tunnel(from, self.web.hbone(), attempt)).await
    }

    /// A client in the mesh reaches its server.
    pub(crate) async fn honest_request(&self) -> Result<()> {
        let exchange = async {
            let mut stream = self.mesh.pod(CART).connect(self.web.address).await?;
            stream.write_all(b"honest").await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = soon("an honest request", exchange).await?;
        ensure!(answer == b"honest", "{answer:?} came back");
        Ok(())
    }

    /// After an attack: the honest are served, and what the attackers held is free again.
    pub(crate) async fn recovers(&self) -> Result<()> {
        self.honest_request().await?;
        let limit = self.files + SPARE_FILES;
        let what = format!("at most {limit} open files");
        let few = tulle_lab::wait_for(&what, SOON, async || {
            self.open_files().ok().filter(|files| *files <= limit)
        });
        if few.await.is_err() {
            let files = self.open_files()?;
            anyhow::bail!("{files} open files, {} at the start", self.files);
        }
        Ok(())
    }

    /// Of the ztunnel under attack.
    fn open_files(&self) -> Result<usize> {
        Ok(self.mesh.ztunnel("node2").process().usage()?.files)
    }

    /// A counter of the ztunnel under attack, over all values of its labels but these.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self
            .mesh
            .ztunnel("node2")
            .metrics()
            .await?
            .sum(name, labels))
    }
}

pub(crate) fn identity(account: &str) -> SpiffeId {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    id.parse().expect("a SPIFFE ID")
}

/// Awaits something that can fail, at most [`SOON`].
pub(crate) async fn soon<T, E: Into<anyhow::Error>>(
    what: &str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let done = timeout(SOON, future).await;
    let done = done.with_context(|| format!("{what}: not within {SOON:?}"))?;
    done.map_err(Into::into).with_context(|| what.to_owned())
}

async fn echo(listener: TcpListener, reached: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        reached.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            // The client tells whether all came back.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
    }
}

pub(crate) const CART: &str = "shop/cart";
const WEB: &str = "shop/web";
const NEAR: &str = "shop/near";
const ATTACKER: &str = "out/attacker";
const BYSTANDER: &str = "out/bystander";
const PODS: [(&str, &str); 5] = [
    (CART, "node1"),
    (WEB, "node2"),
    (NEAR, "node2"),
    (ATTACKER, "node1"),
    (BYSTANDER, "node1"),
];

pub(crate) const PORT: u16 = 8080;
const HBONE: u16 = 15008;
/// Pooled connections, certificates being fetched, the admin server.
const SPARE_FILES: usize = 8;
/// How long a change or an answer may take. Generous: two cores may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);
