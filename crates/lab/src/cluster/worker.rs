//! Requests from inside a namespace: sockets belong to that of the thread that makes them.

use std::{path::Path, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::Method;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{runtime::Builder, sync::mpsc as async_mpsc};
use tulle_kubernetes::{CallError, Client};
use tulle_net::Netns;

/// A thread in a namespace, with a client of the API server. It ends with this.
#[derive(Debug)]
pub(super) struct Worker(async_mpsc::UnboundedSender<Job>);

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

struct Job {
    request: Request,
    answer: mpsc::Sender<Result<Bytes, CallError>>,
}

impl Worker {
    pub(super) fn start(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let (jobs, mut taken) = async_mpsc::unbounded_channel::<Job>();
        let (started, told) = mpsc::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let netns = netns.clone();
        let work = async move {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            let client = config
                .map_err(anyhow::Error::from)
                .and_then(|config| Ok(Client::new(config)?));
            let client = match client {
                Ok(client) => client,
                Err(error) => return drop(started.send(Err(error))),
            };
            // Whoever asks is told; if nobody is there any more, nobody is.
            let _ = started.send(Ok(()));
            while let Some(Job { request, answer }) = taken.recv().await {
                let client = client.clone();
                tokio::spawn(async move {
                    let Request {
                        method,
                        path,
                        kind,
                        body,
                    } = request;
                    let _ = answer.send(client.call(method, &path, &kind, body).await);
                });
            }
        };
        thread::Builder::new()
            .name("cluster".into())
            .spawn(move || netns.enter(|| runtime.block_on(work)))?;
        told.recv().context("the thread ended")??;
        Ok(Self(jobs))
    }

    /// Asks, and waits for the answer.
    pub(super) fn call(&self, request: Request) -> Result<Bytes> {
        let (answer, answered) = mpsc::channel();
        let what = format!("{} {}", request.method, request.path);
        let sent = self.0.send(Job { request, answer });
        sent.map_err(|_| anyhow!("the thread ended"))?;
        answered
            .recv()
            .context("the thread ended")?
            .with_context(|| what)
    }
}
