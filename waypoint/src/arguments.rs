//! The command line: there is nothing to be told by it, but much to be asked.

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the waypoint.
    Run,
    /// Say this, and nothing else.
    Say(String),
}

/// An argument that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown argument {0:?}: see waypoint --help")]
pub struct UnknownArgument(String);

/// What the arguments ask for, without the program's name.
///
/// # Errors
/// [`UnknownArgument`] names the first that is none.
pub fn command(arguments: impl IntoIterator<Item = String>) -> Result<Command, UnknownArgument> {
    match arguments.into_iter().next().as_deref() {
        None => Ok(Command::Run),
        Some("-h" | "--help" | "help") => Ok(Command::Say(HELP.to_owned())),
        Some("-V" | "--version" | "version") => Ok(Command::Say(format!(
            "waypoint {}\n",
            env!("CARGO_PKG_VERSION")
        ))),
        Some(other) => Err(UnknownArgument(other.to_owned())),
    }
}

const HELP: &str = "\
The L7 proxy of a namespace or a service: takes the requests for what is behind it from the node proxies of its clients, over mutual TLS,
and carries each to an endpoint.

Usage: waypoint [-h | --help] [-V | --version]

It is configured by its environment, which the control plane writes for each Gateway of class istio-waypoint or tulle-waypoint:

  POD_NAME, POD_NAMESPACE           this pod; both are needed
  GATEWAY_NAME, GATEWAY_CLASS       the Gateway whose instance it is; both are needed
  SERVICE_ACCOUNT                   the account it runs as [default]
  NODE_NAME                         the node it is on
  XDS_ADDRESS                       the control plane
  CA_ADDRESS                        the certificate authority, by default the control plane
  XDS_ROOT_CA, CA_ROOT_CA           file or text of the certificates by which these are known
  CLUSTER_ID                        the cluster [Kubernetes]
  RUST_LOG, LOG_FORMAT              what is logged [info], and how: plain or json
  TERMINATION_GRACE_PERIOD_SECONDS  time to end in; requests have a little less
  TULLE_WORKER_THREADS              threads of the data path [one per processor]
  TULLE_ADMIN_ADDR                  admin pages: port of loopback [15000]
  TULLE_STATS_ADDR                  metrics: port [15020]
  TULLE_READINESS_ADDR              readiness: port [15021]

A variable that asks for what the waypoint does not do ends it with a reason.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Command, String> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        command(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn it_runs_says_or_refuses() {
        assert_eq!(of(&[]), Ok(Command::Run));
        for (argument, start) in [("--help", "The L7 proxy"), ("-V", "waypoint ")] {
            let Ok(Command::Say(text)) = of(&[argument]) else {
                panic!("{argument}");
            };
            assert!(text.starts_with(start), "{text}");
        }
        assert!(of(&["--port"]).unwrap_err().contains("--port"));
    }
}
