//! The table of health probes: written by difference, mended, taken away; and whose probes they are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use tulle_net::Netns;
use tulle_net::nft::{Batch, Element, Family, Rule, Set, Table, read_table, table_names};
use tulle_net::probes::{Changed, HostProbes, ProbeConfig, ProbeDrift, TABLE, kubelet_uid};

use crate::support::isolated;

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn element(ip: &str) -> Element {
    Element::address(ip.parse().unwrap())
}

fn table(host: &Netns) -> Table {
    read_table(host, Family::Inet, TABLE).unwrap().unwrap()
}

/// All addresses that the kernel has.
fn enrolled(host: &Netns) -> Vec<Element> {
    let sets = table(host).sets.into_iter();
    sets.flat_map(|set| set.elements).collect()
}

fn assert_enrolled(host: &Netns, pods: &BTreeSet<IpAddr>) {
    let found: BTreeSet<_> = enrolled(host).into_iter().collect();
    let expected = pods.iter().copied().map(Element::address).collect();
    assert_eq!(found, expected);
}

const REMADE: Changed = Changed {
    added: 0,
    removed: 0,
    remade: true,
};

fn elements(added: usize, removed: usize) -> Changed {
    Changed {
        added,
        removed,
        remade: false,
    }
}

#[test]
fn only_the_difference_is_written() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let probes = HostProbes::new(ProbeConfig::default());
        let none = elements(0, 0);
        for (pods, changed) in [
            (vec!["10.0.0.1", "fd00::1"], REMADE),
            (vec!["10.0.0.1", "fd00::1"], none),
            (
                vec!["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"],
                elements(2, 0),
            ),
            (vec!["10.0.0.2", "10.0.0.3", "fd00::2"], elements(1, 2)),
            // The same address twice, once as IPv6 sockets show it.
            (
                vec!["10.0.0.2", "::ffff:10.0.0.2", "10.0.0.3", "fd00::2"],
                none,
            ),
            (vec![], elements(0, 3)),
            (vec![], none),
        ] {
            let pods = ips(&pods);
            let did = probes.reconcile(&host, pods.iter().copied()).unwrap();
            assert_eq!(did, changed, "{pods:?}");
            let canonical = pods.iter().map(IpAddr::to_canonical).collect();
            assert_enrolled(&host, &canonical);
            probes.verify(&host, pods).unwrap();
        }
    });
}

#[test]
fn ten_thousand_pods_fit() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let probes = HostProbes::new(ProbeConfig::default());
        let pods: BTreeSet<IpAddr> = (0..10_000)
            .map(|n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into())
            .collect();
        probes.reconcile(&host, pods.iter().copied()).unwrap();
        assert_enrolled(&host, &pods);
        let did = probes.reconcile(&host, []).unwrap();
        assert_eq!(did, elements(0, 10_000));
    });
}

/// An address that stays is there whenever somebody looks, while others come and go and somebody else writes.
#[test]
fn what_stays_is_never_absent() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let probes = HostProbes::new(ProbeConfig::default());
        let staying = ips(&["10.0.0.1", "fd00::1"]);
        let coming = ips(&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]);
        probes.reconcile(&host, staying.iter().copied()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    // Reading gives up after some tries if writers are too fast for it.
                    let Ok(found) = read_table(&host, Family::Inet, TABLE) else {
                        continue;
                    };
                    let sets = found.expect("the table").sets;
                    let found: Vec<_> = sets.into_iter().flat_map(|set| set.elements).collect();
                    for ip in &staying {
                        assert!(found.contains(&Element::address(*ip)), "{ip} is absent");
                    }
                    looks += 1;
                }
                looks
            });
            for _ in 0..100 {
                for pods in [&coming, &staying] {
                    probes.reconcile(&host, pods.iter().copied()).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(looking.join().unwrap() > 0);
        });
    });
}

#[test]
fn every_drift_is_seen_and_mended() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let probes = HostProbes::new(ProbeConfig::default());
        let pods = ips(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        let right = || pods.iter().copied();
        let gone = probes.verify(&host, right()).unwrap_err();
        assert!(matches!(gone, ProbeDrift::TableMissing), "{gone}");
        probes.reconcile(&host, right()).unwrap();
        let original = table(&host);

        let [enrolled, other] = ["10.0.0.1", "10.0.0.9"].map(element);
        let (family, set) = (Family::Inet, "pods-v4");
        let delete = Batch::new().delete_elements(family, TABLE, set, &[enrolled]);
        let add = Batch::new().add_elements(family, TABLE, set, &[other]);
        let changed = |change: &dyn Fn(&mut Table)| {
            let mut table = original.clone();
            change(&mut table);
            Batch::new().replace(&table)
        };
        let counted: Rule = Rule::new().counter();
        let missing = "1 addresses of pods are missing in the table of probes, 0 are too many";
        let surplus = "0 addresses of pods are missing in the table of probes, 1 are too many";
        let rules = "the table of probes has other rules";
        for (batch, seen, mended) in [
            (delete, missing, elements(1, 0)),
            (add, surplus, elements(0, 1)),
            (
                Batch::new().delete(Family::Inet, TABLE),
                "the table of probes is gone",
                REMADE,
            ),
            (
                changed(&|table| table.chains[0].rules.insert(0, counted.clone())),
                rules,
                REMADE,
            ),
            (
                changed(&|table| table.chains[0].rules.clear()),
                rules,
                REMADE,
            ),
            (changed(&|table| table.chains.clear()), rules, REMADE),
            (
                changed(&|table| table.sets.push(Set::ports("more", [1]))),
                rules,
                REMADE,
            ),
        ] {
            batch.commit(&host).unwrap();
            assert_eq!(probes.verify(&host, right()).unwrap_err().to_string(), seen);
            assert_eq!(probes.reconcile(&host, right()).unwrap(), mended, "{seen}");
            assert_eq!(table(&host), original);
        }
    });
}

#[test]
fn other_settings_replace_the_rules() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let pods = ips(&["10.0.0.1", "fd00::1"]);
        for (uid, ipv6) in [
            (None, true),
            (Some(0), true),
            (Some(7), true),
            (None, false),
        ] {
            let probes = HostProbes::new(ProbeConfig {
                uid,
                ipv6,
                ..ProbeConfig::default()
            });
            let did = probes.reconcile(&host, pods.iter().copied()).unwrap();
            assert_eq!(did, REMADE);
            assert_eq!(enrolled(&host).len(), if ipv6 { 2 } else { 1 });
            let again = probes.reconcile(&host, pods.iter().copied()).unwrap();
            assert_eq!(again, elements(0, 0));
        }
    });
}

#[test]
fn removal_leaves_what_is_not_ours_and_can_be_repeated() {
    isolated(|| {
        let host = Netns::create().unwrap();
        let foreign = Table::new(Family::Inet, "foreign");
        Batch::new().create(&foreign).commit(&host).unwrap();
        let probes = HostProbes::new(ProbeConfig::default());
        probes.reconcile(&host, ips(&["10.0.0.1"])).unwrap();
        for _ in 0..2 {
            probes.remove(&host).unwrap();
            assert_eq!(table_names(&host, Family::Inet).unwrap(), ["foreign"]);
        }
    });
}

/// Far more looks than the kernel needs.
const MANY: usize = 1_000_000;

#[test]
fn the_kubelet_is_found_in_the_namespace_of_the_node() {
    isolated(|| {
        let (host, elsewhere) = (Netns::current().unwrap(), Netns::create().unwrap());
        let ours = nix::unistd::geteuid().as_raw();
        assert_eq!(kubelet_uid(Path::new("/proc"), &host), None);
        for name in ["kubelet", "k3s"] {
            let running = Named::start(name);
            assert_eq!(kubelet_uid(Path::new("/proc"), &host), Some(ours), "{name}");
            assert_eq!(kubelet_uid(Path::new("/proc"), &elsewhere), None, "{name}");
            drop(running);
            assert_eq!(
                kubelet_uid(Path::new("/proc"), &host),
                None,
                "{name} has ended"
            );
        }
        for name in ["kubelet2", "kubelite"] {
            let _running = Named::start(name);
            assert_eq!(kubelet_uid(Path::new("/proc"), &host), None, "{name}");
        }
    });
}

/// A program of this name that does nothing. Killed when dropped.
struct Named {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Named {
    fn start(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(name);
        std::fs::copy("/bin/sleep", &program).unwrap();
        let child = Command::new(program).arg("1000").spawn().unwrap();
        // A child takes its name a moment after it has begun to run.
        let comm = format!("/proc/{}/comm", child.id());
        let mut looks = std::iter::repeat_with(|| std::fs::read_to_string(&comm).unwrap());
        let is_named = |comm: String| comm.trim_end() == name;
        assert!(looks.by_ref().take(MANY).any(is_named), "{name}");
        Self {
            child,
            _directory: directory,
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
