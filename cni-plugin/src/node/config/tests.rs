use super::*;
use crate::node::install::Mode;

#[test]
fn pods_are_sought_where_runtimes_have_them_unless_it_is_said_otherwise() {
    let with = |more: &[&str]| {
        let arguments = ["tulle-node", "--node", "a", "--manifests", "m"];
        let arguments = arguments.into_iter().chain(more.iter().copied());
        let args = Args::try_parse_from(arguments).unwrap();
        args.into_config().discovery
    };
    assert_eq!(with(&[]), DiscoveryConfig::default());
    let elsewhere = DiscoveryConfig {
        cache: "/c".into(),
        nri: None,
        proc: "/host/proc".into(),
        names: "/n".into(),
    };
    let flags = [
        "--cni-cache-dir=/c",
        "--nri-socket=",
        "--proc=/host/proc",
        "--netns-dir=/n",
    ];
    assert_eq!(with(&flags), elsewhere);
}

#[test]
fn pods_have_one_source() {
    let source = |arguments: &[&str]| {
        let arguments = ["tulle-node", "--node", "a"].iter().chain(arguments);
        let args = Args::try_parse_from(arguments);
        args.map(|args| args.into_config().source)
    };
    let manifests = Source::Manifests("m".into());
    assert_eq!(source(&["--manifests", "m"]).unwrap(), manifests);
    assert_eq!(source(&["--kubernetes"]).unwrap(), Source::Kubernetes);
    for (arguments, expected) in [
        (&[][..], "<--manifests <DIR>|--kubernetes>"),
        (
            &["--manifests", "m", "--kubernetes"],
            "'--manifests <DIR>' cannot be used with '--kubernetes'",
        ),
    ] {
        let error = source(arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn selectors_replace_the_default() {
    let with = |selector: &str| {
        let arguments = ["tulle-node", "--node", "a", "--manifests", "m"];
        Args::try_parse_from(
            arguments
                .into_iter()
                .chain(["--enablement-selector", selector]),
        )
    };
    let yaml = "- podSelector: {matchLabels: {mesh: \"on\"}}\n";
    let rules = with(yaml).unwrap().into_config().agent.rules;
    let labels = &rules.enablement.0[0].pod_selector.match_labels;
    assert_eq!(labels.get("mesh").map(String::as_str), Some("on"));
    assert_eq!(rules.enablement.0.len(), 1);
    for wrong in [
        "- podSelektor: {}",
        "- podSelector: {matchExpressions: [{key: a, operator: In}]}",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
}

fn parse(arguments: &[&str]) -> Result<Invocation, String> {
    let run = ["tulle-node"].iter().chain(arguments);
    Invocation::parse(run.map(OsString::from)).map_err(|error| error.to_string())
}

fn config(arguments: &[&str]) -> Config {
    let required = ["--node", "a", "--manifests", "m"];
    match parse(&[required.as_slice(), arguments].concat()).unwrap() {
        Invocation::Run(args) => args.into_config(),
        Invocation::Uninstall(args) => panic!("{args:?}"),
    }
}

#[test]
fn dns_is_captured_unless_it_is_said_otherwise() {
    let captured = |arguments: &[&str]| config(arguments).agent.redirect.dns_capture;
    assert_eq!(captured(&[]), Some(15053));
    assert_eq!(captured(&["--dns-capture=true"]), Some(15053));
    assert_eq!(captured(&["--dns-capture=false"]), None);
}

#[test]
fn source_of_probes_is_nobodys() {
    let redirect = config(&["--probe-ip=169.254.9.9", "--probe-ipv6=fd00::9"]);
    let redirect = redirect.agent.redirect;
    assert_eq!(redirect.probe_v4, Ipv4Addr::new(169, 254, 9, 9));
    assert_eq!(redirect.probe_v6, "fd00::9".parse::<Ipv6Addr>().unwrap());
    assert_eq!(config(&[]).agent.redirect, RedirectConfig::default());
    for wrong in [
        "--probe-ip=10.0.0.1",
        "--probe-ip=fd00::9",
        "--probe-ipv6=2001:db8::1",
    ] {
        assert!(
            parse(&["--node", "a", "--manifests", "m", wrong]).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn nothing_is_installed_unless_it_is_asked_for() {
    assert_eq!(config(&[]).install, None);
    for flag in [
        "--cni-plugin=x",
        "--cni-bin-dir=x",
        "--cni-conf-dir=x",
        "--cni-conf-name=x.conf",
        "--cni-own-config",
    ] {
        let error = parse(&["--node", "a", "--manifests", "m", flag]).unwrap_err();
        assert!(error.contains("--install"), "{flag}: {error}");
    }
}

#[test]
fn plugin_is_told_what_the_agent_is() {
    let install = config(&[
        "--install",
        "--exclude-namespaces",
        "a,b",
        "--run-dir",
        "/r",
    ]);
    let install = install.install.unwrap();
    assert_eq!(install.entry.run_dir, PathBuf::from("/r"));
    assert_eq!(install.entry.exclude_namespaces, ["a", "b"]);
    assert_eq!(install.entry.mesh_namespace, "istio-system");
    assert_eq!(install.mode, Mode::Chained);
    assert_eq!(install.primary, None);
    assert_eq!(install.plugin.file_name().unwrap(), "tulle-cni");
    assert_eq!(install.bin_dir, PathBuf::from("/opt/cni/bin"));
    assert_eq!(install.conf_dir, PathBuf::from("/etc/cni/net.d"));
}

#[test]
fn own_file_has_a_default_name() {
    for (flag, name) in [
        ("--cni-own-config", "02-tulle-cni.conflist"),
        ("--cni-own-config=00-mesh.conflist", "00-mesh.conflist"),
    ] {
        let install = config(&["--install", flag]).install.unwrap();
        assert_eq!(install.mode, Mode::OwnFile(name.to_owned()));
    }
    for wrong in [
        "--cni-own-config=00-mesh.conf",
        "--cni-own-config=../x.conflist",
        "--cni-conf-name=a/b.conf",
        "--cni-conf-name=notes.txt",
    ] {
        assert!(parse(&["--node", "a", "--manifests", "m", "--install", wrong]).is_err());
    }
}

#[test]
fn uninstalling_needs_nothing_of_the_agent() {
    let Ok(Invocation::Uninstall(args)) = parse(&["uninstall", "--cni-bin-dir", "/b"]) else {
        panic!("not understood");
    };
    let config = args.into_config();
    assert_eq!(config.bin_dir, PathBuf::from("/b"));
    assert_eq!(config.conf_dir, PathBuf::from("/etc/cni/net.d"));
    assert_eq!(config.cache_dir, PathBuf::from("/var/lib/cni"));
    assert!(parse(&["uninstall", "--node", "a"]).is_err());
    assert!(parse(&[]).unwrap_err().contains("--manifests"));
    let help = parse(&["--help"]).unwrap_err();
    assert!(help.contains("uninstall"), "{help}");
}
