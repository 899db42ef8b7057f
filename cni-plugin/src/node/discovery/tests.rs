//! Against real namespaces, each test in a sandbox of its own; what names them is made up.

use std::{fs, os::unix::fs::symlink};

use serde_json::json;
use tempfile::TempDir;
use tokio::task::LocalSet;
use tulle_lab::{Lab, LabSpec, Pod, PodSpec, sandbox, sandbox::Sandbox};

use super::{nri::tests::runtime_with, *};

/// A node with pods that nobody told of, and its sources in a folder.
struct Node {
    lab: Lab,
    folder: TempDir,
}

impl Node {
    async fn new(sandbox: &Sandbox) -> Self {
        let mut lab = Lab::create(sandbox, &LabSpec::default()).await.unwrap();
        for pod in ["shop/cart", "shop/web", "bank/ledger"] {
            lab.add_pod(PodSpec::new(pod, "node1")).await.unwrap();
        }
        let node = Self {
            lab,
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(node.folder.path().join("cni/results")).unwrap();
        node.process(1, "", &node.named("node1"), 0);
        node
    }

    /// Where a namespace of the lab has its name.
    fn named(&self, name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }

    fn wanted(&self, name: &str) -> Wanted {
        let pod = self.lab.pod(name);
        Wanted {
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            ips: pod.addresses().to_vec(),
        }
    }

    /// Leaves a result of CNI for a pod.
    fn result(&self, file: &str, uid: &str, netns: &Path) {
        let result = json!({
            "kind": "cniCacheV1", "containerId": file, "netns": netns, "cniArgs": [["K8S_POD_UID", uid]],
        });
        let path = self.folder.path().join("cni/results").join(file);
        fs::write(path, result.to_string()).unwrap();
    }

    /// Starts what looks like a process of a pod.
    fn process(&self, number: u32, uid: &str, netns: &Path, started: u64) {
        let directory = self.folder.path().join(format!("proc/{number}"));
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(netns, directory.join("ns/net")).unwrap();
        let cgroup = format!("0::/kubepods/pod{uid}/{}\n", "a".repeat(64));
        fs::write(directory.join("cgroup"), cgroup).unwrap();
        let zeros = "0 ".repeat(18);
        fs::write(
            directory.join("stat"),
            format!("{number} (app) S {zeros}{started}"),
        )
        .unwrap();
    }

    fn config(&self) -> DiscoveryConfig {
        DiscoveryConfig {
            cache: self.folder.path().join("cni"),
            nri: None,
            proc: self.folder.path().join("proc"),
            names: "/run/netns".into(),
        }
    }

    async fn find_with(
        &self,
        config: DiscoveryConfig,
        wanted: Vec<Wanted>,
    ) -> Vec<Result<Found, NotFound>> {
        let own = Netns::current().unwrap().id();
        let found = Discovery::new(config, own).find(wanted.clone()).await;
        let (pods, found): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        assert_eq!(pods, wanted, "all are answered for, in their order");
        found
    }

    async fn find(&self, wanted: Wanted) -> Result<Found, NotFound> {
        let mut found = self.find_with(self.config(), vec![wanted]).await;
        found.pop().unwrap()
    }
}

fn check(found: &Result<Found, NotFound>, pod: &Pod, source: Source, container: Option<&str>) {
    let found = found.as_ref().unwrap();
    assert_eq!(found.netns.id(), pod.netns().id(), "{}", pod.full_name());
    assert_eq!(found.cookie, pod.netns().cookie().unwrap());
    assert_eq!(found.path, Path::new("/run/netns").join(pod.netns_name()));
    assert_eq!(
        (found.source, found.container.as_deref()),
        (source, container)
    );
}

#[test]
fn every_source_alone_leads_to_a_pod() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let pods = ["shop/cart", "shop/web", "bank/ledger"].map(|name| node.wanted(name));
        let [cart, web, ledger] = &pods;
        node.result("c-cart", &cart.uid, &node.named("shop-cart"));
        node.process(20, &ledger.uid, &node.named("bank-ledger"), 7);
        let told = runtime_with("c-web", &web.uid, &node.named("shop-web"));
        let local = LocalSet::new();
        let found = local.run_until(async {
            let (_folder, socket, played) = told.start();
            let config = DiscoveryConfig {
                nri: Some(socket),
                ..node.config()
            };
            let found = node.find_with(config, pods.to_vec()).await;
            played.await.unwrap();
            found
        });
        let found = found.await;
        check(
            &found[0],
            node.lab.pod("shop/cart"),
            Source::Cache,
            Some("c-cart"),
        );
        check(
            &found[1],
            node.lab.pod("shop/web"),
            Source::Nri,
            Some("c-web"),
        );
        check(&found[2], node.lab.pod("bank/ledger"), Source::Proc, None);
    });
}

#[test]
fn the_kernels_own_proc_can_be_read() {
    sandbox::test(async |_| {
        let nobody = "00000000-0000-4000-8000-000000000000".to_owned();
        let scan = proc::scan(Path::new("/proc"), &HashSet::from([nobody])).unwrap();
        // Process 1 is this test.
        assert_eq!(scan.node, Netns::current().unwrap().id());
        assert_eq!(scan.claims, []);
    });
}

#[test]
fn a_namespace_without_a_name_is_where_its_oldest_process_is() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let cart = node.wanted("shop/cart");
        node.process(20, &cart.uid, &node.named("shop-cart"), 9);
        node.process(30, &cart.uid, &node.named("shop-cart"), 8);
        let config = DiscoveryConfig {
            names: node.folder.path().join("none"),
            ..node.config()
        };
        let found = node.find_with(config.clone(), vec![cart]).await;
        let found = found[0].as_ref().unwrap();
        assert_eq!(found.path, config.proc.join("30/ns/net"));
        assert_eq!(found.netns.id(), node.lab.pod("shop/cart").netns().id());
    });
}

#[test]
fn a_result_that_a_dead_sandbox_left_does_not_win() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let cart = node.wanted("shop/cart");
        // The path is gone, or another pod has it now, or it is no namespace at all.
        node.result("c-gone", &cart.uid, &node.named("gone"));
        let gone = node.find(cart.clone()).await.unwrap_err();
        assert!(
            matches!(
                &gone,
                NotFound::Refused {
                    why: Refusal::Unusable(_),
                    ..
                }
            ),
            "{gone}"
        );
        fs::remove_file(node.folder.path().join("cni/results/c-gone")).unwrap();
        node.result("c-reused", &cart.uid, &node.named("shop-web"));
        let reused = node.find(cart.clone()).await.unwrap_err();
        let text = "its network namespace /run/netns/shop-web holds none of its addresses";
        assert_eq!(reused.to_string(), text);
        node.result(
            "c-file",
            &cart.uid,
            &node.folder.path().join("cni/results/c-reused"),
        );
        node.process(20, &cart.uid, &node.named("shop-cart"), 7);
        check(
            &node.find(cart).await,
            node.lab.pod("shop/cart"),
            Source::Proc,
            None,
        );
    });
}

#[test]
fn the_same_namespace_by_two_sources_is_one() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let cart = node.wanted("shop/cart");
        // An interface each.
        node.result("c-cart", &cart.uid, &node.named("shop-cart"));
        let results = node.folder.path().join("cni/results");
        fs::copy(results.join("c-cart"), results.join("c-cart-net1")).unwrap();
        node.process(20, &cart.uid, &node.named("shop-cart"), 7);
        check(
            &node.find(cart).await,
            node.lab.pod("shop/cart"),
            Source::Cache,
            Some("c-cart"),
        );
    });
}

#[test]
fn a_process_whose_number_is_anothers_now_leads_nowhere() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let cart = node.wanted("shop/cart");
        let claim = |id| Claim {
            whose: Whose::Uid(cart.uid.clone()),
            path: node.named("shop-cart"),
            id: Some(id),
            container: None,
            source: Source::Proc,
        };
        let judge = |id| {
            let claims = [claim(id)];
            let mut judged =
                Judge::new(&claims, &[], Path::new("/run/netns")).all(std::slice::from_ref(&cart));
            judged.pop().unwrap()
        };
        let seen = |name: &str| node.lab.pod(name).netns().id();
        check(
            &judge(seen("shop/cart")),
            node.lab.pod("shop/cart"),
            Source::Proc,
            None,
        );
        let why = judge(seen("shop/web")).unwrap_err();
        assert!(
            matches!(
                &why,
                NotFound::Refused {
                    why: Refusal::Replaced,
                    ..
                }
            ),
            "{why}"
        );
    });
}

#[test]
fn of_two_namespaces_that_could_be_its_none_is_taken() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        // As if both namespaces held one address of it.
        let both = |name: &str| Wanted {
            ips: vec![
                node.lab.pod("shop/cart").ip(),
                node.lab.pod("shop/web").ip(),
            ],
            ..node.wanted(name)
        };
        let (cart, web) = (both("shop/cart"), both("shop/web"));
        node.result("c-cart", &cart.uid, &node.named("shop-cart"));
        node.process(20, &cart.uid, &node.named("shop-web"), 1);
        node.process(30, &web.uid, &node.named("shop-web"), 1);
        node.process(40, &web.uid, &node.named("shop-cart"), 2);
        for pod in [cart, web] {
            let error = node.find(pod).await.unwrap_err();
            assert!(matches!(&error, NotFound::Ambiguous { .. }), "{error}");
        }
    });
}

#[test]
fn a_namespace_of_two_pods_is_neithers() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let (cart, web) = (node.wanted("shop/cart"), node.wanted("shop/web"));
        let thief = Wanted {
            ips: cart.ips.clone(),
            ..node.wanted("bank/ledger")
        };
        for (file, pod) in [("c-1", &cart), ("c-2", &thief)] {
            node.result(file, &pod.uid, &node.named("shop-cart"));
        }
        node.result("c-3", &web.uid, &node.named("shop-web"));
        let wanted = vec![cart.clone(), web, thief.clone()];
        let found = node.find_with(node.config(), wanted).await;
        let shared_with = |found: &Result<Found, NotFound>, uid: &str| matches!(found, Err(NotFound::Shared { other, .. }) if other == uid);
        assert!(shared_with(&found[0], &thief.uid), "{found:?}");
        assert!(shared_with(&found[2], &cart.uid), "{found:?}");
        check(
            &found[1],
            node.lab.pod("shop/web"),
            Source::Cache,
            Some("c-3"),
        );
    });
}

#[test]
fn the_nodes_namespace_and_the_agents_are_no_pods() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let on_node = Wanted {
            ips: node.lab.node("node1").addresses(),
            ..node.wanted("shop/cart")
        };
        let agent = node.wanted("shop/web");
        node.result("c-1", &on_node.uid, &node.named("node1"));
        node.result("c-2", &agent.uid, &node.named("shop-web"));
        let own = node.lab.pod("shop/web").netns().id();
        let discovery = Discovery::new(node.config(), own);
        let found = discovery.find(vec![on_node, agent]).await;
        for (pod, found) in found {
            let why = found.map(|found| found.path).unwrap_err();
            let refused = matches!(
                &why,
                NotFound::Refused {
                    why: Refusal::Node,
                    ..
                }
            );
            assert!(refused, "{}: {why}", pod.name);
        }
    });
}

#[test]
fn a_source_that_cannot_be_read_leaves_the_others() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let cart = node.wanted("shop/cart");
        node.result("c-cart", &cart.uid, &node.named("shop-cart"));
        let missing = node.folder.path().join("missing");
        let config = DiscoveryConfig {
            proc: missing.clone(),
            nri: Some(missing.clone()),
            ..node.config()
        };
        let found = node.find_with(config, vec![cart.clone()]).await;
        check(
            &found[0],
            node.lab.pod("shop/cart"),
            Source::Cache,
            Some("c-cart"),
        );
        node.process(20, &cart.uid, &node.named("shop-cart"), 7);
        let config = DiscoveryConfig {
            cache: missing,
            ..node.config()
        };
        let found = node.find_with(config, vec![cart]).await;
        check(&found[0], node.lab.pod("shop/cart"), Source::Proc, None);
    });
}

#[test]
fn pods_without_an_address_and_pods_that_nobody_knows_are_not_found() {
    sandbox::test(async |sandbox| {
        let node = Node::new(&sandbox).await;
        let without = |ips: &[&str]| Wanted {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..node.wanted("shop/cart")
        };
        let uid = without(&[]).uid;
        node.result("c-cart", &uid, &node.named("shop-cart"));
        // Every namespace has these.
        for ips in [[].as_slice(), &["127.0.0.1", "::1", "0.0.0.0"]] {
            for company in [vec![], vec![node.wanted("shop/web")]] {
                let wanted = [vec![without(ips)], company].concat();
                let found = node.find_with(node.config(), wanted).await;
                assert!(matches!(&found[0], Err(NotFound::NoAddress)), "{found:?}");
                assert!(
                    found[1..]
                        .iter()
                        .all(|web| matches!(web, Err(NotFound::Unknown))),
                    "{found:?}"
                );
            }
        }
    });
}
