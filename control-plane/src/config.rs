//! The command line and the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use tulle_model::TrustDomain;
use tulle_runtime::log::{Directives, Format, LogConfig};

use crate::{
    app,
    authority::{AuthorityConfig, LimiterConfig},
    mesh::Mesh,
    serving::ServingConfig,
    source::SourceConfig,
    token::Caller,
    waypoints::WaypointConfig,
};
use tulle_manifest::{Enablement, ObjectKey, source::directory::DirectoryConfig};

/// The control plane of a Tulle mesh.
///
/// Reads Kubernetes objects from the API server or from a directory of manifests, follows their changes, serves them to node
/// proxies over xDS, and signs the certificates of the workloads on their nodes.
#[derive(Debug, Parser)]
#[command(name = "tulled", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; serve, if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve xDS and certificates. This is the default.
    Serve(Box<ServeArgs>),
    /// Print a token for a pod, as the Kubernetes API server would issue it.
    ///
    /// Whoever has it can act as that pod for as long as the pod exists and the token lives.
    Token(TokenArgs),
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Take objects from the Kubernetes API: of the cluster that KUBECONFIG or ~/.kube/config names, else of the one that this
    /// runs in. Tokens are reviewed there, and the CA is kept in Secret istio-ca-secret of the root namespace.
    #[arg(long, env = "TULLED_KUBERNETES", conflicts_with_all = ["manifests", "state"])]
    kubernetes: bool,
    /// Directory of manifests: *.yaml, *.yml and *.json in it and below it. Read again when it changes.
    #[arg(
        long,
        env = "TULLED_MANIFESTS",
        value_name = "DIR",
        default_value = "manifests"
    )]
    manifests: PathBuf,
    /// Directory of keys and certificates. `root-cert.pem` in it is what clients have to trust.
    #[arg(
        long,
        env = "TULLED_STATE",
        value_name = "DIR",
        default_value = "state"
    )]
    state: PathBuf,
    /// Directory with a CA made elsewhere: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem, or tls.crt, tls.key, ca.crt.
    /// Without it, one is made and kept in the state directory, or in the cluster. Read again when it changes.
    #[arg(long, env = "TULLED_CA_DIR", value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Directory that may have such a CA: used, in a cluster, if it has one and the cluster has none of its own yet.
    #[arg(long, env = "TULLED_USUAL_CA_DIR", value_name = "DIR")]
    usual_ca_dir: Option<PathBuf>,
    /// Address for xDS and certificates, both gRPC over TLS.
    #[arg(
        long,
        env = "TULLED_LISTEN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:15012"
    )]
    listen: SocketAddr,
    /// Address for readiness and metrics; if it is a loopback address, for debug pages too.
    #[arg(
        long,
        env = "TULLED_HTTP",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:15014"
    )]
    http: SocketAddr,
    /// Port of the loopback addresses for debug pages, if --http is another address.
    #[arg(
        long,
        env = "TULLED_DEBUG_PORT",
        value_name = "PORT",
        default_value_t = 15000
    )]
    debug_port: u16,
    /// DNS name or IP address that clients reach this server by, besides istiod.istio-system.svc,
    /// tulled.istio-system.svc and localhost. May be repeated, or a list with commas.
    #[arg(
        long,
        env = "TULLED_ADVERTISE",
        value_name = "NAME",
        value_delimiter = ','
    )]
    advertise: Vec<String>,
    /// Trust domain of all identities.
    #[arg(
        long,
        env = "TULLED_TRUST_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    trust_domain: TrustDomain,
    /// Another trust domain whose principals in policies mean this one's too. May be repeated.
    #[arg(
        long,
        env = "TULLED_TRUST_DOMAIN_ALIASES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    trust_domain_alias: Vec<TrustDomain>,
    /// Name of the cluster, part of the key of every workload.
    #[arg(
        long,
        env = "TULLED_CLUSTER_ID",
        value_name = "NAME",
        default_value = "Kubernetes"
    )]
    cluster_id: String,
    /// DNS domain of the cluster.
    #[arg(
        long,
        env = "TULLED_CLUSTER_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    cluster_domain: String,
    /// Namespace whose policies hold for the whole mesh.
    #[arg(
        long,
        env = "TULLED_ROOT_NAMESPACE",
        value_name = "NAME",
        default_value = "istio-system"
    )]
    root_namespace: String,
    /// Service account that node proxies run as, and that may therefore ask for certificates of the workloads on its
    /// node. Default: `ztunnel` in the root namespace. May be repeated.
    #[arg(long, env = "TULLED_TRUSTED_NODE_ACCOUNTS", value_name = "NAMESPACE/NAME", value_delimiter = ',', value_parser = account)]
    trusted_node_account: Vec<ObjectKey>,
    /// Which pods are in the mesh: list of pairs podSelector and namespaceSelector, as YAML, the same as node agents have. Others get no
    /// certificates. [default: label istio.io/dataplane-mode]
    #[arg(
        long,
        env = "AMBIENT_ENABLEMENT_SELECTOR",
        value_name = "YAML",
        allow_hyphen_values = true
    )]
    enablement_selector: Option<Enablement>,
    /// Life of a certificate when the request does not say.
    #[arg(long, env = "TULLED_CERT_TTL_DEFAULT", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    cert_ttl_default: Duration,
    /// Longest life of a certificate; requests for more are refused.
    #[arg(long, env = "TULLED_CERT_TTL_MAX", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    cert_ttl_max: Duration,
    /// How long each of the two steps of a rotation of the root lasts, in which the last root and the next one are trusted. Never
    /// shorter than --cert-ttl-max and a tenth more, which is the default.
    #[arg(long, env = "TULLED_ROOT_OVERLAP", value_name = "DURATION", value_parser = duration)]
    root_overlap: Option<Duration>,
    /// Certificates per second and node, after a burst of twenty times as many.
    #[arg(
        long,
        env = "TULLED_CERT_RATE",
        value_name = "NUMBER",
        default_value_t = 50
    )]
    cert_rate: u32,
    /// Send policies with annotation istio.io/dry-run to node proxies. Only those that know of it do not enforce them.
    #[arg(long, env = "TULLED_DRY_RUN_POLICIES")]
    dry_run_policies: bool,
    /// Image that waypoints run. With it, a Deployment, a Service and a ServiceAccount are made for each Gateway of a class of
    /// waypoints; without it, none are.
    #[arg(
        long,
        env = "TULLED_WAYPOINT_IMAGE",
        value_name = "IMAGE",
        requires = "kubernetes"
    )]
    waypoint_image: Option<String>,
    /// When that image is pulled: Always, IfNotPresent or Never.
    #[arg(
        long,
        env = "TULLED_WAYPOINT_PULL_POLICY",
        value_name = "POLICY",
        default_value = ""
    )]
    waypoint_pull_policy: String,
    /// Secrets to pull it with, in the namespaces of waypoints.
    #[arg(
        long,
        env = "TULLED_WAYPOINT_PULL_SECRETS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    waypoint_pull_secrets: Vec<String>,
    /// Leave it to the platform which user waypoints run as, as OpenShift wants it.
    #[arg(long, env = "TULLED_WAYPOINT_ANY_USER")]
    waypoint_any_user: bool,
    /// Name of this replica, unlike any other's. Default: the name of the machine, with something random behind it.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// How long open streams may take to end after SIGTERM.
    #[arg(long, env = "TULLED_DRAIN", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    drain: Duration,
    /// What is logged: a level, or target=level, separated by commas.
    #[arg(
        long,
        env = "TULLED_LOG",
        value_name = "LEVELS",
        default_value = "info"
    )]
    log: Directives,
    /// Form of the log: plain or json.
    #[arg(long, env = "TULLED_LOG_FORMAT", value_name = "FORM", default_value_t = Format::Plain)]
    log_format: Format,
}

impl ServeArgs {
    /// How to log.
    pub fn log(&self) -> LogConfig {
        LogConfig {
            directives: self.log.clone(),
            format: self.log_format,
            hidden_prefix: "tulle_control_plane::",
            ..LogConfig::default()
        }
    }

    /// How long to drain.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// What the control plane needs.
    pub fn into_config(self) -> app::Config {
        let mut trusted_node_accounts = self.trusted_node_account;
        if trusted_node_accounts.is_empty() {
            trusted_node_accounts.push(ObjectKey::new(self.root_namespace.as_str(), "ztunnel"));
        }
        let waypoints = self.waypoint_image.filter(|image| !image.is_empty());
        let waypoints = waypoints.map(|image| WaypointConfig {
            image,
            control_plane: format!(
                "https://tulled.{}.svc:{}",
                self.root_namespace,
                self.listen.port()
            ),
            cluster_id: self.cluster_id.clone(),
            cluster_domain: self.cluster_domain.clone(),
            pull_policy: self.waypoint_pull_policy,
            pull_secrets: self.waypoint_pull_secrets,
            any_user: self.waypoint_any_user,
            log: (self.log.to_string(), self.log_format.to_string()),
        });
        let advertised = self.advertise.iter().map(String::as_str);
        app::Config {
            serving: ServingConfig::new(&self.root_namespace, advertised),
            identity: self.identity.unwrap_or_else(own_name),
            mesh: Mesh {
                trust_domain: self.trust_domain,
                trust_domain_aliases: self.trust_domain_alias,
                cluster_id: self.cluster_id,
                cluster_domain: self.cluster_domain,
                root_namespace: self.root_namespace,
                dry_run_policies: self.dry_run_policies,
                trusted_node_accounts,
                enablement: self.enablement_selector.unwrap_or_default(),
            },
            source: if self.kubernetes {
                SourceConfig::Kubernetes
            } else {
                SourceConfig::Directory {
                    manifests: DirectoryConfig::new(self.manifests),
                    state: self.state,
                }
            },
            ca: self.ca_dir,
            usual_ca: self.usual_ca_dir,
            // The shortest that there may be.
            root_overlap: self.root_overlap.unwrap_or_default(),
            waypoints,
            listen: self.listen,
            http: self.http,
            debug_port: self.debug_port,
            authority: AuthorityConfig {
                default_ttl: self.cert_ttl_default.min(self.cert_ttl_max),
                max_ttl: self.cert_ttl_max,
                limit: LimiterConfig {
                    per_second: f64::from(self.cert_rate),
                    burst: self.cert_rate.saturating_mul(20),
                    ..LimiterConfig::default()
                },
            },
        }
    }
}

fn own_name() -> String {
    let machine = nix::unistd::gethostname().unwrap_or_default();
    let machine = machine.to_string_lossy();
    format!("{machine}-{:08x}", fastrand::u32(..))
}

/// Whom a token is for.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// State directory of the server that shall accept the token.
    #[arg(
        long,
        env = "TULLED_STATE",
        value_name = "DIR",
        default_value = "state"
    )]
    pub state: PathBuf,
    /// Namespace of the pod.
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    namespace: String,
    /// Service account of the pod.
    #[arg(long, value_name = "NAME", default_value = "ztunnel")]
    service_account: String,
    /// Name of the pod.
    #[arg(long, value_name = "NAME")]
    pod: String,
    /// metadata.uid of the pod.
    #[arg(long, value_name = "UID")]
    pod_uid: String,
    /// Node of the pod.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Life of the token.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
}

impl TokenArgs {
    /// The caller that the token proves.
    pub fn caller(&self) -> Caller {
        Caller {
            account: ObjectKey::new(self.namespace.as_str(), self.service_account.as_str()),
            pod: self.pod.clone(),
            pod_uid: self.pod_uid.clone(),
            node: self.node.clone(),
        }
    }
}

fn account(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err("expected namespace/name".to_owned()),
    }
}

/// `90s`, `15m`, `24h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale));
    match seconds {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err("expected a duration such as 90s, 15m or 24h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_explains_itself() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for flag in [
            "--manifests",
            "--state",
            "--ca-dir",
            "--listen",
            "--cert-ttl-max",
            "TULLED_LOG",
        ] {
            assert!(help.contains(flag), "{flag} is not in {help}");
        }
    }

    #[test]
    fn serve_is_the_default_and_unknown_flags_are_refused() {
        for (line, accepted) in [
            ("tulled", true),
            ("tulled --manifests m", true),
            ("tulled serve --manifests m", true),
            ("tulled token --pod p --pod-uid u", true),
            ("tulled token --pod p", false),
            ("tulled --unknown", false),
            ("tulled serve --unknown", false),
            ("tulled --listen nowhere", false),
            ("tulled --trust-domain Upper", false),
            ("tulled --cert-ttl-max 0h", false),
            ("tulled --cert-ttl-max 1d", false),
            ("tulled --trusted-node-account ztunnel", false),
            ("tulled --log x=y", false),
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), accepted, "{line}");
        }
    }

    #[test]
    fn flags_become_configuration() {
        let line = "tulled --root-namespace mesh --advertise cp.example,10.0.0.9 --cert-ttl-max 15m --cert-rate 2";
        let config = Cli::try_parse_from(line.split(' '))
            .unwrap()
            .serve
            .into_config();
        assert_eq!(
            config.mesh.trusted_node_accounts,
            [ObjectKey::new("mesh", "ztunnel")]
        );
        assert_eq!(config.authority.default_ttl, Duration::from_secs(900));
        assert_eq!(config.authority.limit.burst, 40);
        assert!(config.serving.names.contains(&"cp.example".to_owned()));
        assert!(config.serving.names.contains(&"istiod.mesh.svc".to_owned()));
        assert_eq!(config.serving.addresses.len(), 3);
    }
}
