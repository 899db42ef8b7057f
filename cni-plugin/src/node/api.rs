//! What the plugin asks, answered over a Unix socket.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::geteuid;
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    agent::{Agent, AgentError},
    metrics::Metrics,
};
use crate::agent::{Failure, Gone, Left, Pod};

/// A bound socket; removed when dropped.
#[derive(Debug)]
pub struct Api {
    path: PathBuf,
    listener: UnixListener,
}

impl Api {
    /// Listens at `path`, where only our own user may connect. What an earlier agent left there is replaced.
    ///
    /// # Errors
    /// When the path cannot be used.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Bound under another name, so that nobody finds it before it is closed to others.
        let unready = path.with_extension("new");
        let _ = fs::remove_file(&unready);
        let listener = UnixListener::bind(&unready)?;
        fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
        fs::rename(&unready, path)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }

    /// Answers for as long as it is polled.
    pub async fn serve(self, agent: Arc<Agent>, metrics: Metrics) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) if !is_ours(&stream) => {
                    warn!("refused a caller of another user");
                }
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&agent), metrics.clone()));
                }
                Err(error) => {
                    warn!(%error, "accepting a caller failed");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Root, or who we run as: in a user namespace that is not root.
fn is_ours(stream: &UnixStream) -> bool {
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn converse(stream: UnixStream, agent: Arc<Agent>, metrics: Metrics) {
    let answer = service_fn(|request| {
        let (agent, metrics) = (Arc::clone(&agent), metrics.clone());
        async move {
            let answer = respond(request, agent).await;
            metrics.answered(answer.status().as_u16());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let served = server.serve_connection(TokioIo::new(stream), answer).await;
    if let Err(error) = served {
        debug!(%error, "a caller's connection broke");
    }
}

type Answer = Response<Full<Bytes>>;

async fn respond(request: Request<Incoming>, agent: Arc<Agent>) -> Answer {
    if request.method() != Method::POST {
        return failure(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered");
    }
    let path = request.uri().path().to_owned();
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let answered = match path.as_str() {
        "/cmdadd" => match serde_json::from_slice::<Pod>(&body) {
            Ok(pod) => Ok(done(
                whole(async move { agent.add(&pod).await })
                    .await
                    .unwrap_or(Err(AgentError::Ending)),
            )),
            Err(error) => Err(error),
        },
        "/cmdcheck" => match serde_json::from_slice::<Pod>(&body) {
            Ok(pod) => Ok(done(agent.check(&pod).await)),
            Err(error) => Err(error),
        },
        "/cmddel" => match serde_json::from_slice::<Gone>(&body) {
            Ok(gone) => {
                let _ = whole(async move { agent.gone(&gone.container).await }).await;
                Ok(done(Ok(())))
            }
            Err(error) => Err(error),
        },
        "/cmdgc" => match serde_json::from_slice::<Left>(&body) {
            Ok(left) => {
                let _ = whole(async move { agent.left(&left).await }).await;
                Ok(done(Ok(())))
            }
            Err(error) => Err(error),
        },
        _ => return failure(StatusCode::NOT_FOUND, "no such command"),
    };
    answered
        .unwrap_or_else(|error| failure(StatusCode::BAD_REQUEST, &format!("bad request: {error}")))
}

/// Goes on when the caller has left: what is half done would be worse.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    tokio::spawn(work).await
}

fn done<T: Serialize>(done: Result<T, AgentError>) -> Answer {
    match done {
        Ok(value) => answer(StatusCode::OK, &value),
        Err(error) => {
            let failure = error.to_failure();
            let status = match failure.retry {
                true => StatusCode::SERVICE_UNAVAILABLE,
                false => StatusCode::INTERNAL_SERVER_ERROR,
            };
            answer(status, &failure)
        }
    }
}

fn failure(status: StatusCode, error: &str) -> Answer {
    let failure = Failure {
        error: error.to_owned(),
        retry: false,
    };
    answer(status, &failure)
}

fn answer(status: StatusCode, value: &impl Serialize) -> Answer {
    // These are plain texts and numbers, which can always be written.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 1 << 20;
/// So that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
