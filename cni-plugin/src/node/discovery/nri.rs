//! What the container runtime says, asked as a plugin of NRI, the Node Resource Interface (containerd 1.7, CRI-O 1.26).
//!
//! Both sides call each other over one socket. A plugin is told of all pods when it comes; then we leave.
//!
//! ```text
//!  we                            runtime
//!   | RegisterPlugin ------------> |
//!   | <--------------------- empty |
//!   | <----------------- Configure |
//!   | one event -----------------> |
//!   | <--------- Synchronize: pods |   again, while it says that there are more
//!   | no updates ----------------> |
//!   | close                        |
//! ```
//!
//! Nothing is ever changed this way. Runtimes take no plugin without events: whoever wants none is sent all. So we ask for
//! the rarest that needs no answer, and are gone before it comes.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::time::timeout;

use self::{
    messages::{
        ConfigureResponse, PodSandbox, RegisterPluginRequest, Request, Response, Status,
        SynchronizeRequest, SynchronizeResponse,
    },
    wire::{Connection, Frame, Kind, Service},
};
use super::{Claim, Source, Whose};

mod messages;
mod wire;

/// Why the runtime's pods are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum NriError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    #[error("it sent a message of {length} bytes")]
    TooLong { length: u32 },
    #[error("it sent what is no message: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("it took no plugin: {message} (code {code})")]
    Rejected { code: i32, message: String },
    #[error("it has more than {MOST_PODS} pods")]
    TooManyPods,
    #[error("it is ending")]
    Ending,
    #[error("it did not tell of its pods in time")]
    TimedOut,
}

impl NriError {
    /// Whether the runtime has no NRI, or has it switched off.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// What the runtime claims of its pods, if it does within `limit`.
///
/// # Errors
/// See [`NriError`]; nothing is known then.
pub(super) async fn claims(socket: &Path, limit: Duration) -> Result<Vec<Claim>, NriError> {
    let told = timeout(limit, pods(socket));
    let pods = told.await.map_err(|_| NriError::TimedOut)??;
    Ok(pods.into_iter().filter_map(claim).collect())
}

/// `None` for a pod in the node's namespace, which has no path.
fn claim(pod: PodSandbox) -> Option<Claim> {
    let namespaces = pod.linux?.namespaces.into_iter();
    let mut network = namespaces.filter(|namespace| namespace.kind == "network");
    let path = PathBuf::from(network.next()?.path);
    let known = path.is_absolute() && !pod.uid.is_empty() && !pod.id.is_empty();
    known.then_some(Claim {
        whose: Whose::Uid(pod.uid),
        path,
        id: None,
        container: Some(pod.id),
        source: Source::Nri,
    })
}

async fn pods(socket: &Path) -> Result<Vec<PodSandbox>, NriError> {
    let mut connection = Connection::open(socket).await.map_err(NriError::Connect)?;
    let register = RegisterPluginRequest {
        plugin_name: NAME.to_owned(),
        plugin_index: INDEX.to_owned(),
    };
    let request = Request {
        service: RUNTIME.to_owned(),
        method: "RegisterPlugin".to_owned(),
        payload: register.encode_to_vec(),
    };
    let frame = Frame::new(FIRST_STREAM, Kind::Request, &request);
    connection.send(Service::Runtime, &frame).await?;
    let mut pods = Vec::new();
    loop {
        let (service, frame) = connection.next().await?;
        match (service, frame.kind) {
            (Service::Runtime, Kind::Response) => registered(&frame)?,
            (Service::Plugin, Kind::Request) => {
                let request = Request::decode(frame.data.as_slice())?;
                let (response, more) = answer(&request, &mut pods)?;
                let frame = Frame::new(frame.stream, Kind::Response, &response);
                connection.send(Service::Plugin, &frame).await?;
                if !more {
                    return Ok(pods);
                }
            }
            // Neither side may stream here; what a later version of the protocol adds is not for us.
            (Service::Runtime, _) | (Service::Plugin, _) => {}
        }
    }
}

/// What the runtime answered to our registration.
fn registered(frame: &Frame) -> Result<(), NriError> {
    let status = Response::decode(frame.data.as_slice())?.status;
    match status {
        Some(Status { code, message }) if code != 0 => Err(NriError::Rejected { code, message }),
        _ => Ok(()),
    }
}

/// Answers a call, and says whether there is more to wait for.
fn answer(request: &Request, pods: &mut Vec<PodSandbox>) -> Result<(Response, bool), NriError> {
    if request.service != PLUGIN {
        let status = Status {
            code: UNIMPLEMENTED,
            message: format!("no service {}", request.service),
        };
        let refusal = Response {
            status: Some(status),
            payload: Vec::new(),
        };
        return Ok((refusal, true));
    }
    let (payload, more) = match request.method.as_str() {
        "Configure" => {
            let events = 1 << (REMOVE_POD_SANDBOX - 1);
            (ConfigureResponse { events }.encode_to_vec(), true)
        }
        "Synchronize" => {
            let told = SynchronizeRequest::decode(request.payload.as_slice())?;
            if pods.len() + told.pods.len() > MOST_PODS {
                return Err(NriError::TooManyPods);
            }
            pods.extend(told.pods);
            let more = told.more;
            (SynchronizeResponse { more }.encode_to_vec(), more)
        }
        "Shutdown" => return Err(NriError::Ending),
        // An event. An empty answer to any of them says that nothing is to be changed.
        _ => (Vec::new(), true),
    };
    let response = Response {
        status: None,
        payload,
    };
    Ok((response, more))
}

const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";
const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// Letters, digits, `_.+-`.
const NAME: &str = "tulle-node";
/// Two digits: the place among the plugins, of no meaning to one that changes nothing.
const INDEX: &str = "99";
/// Streams of whoever connected are odd.
const FIRST_STREAM: u32 = 1;
/// Number of an event; its bit is one lower.
const REMOVE_POD_SANDBOX: i32 = 3;
/// gRPC's status code.
const UNIMPLEMENTED: i32 = 12;
/// What runtimes give their plugins to answer.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// A node runs some hundreds; those that have ended are told of too.
const MOST_PODS: usize = 50_000;

#[cfg(test)]
pub(super) mod tests;
