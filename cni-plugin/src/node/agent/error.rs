//! Why a pod is not as it should be.

use std::{io, path::PathBuf};

use tulle_net::redirect;

use crate::agent::Failure;

/// Why a pod is not as asked for.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its object is not there, or is another pod's of the same name.
    #[error("no pod of that name and UID is known on this node")]
    Unknown,
    /// The namespace cannot be opened or looked into.
    #[error("its network namespace {} cannot be used: {source}", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The namespace is surely not the pod's.
    #[error("its network namespace {} is {what}", path.display())]
    WrongNamespace {
        /// Where it is.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// ztunnel has not taken it over.
    #[error("not taken over: {0}")]
    Ztunnel(#[from] tulle_zds::AddError),
    /// Its traffic could not be redirected.
    #[error("redirection failed: {0}")]
    Redirect(#[from] redirect::ApplyError),
    /// Its redirection is not as it was left.
    #[error("redirection is not as it was left: {0}")]
    Drift(#[from] redirect::Drift),
    /// Its redirection could not be taken away.
    #[error("redirection cannot be taken away: {0}")]
    Remove(#[from] redirect::RemoveError),
    /// ztunnel does not listen in it.
    #[error("nobody listens on ztunnel's ports {0:?}")]
    NotListening(Vec<u16>),
    /// It should be in the mesh and is not.
    #[error("it is not enrolled")]
    NotEnrolled,
    /// The pod could not be written down.
    #[error("cannot remember it: {0}")]
    State(#[source] io::Error),
    /// The agent is ending.
    #[error("the node agent is ending")]
    Ending,
}

impl AgentError {
    /// In one word, as a label of metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_pod",
            Self::Namespace { .. } | Self::WrongNamespace { .. } => "namespace",
            Self::Ztunnel(_) | Self::NotListening(_) => "ztunnel",
            Self::Redirect(_) | Self::Remove(_) | Self::Drift(_) => "redirection",
            Self::NotEnrolled => "not_enrolled",
            Self::State(_) => "state",
            Self::Ending => "ending",
        }
    }

    /// What the plugin is told.
    pub fn to_failure(&self) -> Failure {
        let retry = match self {
            Self::Unknown
            | Self::Ztunnel(_)
            | Self::NotListening(_)
            | Self::NotEnrolled
            | Self::State(_)
            | Self::Ending => true,
            Self::Namespace { .. }
            | Self::WrongNamespace { .. }
            | Self::Redirect(_)
            | Self::Remove(_)
            | Self::Drift(_) => false,
        };
        Failure {
            error: self.to_string(),
            retry,
        }
    }
}
