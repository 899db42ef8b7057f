//! The command line: there is nothing to be told by it, but much to be asked.

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the proxy of this node.
    Run,
    /// Say this, and nothing else.
    Say(String),
}

/// An argument that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown argument {0:?}: see ztunnel --help")]
pub struct UnknownArgument(String);

/// What the arguments ask for, without the program's name. `proxy ztunnel` is what charts of others say, and may be there.
///
/// # Errors
/// [`UnknownArgument`] names the first that is none.
pub fn command(arguments: impl IntoIterator<Item = String>) -> Result<Command, UnknownArgument> {
    let mut arguments = arguments.into_iter();
    let mut words = ["proxy", "ztunnel"].into_iter().peekable();
    let version = || format!("ztunnel {}\n", env!("CARGO_PKG_VERSION"));
    arguments
        .find_map(|argument| match argument.as_str() {
            "-h" | "--help" | "help" => Some(Ok(Command::Say(HELP.to_owned()))),
            "-V" | "--version" | "version" => Some(Ok(Command::Say(version()))),
            word if words.next_if_eq(&word).is_some() => None,
            _ => Some(Err(UnknownArgument(argument))),
        })
        .unwrap_or(Ok(Command::Run))
}

const HELP: &str = "\
The L4 proxy of a node: takes the traffic of the pods that the node agent hands over, and carries it to other nodes over mutual TLS.

Usage: ztunnel [-h | --help] [-V | --version]

It is configured by its environment. What most need:

  NODE_NAME                         this node, as the control plane knows it
  XDS_ADDRESS                       the control plane; empty: none
  CA_ADDRESS                        the certificate authority, by default the control plane
  XDS_ROOT_CA, CA_ROOT_CA           file or text of the certificates by which these are known
  INPOD_UDS                         socket of the node agent
  LOCAL_XDS_PATH                    file with workloads, services and policies, besides the control plane's
  NETWORK, CLUSTER_ID               where this node is
  CLUSTER_DOMAIN                    the cluster's DNS domain [cluster.local]
  ZTUNNEL_WORKER_THREADS            threads of the data path
  RUST_LOG, LOG_FORMAT              what is logged [info], and how: plain or json
  TERMINATION_GRACE_PERIOD_SECONDS  time to end in; connections have a little less
  TULLE_ADMIN_ADDR                  admin pages: port of loopback [15000]
  TULLE_STATS_ADDR                  metrics: port [15020]
  TULLE_READINESS_ADDR              readiness: port [15021]

A variable that asks for what ztunnel does not do ends it with a reason. GET /config_dump of the admin port shows what is in effect.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Command, String> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        command(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn it_runs_if_nothing_is_asked() {
        for arguments in [&[][..], &["proxy"], &["proxy", "ztunnel"]] {
            assert_eq!(of(arguments), Ok(Command::Run), "{arguments:?}");
        }
    }

    #[test]
    fn help_and_version_are_said() {
        for (argument, start) in [("--help", "The L4 proxy"), ("-V", "ztunnel ")] {
            let Ok(Command::Say(text)) = of(&["proxy", argument]) else {
                panic!("{argument}");
            };
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for arguments in [&["--port"][..], &["ztunnel"], &["proxy", "proxy"]] {
            let error = of(arguments).unwrap_err();
            assert!(error.contains(arguments.last().unwrap()), "{error}");
        }
    }
}
