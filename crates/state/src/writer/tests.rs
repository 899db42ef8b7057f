use fastrand::Rng;
use tulle_model::{
    Action, Clause, Health, Match, NetworkMode, Rule, Scope, Service, ServiceKey, TunnelProtocol,
    Vip, Visibility, Workload,
};
use tulle_policy::{Connection, Denied};

use super::*;
use crate::{Destination, Snapshot};
use tulle_testkit::sample::{address, key, pod, service, serving};

mod history;

struct State {
    writer: StateWriter,
    reader: SnapshotReader,
}

impl State {
    fn new() -> Self {
        Self::on_node(None)
    }

    fn on_node(node: Option<&str>) -> Self {
        let (writer, reader) = StateWriter::new(StateConfig {
            node: node.map(Into::into),
        });
        Self { writer, reader }
    }

    fn put(&mut self, resource: impl Into<Address>) {
        let address = resource.into();
        let name = match &address {
            Address::Workload(workload) => workload.uid.to_string(),
            Address::Service(service) => service.key.to_string(),
        };
        self.writer.addresses(Delta {
            updated: vec![(name, address)],
            ..Delta::default()
        });
    }

    fn remove(&mut self, name: &str) {
        self.writer.addresses(Delta {
            removed: vec![name.into()],
            ..Delta::default()
        });
    }

    fn put_policy(&mut self, policy: Authorization) {
        self.writer.policies(Delta {
            updated: vec![(policy.key.to_string(), policy)],
            ..Delta::default()
        });
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.reader.load()
    }

    fn endpoints(&self, service: &str) -> Vec<String> {
        let snapshot = self.snapshot();
        let record = snapshot.service(&key(service)).expect("the service");
        let members = record.endpoints.members().iter();
        members.map(|m| m.uid.to_string()).collect()
    }

    /// Who is found at an address, seen from a namespace.
    fn at(&self, ip: &str, namespace: &str) -> String {
        let snapshot = self.snapshot();
        match snapshot.destination("", ip.parse().unwrap(), namespace) {
            Destination::Service(record) => record.service.key.to_string(),
            Destination::Workload(workload) => workload.uid.to_string(),
            Destination::Quarantined(name) => format!("quarantined {name}"),
            Destination::Unknown => "unknown".into(),
        }
    }
}

fn policy(name: &str, scope: Scope, action: Action) -> Authorization {
    let one = Match {
        destination_ports: vec![80],
        ..Match::default()
    };
    Authorization {
        key: PolicyKey::new("shop", name),
        scope,
        action,
        rules: vec![Rule {
            clauses: vec![Clause { matches: vec![one] }],
        }],
        dry_run: false,
        authorizer: None,
    }
}

fn check(snapshot: &Snapshot, uid: &str) -> Result<(), Denied> {
    let workload = snapshot.workload(&Uid::new(uid)).expect("the workload");
    let connection = Connection {
        identity: None,
        source_ip: [10, 9, 9, 9].into(),
        destination_ip: workload.addresses[0],
        destination_port: 80,
    };
    let permit = snapshot.policies_for(workload).check(&connection);
    permit.map(|_| ())
}

#[test]
fn endpoints_wait_for_their_service_and_outlive_it() {
    let mut state = State::new();
    state.put(serving(pod("a", "10.0.0.1"), "cart", &[]));
    assert_eq!(state.snapshot().staged_endpoints().count(), 1);
    state.put(service("cart", &["10.2.0.1"]));
    assert_eq!(state.snapshot().staged_endpoints().count(), 0);
    assert_eq!(state.endpoints("cart"), ["a"]);
    state.put(Service {
        canonical: true,
        ..service("cart", &["10.2.0.2"])
    });
    assert_eq!(state.endpoints("cart"), ["a"], "re-sent service");
    assert_eq!(state.at("10.2.0.1", ""), "unknown", "address given up");
    assert_eq!(state.at("10.2.0.2", ""), "shop/cart.shop");
    state.remove("shop/cart.shop");
    assert_eq!(state.snapshot().staged_endpoints().count(), 1);
    state.remove("a");
    assert_eq!(state.snapshot().staged_endpoints().count(), 0);
    state.put(service("cart", &["10.2.0.2"]));
    assert!(state.endpoints("cart").is_empty());
}

#[test]
fn endpoints_follow_what_their_workload_says() {
    let mut state = State::new();
    state.put(service("cart", &[]));
    state.put(service("pay", &[]));
    state.put(serving(pod("a", "10.0.0.1"), "cart", &[]));
    state.put(serving(pod("b", "10.0.0.2"), "cart", &[]));
    assert_eq!(state.endpoints("cart"), ["a", "b"]);
    state.put(serving(pod("a", "10.0.0.1"), "pay", &[]));
    assert_eq!(
        (state.endpoints("cart"), state.endpoints("pay")),
        (vec!["b".into()], vec!["a".into()])
    );
    state.put(Workload {
        health: Health::Unhealthy,
        ..serving(pod("b", "10.0.0.2"), "cart", &[])
    });
    let snapshot = state.snapshot();
    let record = snapshot.service(&key("cart")).unwrap();
    assert_eq!(record.endpoints.members().len(), 1);
    let source = snapshot.workload(&Uid::new("a")).unwrap();
    let chosen = record
        .endpoints
        .choose(source, &mut Rng::with_seed(1), |_| true);
    assert!(chosen.is_none(), "the only endpoint is unhealthy");
}

#[test]
fn addresses_with_several_claimants() {
    let mut state = State::new();
    let claim = |uid: &str, protocol| Workload {
        tunnel_protocol: protocol,
        ..pod(uid, "10.0.0.1")
    };
    let (entry, hbone_entry, one_pod) = (
        "c/networking.istio.io/WorkloadEntry/shop/b",
        "c/networking.istio.io/WorkloadEntry/shop/a",
        "c//Pod/shop/z",
    );
    state.put(claim(entry, TunnelProtocol::None));
    assert_eq!(state.at("10.0.0.1", ""), entry);
    state.put(claim(hbone_entry, TunnelProtocol::Hbone));
    assert_eq!(state.at("10.0.0.1", ""), hbone_entry);
    state.put(claim(one_pod, TunnelProtocol::None));
    assert_eq!(state.at("10.0.0.1", ""), one_pod);
    state.remove(hbone_entry);
    state.remove(one_pod);
    assert_eq!(state.at("10.0.0.1", ""), entry);
    state.put(Workload {
        network_mode: NetworkMode::HostNetwork,
        ..pod("host", "10.0.0.9")
    });
    assert_eq!(state.at("10.0.0.9", ""), "unknown", "the host's address");
    assert_eq!(state.at("::ffff:10.0.0.1", ""), entry, "mapped form");
}

#[test]
fn shared_virtual_addresses() {
    let mut state = State::new();
    let in_namespace = |namespace: &str, canonical, visibility| Service {
        key: ServiceKey::new(namespace, "x.test"),
        canonical,
        visibility,
        ..service("x", &["10.2.0.1"])
    };
    let (public, private) = (Visibility::Public, Visibility::Namespace);
    state.put(in_namespace("b", false, public));
    state.put(in_namespace("c", true, public));
    state.put(in_namespace("a", true, private));
    for (client, expected) in [("b", "b/x.test"), ("other", "c/x.test"), ("a", "a/x.test")] {
        assert_eq!(state.at("10.2.0.1", client), expected, "client in {client}");
    }
    state.remove("c/x.test");
    assert_eq!(state.at("10.2.0.1", "other"), "b/x.test");
    state.remove("b/x.test");
    assert_eq!(state.at("10.2.0.1", "other"), "unknown");
}

#[test]
fn ranges_of_virtual_addresses() {
    let mut state = State::new();
    let range = |namespace: &str, name: &str, ip: &str, prefix| Service {
        key: ServiceKey::new(namespace, name),
        vips: vec![Vip::Range {
            network: "".into(),
            address: ip.parse().unwrap(),
            prefix,
        }],
        ..service(name, &[])
    };
    state.put(range("a", "wide", "10.0.0.0", 8));
    state.put(range("b", "narrow", "10.1.0.0", 16));
    state.put(range("b", "six", "fd00::", 64));
    state.put(pod("pod", "10.1.0.7"));
    state.put(service("exact", &["10.1.0.8"]));
    for (ip, client, expected) in [
        ("10.2.0.1", "x", "a/wide"),
        ("10.1.0.1", "x", "b/narrow"),
        ("10.1.0.1", "a", "a/wide"),
        ("10.1.0.7", "x", "pod"),
        ("10.1.0.8", "x", "shop/exact.shop"),
        ("fd00::1", "x", "b/six"),
        ("fd00:0:0:1::1", "x", "unknown"),
        ("11.0.0.1", "x", "unknown"),
    ] {
        assert_eq!(state.at(ip, client), expected, "{ip} from {client}");
    }
    state.remove("b/narrow");
    assert_eq!(state.at("10.1.0.1", "x"), "a/wide");
    state.remove("a/wide");
    assert_eq!(state.at("10.1.0.1", "x"), "unknown");
}

#[test]
fn removed_name_is_a_workload_before_it_is_a_service() {
    let mut state = State::new();
    state.put(service("cart", &["10.2.0.1"]));
    state.put(pod("shop/cart.shop", "10.0.0.1"));
    state.remove("shop/cart.shop");
    assert_eq!(
        (state.at("10.0.0.1", ""), state.at("10.2.0.1", "")),
        ("unknown".into(), "shop/cart.shop".into())
    );
    for unrelated in ["shop/cart.shop/x", "cart.shop", "", "c//Pod/shop/cart"] {
        state.remove(unrelated);
        assert_eq!(state.at("10.2.0.1", ""), "shop/cart.shop");
    }
    state.remove("shop/cart.shop");
    assert_eq!(state.at("10.2.0.1", ""), "unknown");
}

#[test]
fn quarantined_addresses_are_not_unknown() {
    let mut state = State::new();
    let reject = |name: &str, ip: &str| Delta {
        rejected: vec![RejectedResource {
            name: name.into(),
            addresses: vec![address(ip)],
            reason: "test".into(),
        }],
        ..Delta::default()
    };
    state.writer.addresses(reject("a", "10.0.0.1"));
    state.writer.addresses(reject("b", "10.0.0.1"));
    assert_eq!(state.at("10.0.0.1", ""), "quarantined a");
    state.put(pod("c", "10.0.0.1"));
    assert_eq!(state.at("10.0.0.1", ""), "c", "what is known is used");
    state.remove("c");
    state.remove("a");
    assert_eq!(state.at("10.0.0.1", ""), "quarantined b");
    state.put(pod("b", "10.0.0.2"));
    assert_eq!(state.at("10.0.0.1", ""), "unknown", "understood at last");
    assert_eq!(state.snapshot().counts().quarantined, 0);
}

#[test]
fn policies_apply_by_scope() {
    let mut state = State::new();
    let other = Workload::new("other", Default::default(), "elsewhere", "x").unwrap();
    let other = Workload {
        addresses: vec![[10, 0, 0, 2].into()],
        ..other
    };
    state.put(pod("pod", "10.0.0.1"));
    state.put(other);
    let denied = |name: &str| Err(Denied::Explicitly(PolicyKey::new("shop", name)));
    let both = |state: &State| {
        let snapshot = state.snapshot();
        (check(&snapshot, "pod"), check(&snapshot, "other"))
    };
    assert_eq!(both(&state), (Ok(()), Ok(())));
    state.put_policy(policy("selected", Scope::WorkloadSelector, Action::Deny));
    assert_eq!(both(&state), (Ok(()), Ok(())), "nobody selected");
    state.put_policy(policy("p", Scope::Namespace, Action::Deny));
    assert_eq!(both(&state), (denied("p"), Ok(())));
    state.put_policy(policy("p", Scope::Global, Action::Deny));
    assert_eq!(both(&state), (denied("p"), denied("p")));
    state.put_policy(policy("p", Scope::WorkloadSelector, Action::Deny));
    assert_eq!(both(&state), (Ok(()), Ok(())));
    state.put(Workload {
        authorization_policies: vec![PolicyKey::new("shop", "selected")],
        ..pod("pod", "10.0.0.1")
    });
    assert_eq!(both(&state), (denied("selected"), Ok(())));
}

#[test]
fn missing_and_misunderstood_policies_refuse() {
    let mut state = State::new();
    let key = PolicyKey::new("shop", "late");
    let missing = Err(Denied::PolicyMissing(key.clone()));
    state.put(Workload {
        authorization_policies: vec![key],
        ..pod("pod", "10.0.0.1")
    });
    assert_eq!(check(&state.snapshot(), "pod"), missing);
    state.put_policy(policy("late", Scope::WorkloadSelector, Action::Allow));
    assert_eq!(check(&state.snapshot(), "pod"), Ok(()));
    state.put(pod("pod", "10.0.0.1"));
    state.writer.policies(Delta {
        rejected: vec![RejectedResource {
            name: "shop/late".into(),
            addresses: Vec::new(),
            reason: "unknown action".into(),
        }],
        removed: vec!["shop/late".into()],
        ..Delta::default()
    });
    assert_eq!(check(&state.snapshot(), "pod"), missing, "rejected");
    state.put_policy(policy("late", Scope::WorkloadSelector, Action::Deny));
    assert_eq!(
        check(&state.snapshot(), "pod"),
        Ok(()),
        "understood, and not for this pod"
    );
}

#[test]
fn generation_and_epoch_move_only_for_a_reason() {
    let mut state = State::on_node(Some("node"));
    let remote = || Workload {
        node: "elsewhere".into(),
        ..pod("remote", "10.0.0.2")
    };
    let moved = |state: &mut State, change: &dyn Fn(&mut State)| {
        let before = state.snapshot();
        change(state);
        let after = state.snapshot();
        (
            after.generation() - before.generation(),
            after.policy_epoch() != before.policy_epoch(),
        )
    };
    assert_eq!(moved(&mut state, &|s| s.put(remote())), (1, false));
    assert_eq!(moved(&mut state, &|s| s.put(remote())), (0, false));
    assert_eq!(
        moved(&mut state, &|s| s.put(pod("here", "10.0.0.1"))),
        (1, true)
    );
    assert_eq!(moved(&mut state, &|s| s.put(service("x", &[]))), (1, false));
    assert_eq!(moved(&mut state, &|s| s.put(service("x", &[]))), (0, false));
    let deny = || policy("p", Scope::Global, Action::Deny);
    assert_eq!(moved(&mut state, &|s| s.put_policy(deny())), (1, true));
    assert_eq!(moved(&mut state, &|s| s.put_policy(deny())), (0, false));
    let attached = || Workload {
        authorization_policies: vec![PolicyKey::new("shop", "p")],
        ..pod("here", "10.0.0.1")
    };
    assert_eq!(moved(&mut state, &|s| s.put(attached())), (1, true));
    assert_eq!(moved(&mut state, &|s| s.remove("nothing")), (0, false));
}

#[test]
fn local_workloads_are_found_as_the_node_agent_names_them() {
    let mut state = State::on_node(Some("node"));
    state.put(pod("here", "10.0.0.1"));
    state.put(Workload {
        node: "elsewhere".into(),
        ..pod("there", "10.0.0.2")
    });
    let found = |state: &State, namespace: &str, name: &str, account: &str| {
        let snapshot = state.snapshot();
        snapshot.local_workload(namespace, name, account).is_some()
    };
    assert!(found(&state, "shop", "here", "here"));
    assert!(!found(&state, "shop", "here", "other-account"));
    assert!(!found(&state, "other", "here", "here"));
    assert!(!found(&state, "shop", "there", "there"), "on another node");
    assert_eq!(state.snapshot().local_workloads().count(), 1);
    state.put(Workload {
        node: "elsewhere".into(),
        ..pod("here", "10.0.0.1")
    });
    assert!(!found(&state, "shop", "here", "here"), "moved away");
}

#[test]
fn old_snapshots_do_not_change() {
    let mut state = State::new();
    state.put(pod("a", "10.0.0.1"));
    let before = state.snapshot();
    state.remove("a");
    assert!(before.workload(&Uid::new("a")).is_some());
    assert!(state.snapshot().workload(&Uid::new("a")).is_none());
}

#[tokio::test]
async fn readers_are_told_of_changes() {
    let mut state = State::new();
    let mut reader = state.reader.clone();
    let waiting = tokio::spawn({
        let reader = reader.clone();
        async move {
            reader
                .wait_for(|s| s.workload(&Uid::new("b")).cloned())
                .await
        }
    });
    state.put(pod("a", "10.0.0.1"));
    let snapshot = reader.changed().await.expect("the writer is there");
    assert_eq!(snapshot.generation(), 1);
    state.put(pod("b", "10.0.0.2"));
    assert_eq!(waiting.await.unwrap().expect("found").uid.as_str(), "b");
    assert!(reader.changed().await.is_some());
    drop(state);
    assert!(reader.changed().await.is_none());
}

#[test]
fn local_file_adds_to_the_control_plane() {
    let mut state = State::new();
    let local = |workload: Workload| Resource::Workload(Box::new(workload));
    let name_of = |state: &State, uid: &str| {
        let snapshot = state.snapshot();
        snapshot
            .workload(&Uid::new(uid))
            .map(|w| w.name.to_string())
    };
    let named = |name: &str| Workload {
        name: name.into(),
        ..pod("both", "10.0.0.1")
    };
    state
        .writer
        .replace_local([local(named("local")), local(pod("only", "10.0.0.2"))]);
    assert_eq!(name_of(&state, "both").unwrap(), "local");
    state.put(named("xds"));
    assert_eq!(name_of(&state, "both").unwrap(), "xds");
    state.writer.replace_local([local(named("local again"))]);
    assert_eq!(
        name_of(&state, "both").unwrap(),
        "xds",
        "reload does not win"
    );
    assert_eq!(name_of(&state, "only"), None, "gone from the file");
    state.remove("both");
    assert_eq!(name_of(&state, "both").unwrap(), "local again");
    state.remove("both");
    assert_eq!(
        name_of(&state, "both").unwrap(),
        "local again",
        "not the control plane's"
    );
    state.put(named("xds"));
    state.writer.replace_local([]);
    assert_eq!(name_of(&state, "both").unwrap(), "xds");
    state.writer.replace_local([local(named("local"))]);
    assert_eq!(
        name_of(&state, "both").unwrap(),
        "xds",
        "the control plane was first"
    );
    state.writer.replace_local([]);
    state.remove("both");
    assert_eq!(name_of(&state, "both"), None);
}

#[test]
fn policies_for_waypoints_are_found_by_their_targets() {
    use tulle_model::{PolicyKey, PolicyTarget, TargetKind};
    let mut state = State::new();
    let web = PolicyTarget::new(TargetKind::Service, "web");
    let class = PolicyTarget::new(TargetKind::GatewayClass, "c");
    let refusal = |namespace: &str, target: &PolicyTarget| Authorization {
        key: PolicyKey::for_target(namespace, "p", target),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
        authorizer: None,
    };
    let refused = |state: &State, namespace: &str, target: &PolicyTarget| {
        let snapshot = state.snapshot();
        let policies = snapshot.policies_about(&[(namespace.into(), target.clone())]);
        policies.check(&CONNECTION).is_err()
    };
    state.put_policy(refusal("shop", &web));
    state.put_policy(refusal("root", &class));
    assert!(refused(&state, "shop", &web) && !refused(&state, "other", &web));
    // A class is of no namespace.
    assert!(refused(&state, "shop", &class));
    // One that cannot be understood refuses what it is about, and nothing else.
    let of_class = PolicyKey::for_target(
        "root",
        "q",
        &PolicyTarget::new(TargetKind::GatewayClass, "d"),
    );
    for key in [
        of_class,
        PolicyKey::for_target("shop", "q", &PolicyTarget::new(TargetKind::Gateway, "g")),
    ] {
        state.writer.policies(Delta {
            rejected: vec![RejectedResource {
                name: key.to_string(),
                reason: "x".into(),
                addresses: Vec::new(),
            }],
            ..Delta::default()
        });
    }
    for (kind, name, expected) in [
        (TargetKind::GatewayClass, "d", true),
        (TargetKind::GatewayClass, "e", false),
        (TargetKind::Gateway, "g", true),
        (TargetKind::Gateway, "h", false),
    ] {
        assert_eq!(
            refused(&state, "shop", &PolicyTarget::new(kind, name)),
            expected,
            "{name}"
        );
    }
    // Whatever its scope says, it is none of a workload's.
    state.put(pod("a", "10.0.0.1"));
    let snapshot = state.snapshot();
    let workload = snapshot.workloads().next().unwrap();
    assert!(snapshot.policies_for(workload).check(&CONNECTION).is_ok());
    state.writer.policies(Delta {
        removed: vec![PolicyKey::for_target("shop", "p", &web).to_string()],
        ..Delta::default()
    });
    assert!(!refused(&state, "shop", &web));
}

const CONNECTION: Connection<'static> = Connection {
    identity: None,
    source_ip: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)),
    destination_ip: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    destination_port: 80,
};
