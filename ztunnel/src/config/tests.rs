use super::*;
use tulle_identity::control_tls::{RootSource, TokenSource};
use tulle_runtime::http::Listen;
use tulle_runtime::log::Format;

const CORES: NonZeroUsize = NonZeroUsize::new(8).unwrap();

fn sources(variables: &[(&str, &str)]) -> Sources {
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    Sources {
        variables: variables.iter().map(owned).collect(),
        mesh_file: None,
        cores: CORES,
        exists: |_| false,
    }
}

fn config(variables: &[(&str, &str)]) -> Config {
    Config::new(&sources(variables)).unwrap()
}

fn error(variables: &[(&str, &str)]) -> String {
    Config::new(&sources(variables)).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = config(&[]);
    assert_eq!(config.worker_threads.get(), 2);
    assert_eq!(config.drain_deadline, Duration::from_secs(5));
    assert_eq!(
        config.zds_socket,
        Path::new("/var/run/ztunnel/ztunnel.sock")
    );
    assert_eq!(config.listeners.admin, Listen::Loopback(15000));
    assert_eq!(config.listeners.stats, Listen::Any(15020));
    assert_eq!(config.listeners.readiness, Listen::Any(15021));
    assert_eq!((config.node_name, config.network.as_str()), (None, ""));
    assert_eq!(config.log.directives.to_string(), "info");
    assert_eq!(config.svids.validity, Duration::from_secs(24 * 3600));

    assert_eq!(config.resolv_conf, Path::new("/etc/resolv.conf"));
    assert_eq!(config.max_names, 4096);

    let xds = config.xds.unwrap();
    assert_eq!(xds.channel.address, "https://localhost:15012");
    let root = RootSource::File("./var/run/secrets/istio/root-cert.pem".into());
    assert_eq!(xds.channel.root, root);
    assert_eq!(xds.credentials.token, TokenSource::None);
    assert_eq!(xds.credentials.cluster_id.as_deref(), Some("Kubernetes"));
    assert_eq!(config.ca.channel.address, "https://localhost:15012");

    let proxy = config.proxy;
    assert_eq!(proxy.mark, 1337);
    assert_eq!(proxy.original_source, None);
    assert!(proxy.ipv6 && proxy.reuse_port);
    let keepalive = proxy.keepalive.unwrap();
    assert_eq!(
        (keepalive.idle.as_secs(), keepalive.interval.as_secs()),
        (180, 180)
    );
    assert_eq!(keepalive.probes, 9);
    assert_eq!((proxy.max_connections, proxy.max_handshakes), (20_000, 256));
    assert_eq!(proxy.http2.stream_window, 4 << 20);
    assert_eq!(proxy.http2.connection_window, 16 << 20);
    assert_eq!(proxy.http2.max_frame, 1 << 20);
}

#[test]
fn every_variable_has_its_effect() {
    let config = config(&[
        ("NODE_NAME", "n1"),
        ("NETWORK", "net"),
        ("INPOD_UDS", "/run/z.sock"),
        ("SECRET_TTL", "1h30m"),
        ("PACKET_MARK", "0x10"),
        ("ENABLE_ORIG_SRC", "false"),
        ("INPOD_PORT_REUSE", "false"),
        ("IPV6_ENABLED", "false"),
        ("KEEPALIVE_TIME", "10s"),
        ("KEEPALIVE_INTERVAL", "20"),
        ("KEEPALIVE_RETRIES", "3"),
        ("HTTP2_STREAM_WINDOW_SIZE", "100000"),
        ("HTTP2_CONNECTION_WINDOW_SIZE", "400000"),
        ("HTTP2_FRAME_SIZE", "16384"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "7"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "1m"),
        ("CONNECTION_TERMINATION_DEADLINE", "3s"),
        ("RUST_LOG", "warn,access=debug"),
        ("LOG_FORMAT", "json"),
        ("TULLE_MAX_CONNECTIONS_PER_POD", "11"),
        ("TULLE_MAX_HANDSHAKES_PER_POD", "12"),
        ("TULLE_HANDSHAKE_TIMEOUT", "13s"),
        ("TULLE_CONNECT_TIMEOUT", "14s"),
        ("TULLE_TUNNEL_TIMEOUT", "15s"),
        ("TULLE_WORKLOAD_WAIT", "16s"),
        ("TULLE_POOL_MAX_CONNECTIONS", "17"),
        ("TULLE_MAX_IDENTITIES", "18"),
        ("TULLE_ADMIN_ADDR", "127.0.0.2:1"),
        ("TULLE_STATS_ADDR", "2"),
        ("TULLE_READINESS_ADDR", "10.0.0.1:3"),
        ("TULLE_LOG_BUFFER", "5000"),
        ("TULLE_MAX_NAMES", "19"),
        ("TULLE_RESOLV_CONF", "/run/names"),
    ]);
    assert_eq!(config.node_name.as_deref(), Some("n1"));
    assert_eq!(config.network, "net");
    assert_eq!(config.zds_socket, Path::new("/run/z.sock"));
    assert_eq!(config.svids.validity.as_secs(), 5400);
    assert_eq!(config.svids.max_identities, 18);
    assert_eq!(config.max_names, 19);
    assert_eq!(config.resolv_conf, Path::new("/run/names"));
    assert_eq!(config.drain_deadline.as_secs(), 3);
    assert_eq!(config.log.directives.to_string(), "warn,access=debug");
    assert_eq!((config.log.format, config.log.buffer), (Format::Json, 5000));
    assert_eq!(
        config.listeners.admin,
        Listen::Address("127.0.0.2:1".parse().unwrap())
    );
    assert_eq!(config.listeners.stats, Listen::Any(2));
    assert_eq!(
        config.listeners.readiness,
        Listen::Address("10.0.0.1:3".parse().unwrap())
    );
    let proxy = config.proxy;
    assert_eq!((proxy.mark, proxy.original_source), (16, Some(false)));
    assert!(!proxy.reuse_port && !proxy.ipv6);
    let keepalive = proxy.keepalive.unwrap();
    assert_eq!(
        (keepalive.idle.as_secs(), keepalive.interval.as_secs()),
        (10, 20)
    );
    assert_eq!(keepalive.probes, 3);
    assert_eq!((proxy.max_connections, proxy.max_handshakes), (11, 12));
    assert_eq!(proxy.handshake_timeout.as_secs(), 13);
    assert_eq!(proxy.connect_timeout.as_secs(), 14);
    assert_eq!(proxy.workload_wait.as_secs(), 16);
    assert_eq!(proxy.http2.stream_window, 100_000);
    assert_eq!(proxy.http2.connection_window, 400_000);
    assert_eq!(proxy.http2.max_frame, 16_384);
    assert_eq!(
        (proxy.pool.max_streams, proxy.pool.max_connections),
        (7, 17)
    );
    assert_eq!(proxy.pool.idle_release.as_secs(), 30);
    assert_eq!(proxy.pool.response_timeout.as_secs(), 15);
    assert_eq!(proxy.pool.handshake_timeout.as_secs(), 13);

    assert_eq!(
        self::config(&[("KEEPALIVE_ENABLED", "false")])
            .proxy
            .keepalive,
        None
    );
}

#[test]
fn refused_values_are_named_with_what_is_accepted() {
    for (variable, value, expected) in [
        ("NODE_NAMES_ARE_FREE", "x", None),
        (
            "KEEPALIVE_TIME",
            "soon",
            Some("must be a time above zero such as 500ms, 90s or 1h30m"),
        ),
        (
            "TULLE_CONNECT_TIMEOUT",
            "0s",
            Some("must be a time above zero such as 500ms, 90s or 1h30m"),
        ),
        (
            "KEEPALIVE_RETRIES",
            "0",
            Some("must be a number from 1 to 127"),
        ),
        ("IPV6_ENABLED", "maybe", Some("must be true or false")),
        (
            "HTTP2_FRAME_SIZE",
            "16383",
            Some("must be a number from 16384 to 16777215"),
        ),
        (
            "HTTP2_STREAM_WINDOW_SIZE",
            "-1",
            Some("must be a number from 65535 to 2147483647"),
        ),
        (
            "PACKET_MARK",
            "red",
            Some("must be a mark such as 1337 or 0x539"),
        ),
        ("LOG_FORMAT", "xml", Some("must be plain or json")),
        (
            "RUST_LOG",
            "loud",
            Some("must be levels such as info,access=debug"),
        ),
        ("INSTANCE_IP", "here", Some("must be an IP address")),
        ("ISTIO_METAJSON_LABELS", "{", Some("must be JSON")),
        (
            "TULLE_ADMIN_ADDR",
            "0.0.0.0:15000",
            Some("must be a port, or a loopback address and port"),
        ),
        (
            "TULLE_STATS_ADDR",
            "here:15020",
            Some("must be a port, or an address and port"),
        ),
        (
            "ZTUNNEL_RESOURCE_CPU_LIMIT",
            "many",
            Some("must be a quantity of processors such as 2 or 500m"),
        ),
        (
            "PROXY_MODE",
            "dedicated",
            Some("not supported, only shared"),
        ),
        ("TLS12_ENABLED", "true", Some("not supported, only false")),
        ("CRL_PATH", "/crl", Some("not supported, only unset")),
    ] {
        let result = Config::new(&sources(&[(variable, value)]));
        let actual = result.err().map(|error| error.to_string());
        let expected = expected.map(|text| format!("{variable}={value:?}: {text}"));
        assert_eq!(actual, expected, "{variable}");
    }
}

#[test]
fn unknown_variables_of_ours_are_refused() {
    let unknown = "TULLE_MAX_CONECTIONS_PER_POD: there is no such variable";
    assert_eq!(error(&[("TULLE_MAX_CONECTIONS_PER_POD", "1")]), unknown);
    // Of our lab, whose children inherit it.
    config(&[("TULLE_SANDBOX_PARENT", "1")]);
}

#[test]
fn empty_variables_count_as_unset() {
    let config = config(&[("KEEPALIVE_TIME", ""), ("NODE_NAME", " "), ("CRL_PATH", "")]);
    assert_eq!(config.proxy.keepalive.unwrap().idle.as_secs(), 180);
    assert_eq!(config.node_name, None);
}

#[test]
fn worker_threads_follow_request_and_grant() {
    for (variables, expected) in [
        (&[][..], 2),
        (&[("ZTUNNEL_WORKER_THREADS", "3")], 3),
        (&[("ZTUNNEL_WORKER_THREADS", "0")], 8),
        (&[("ZTUNNEL_WORKER_THREADS", "50%")], 4),
        (&[("ZTUNNEL_WORKER_THREADS", "1%")], 1),
        (&[("ZTUNNEL_CPU_LIMIT", "2")], 1),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "500m")], 1),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "3500m")], 4),
        (&[("ZTUNNEL_RESOURCE_CPU_LIMIT", "64")], 8),
        (&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "200m")], 2),
        (&[("ZTUNNEL_RESOURCE_CPU_REQUEST", "5")], 5),
        (
            &[
                ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1"),
                ("ZTUNNEL_RESOURCE_CPU_REQUEST", "2"),
            ],
            2,
        ),
        (
            &[
                ("PROXY_CONFIG", "concurrency: 5"),
                ("ZTUNNEL_RESOURCE_CPU_LIMIT", "1"),
            ],
            5,
        ),
        (
            &[
                ("PROXY_CONFIG", "concurrency: 5"),
                ("ZTUNNEL_WORKER_THREADS", "6"),
            ],
            6,
        ),
        (&[("PROXY_CONFIG", "concurrency: 0")], 8),
    ] {
        assert_eq!(
            config(variables).worker_threads.get(),
            expected,
            "{variables:?}"
        );
    }
    for value in ["-1", "0%", "101%", "1025", "many"] {
        let error = error(&[("ZTUNNEL_WORKER_THREADS", value)]);
        assert!(error.contains("a number up to 1024"), "{error}");
    }
    let one = Sources {
        cores: NonZeroUsize::MIN,
        ..sources(&[])
    };
    assert_eq!(Config::new(&one).unwrap().worker_threads.get(), 1);
}

#[test]
fn limits_of_a_pod_are_shared_by_the_threads() {
    let settings = config(&[
        ("ZTUNNEL_WORKER_THREADS", "4"),
        ("TULLE_MAX_CONNECTIONS_PER_POD", "10"),
        ("TULLE_MAX_HANDSHAKES_PER_POD", "1"),
    ])
    .proxy_settings();
    assert_eq!((settings.max_connections, settings.max_handshakes), (3, 1));
    assert_eq!(settings.pool.max_connections, 256);
}

#[test]
fn drain_leaves_time_to_end_in() {
    for (variables, seconds) in [
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "30")][..], 25),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "11")], 6),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "10")], 9),
        (&[("TERMINATION_GRACE_PERIOD_SECONDS", "1")], 1),
        (
            &[
                ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
                ("CONNECTION_TERMINATION_DEADLINE", "7s"),
            ],
            7,
        ),
    ] {
        assert_eq!(
            config(variables).drain_deadline.as_secs(),
            seconds,
            "{variables:?}"
        );
    }
}

#[test]
fn control_plane_is_found_in_order() {
    let address = |variables: &[(&str, &str)]| {
        let config = config(variables);
        let xds = config.xds.map(|xds| xds.channel.address);
        (xds.unwrap_or_default(), config.ca.channel.address)
    };
    let both = |address: &str| (address.to_owned(), address.to_owned());
    let in_cluster = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let discovery = ("PROXY_CONFIG", r#"{"discoveryAddress": "d:1"}"#);
    assert_eq!(
        address(&[in_cluster]),
        both("https://istiod.istio-system.svc:15012")
    );
    assert_eq!(address(&[in_cluster, discovery]), both("d:1"));
    assert_eq!(address(&[discovery, ("XDS_ADDRESS", "x:2")]), both("x:2"));
    assert_eq!(
        address(&[("XDS_ADDRESS", "x:2"), ("CA_ADDRESS", "c:3")]),
        ("x:2".into(), "c:3".into())
    );
    assert_eq!(
        address(&[("XDS_ADDRESS", ""), ("CA_ADDRESS", "c:3")]),
        (String::new(), "c:3".into())
    );
}

#[test]
fn roots_and_tokens_are_files_or_text() {
    let pem = "-----BEGIN CERTIFICATE-----\n";
    let config = config(&[
        ("XDS_ROOT_CA", pem),
        ("CA_ROOT_CA", "/etc/root.pem"),
        ("ALT_XDS_HOSTNAME", "x.example"),
        ("ALT_CA_HOSTNAME", "c.example"),
        ("AUTH_TOKEN", "abc.def.ghi"),
    ]);
    let xds = config.xds.unwrap();
    assert_eq!(xds.channel.root, RootSource::Pem(pem.trim().into()));
    assert_eq!(xds.channel.server_name.as_deref(), Some("x.example"));
    assert_eq!(
        xds.credentials.token,
        TokenSource::Literal("abc.def.ghi".into())
    );
    assert_eq!(
        config.ca.channel.root,
        RootSource::File("/etc/root.pem".into())
    );
    assert_eq!(config.ca.channel.server_name.as_deref(), Some("c.example"));

    let config = self::config(&[("AUTH_TOKEN", "./token")]);
    assert_eq!(
        config.ca.credentials.token,
        TokenSource::File("./token".into())
    );

    let all_exist = Sources {
        exists: |_| true,
        ..sources(&[("XDS_ROOT_CA", "SYSTEM")])
    };
    let config = Config::new(&all_exist).unwrap();
    let usual = TokenSource::File("./var/run/secrets/tokens/istio-token".into());
    assert_eq!(config.ca.credentials.token, usual);
    let system = RootSource::File("/etc/ssl/certs/ca-certificates.crt".into());
    assert_eq!(config.xds.unwrap().channel.root, system);
    assert!(error(&[("XDS_ROOT_CA", "SYSTEM")]).contains("where there is a system store"));
}

#[test]
fn node_says_who_it_is() {
    let config = config(&[
        ("POD_NAME", "ztunnel-x"),
        ("POD_NAMESPACE", "mesh"),
        ("NODE_NAME", "n1"),
        ("INSTANCE_IP", "10.0.0.9"),
        ("CLUSTER_ID", "overridden"),
        ("ISTIO_META_CLUSTER_ID", "c1"),
        ("ISTIO_METAJSON_LABELS", r#"{"app": "ztunnel"}"#),
        (
            "PROXY_CONFIG",
            "proxyMetadata: {ISTIO_META_ZONE: z1, CLUSTER_ID: c0}",
        ),
        ("XDS_HEADER_x-team", "mesh"),
        ("CA_HEADER_x-ca", "1"),
    ]);
    let xds = config.xds.unwrap();
    assert_eq!(
        (xds.node.name.as_str(), xds.node.namespace.as_str()),
        ("ztunnel-x", "mesh")
    );
    assert_eq!(xds.node.node_name, "n1");
    assert_eq!(xds.node.instance_ip, Some("10.0.0.9".parse().unwrap()));
    let metadata = serde_json::json!(xds.node.metadata);
    let expected =
        serde_json::json!({"CLUSTER_ID": "c1", "LABELS": {"app": "ztunnel"}, "ZONE": "z1"});
    assert_eq!(metadata, expected);
    assert_eq!(xds.credentials.cluster_id.as_deref(), Some("c1"));
    assert_eq!(
        xds.credentials.headers,
        [("x-team".to_owned(), "mesh".to_owned())]
    );
    assert_eq!(
        config.ca.credentials.headers,
        [("x-ca".to_owned(), "1".to_owned())]
    );
}

#[test]
fn proxy_config_overrides_the_mesh_file() {
    let mesh = "
defaultConfig:
  discoveryAddress: mesh:1
  statsPort: 1
  proxyAdminPort: 2
  proxyMetadata: {A: mesh, B: mesh}
  tracing: {sampling: 1}
trustDomain: ignored
";
    let config = Config::new(&Sources {
        mesh_file: Some(mesh.to_owned()),
        ..sources(&[("PROXY_CONFIG", "{statsPort: 3, proxyMetadata: {B: own}}")])
    });
    let config = config.unwrap();
    assert_eq!(
        (config.listeners.stats, config.listeners.admin),
        (Listen::Any(3), Listen::Loopback(2))
    );
    let xds = config.xds.unwrap();
    assert_eq!(xds.channel.address, "mesh:1");
    let metadata = serde_json::json!(xds.node.metadata);
    assert_eq!(metadata, serde_json::json!({"A": "mesh", "B": "own"}));

    let broken = error(&[("PROXY_CONFIG", "statsPort: many")]);
    assert!(broken.starts_with("PROXY_CONFIG: "), "{broken}");
}

#[test]
fn local_source_is_a_file_or_text_but_not_both() {
    let file = ("LOCAL_XDS_PATH", "/etc/local.yaml");
    let text = ("LOCAL_XDS", "workloads: []");
    assert_eq!(config(&[]).local, None);
    assert_eq!(
        config(&[file]).local,
        Some(LocalSource::File(file.1.into()))
    );
    assert_eq!(
        config(&[text]).local,
        Some(LocalSource::Inline(text.1.into()))
    );
    let both = "LOCAL_XDS_PATH and LOCAL_XDS exclude each other";
    assert_eq!(error(&[file, text]), both);
}

#[test]
fn dump_shows_what_is_in_force_and_no_secret() {
    let config = config(&[
        ("AUTH_TOKEN", "hush"),
        ("XDS_HEADER_x-key", "hush"),
        ("CA_HEADER_x-key", "hush"),
        ("LOCAL_XDS", "hush"),
        ("NODE_NAME", "n1"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "1m"),
    ]);
    let dump = config.dump();
    assert_eq!(dump["localNode"], "n1");
    assert_eq!(dump["numWorkerThreads"], 2);
    assert_eq!(dump["pool"]["unusedReleaseTimeout"], "60s");
    assert_eq!(dump["resolver"]["maxNames"], 4096);
    assert_eq!(dump["xds"]["credentials"]["token"], "inline");
    assert_eq!(
        dump["xds"]["credentials"]["headers"],
        serde_json::json!(["x-key"])
    );
    let text = config.to_string();
    assert!(
        text.contains("\"packetMark\": 1337") && !text.contains("hush"),
        "{text}"
    );
}
