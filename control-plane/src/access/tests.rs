use super::*;
use crate::testing;
use tulle_manifest::ObjectKey;

const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: zt1, namespace: istio-system, uid: u1}
  spec: {nodeName: n1, serviceAccountName: ztunnel}
- apiVersion: v1
  kind: Pod
  metadata: {name: cart, namespace: shop, uid: c1}
  spec: {nodeName: n1, serviceAccountName: cart}
- apiVersion: v1
  kind: Pod
  metadata: {name: far, namespace: shop, uid: f1}
  spec: {nodeName: n2, serviceAccountName: far}
- apiVersion: v1
  kind: Pod
  metadata: {name: unscheduled, namespace: shop, uid: x1}
  spec: {serviceAccountName: unscheduled}
- apiVersion: v1
  kind: Pod
  metadata: {name: failed, namespace: shop, uid: x2}
  spec: {nodeName: n1, serviceAccountName: failed}
  status: {phase: Failed}
- apiVersion: v1
  kind: Pod
  metadata: {name: done, namespace: shop, uid: x3}
  spec: {nodeName: n1, serviceAccountName: done}
  status: {phase: Succeeded}
- apiVersion: v1
  kind: Pod
  metadata: {name: pending, namespace: shop, uid: x4}
  spec: {nodeName: n1, serviceAccountName: pending}
  status: {phase: Pending}
- apiVersion: v1
  kind: Pod
  metadata: {name: out, namespace: shop, uid: x5, labels: {istio.io/dataplane-mode: none}}
  spec: {nodeName: n1, serviceAccountName: out}
- apiVersion: v1
  kind: Pod
  metadata: {name: host, namespace: shop, uid: x6}
  spec: {nodeName: n1, serviceAccountName: host, hostNetwork: true}
- apiVersion: v1
  kind: Pod
  metadata: {name: bare, namespace: plain, uid: x7}
  spec: {nodeName: n1}
- apiVersion: v1
  kind: Pod
  metadata: {name: in, namespace: plain, uid: x8, labels: {istio.io/dataplane-mode: ambient}}
  spec: {nodeName: n1, serviceAccountName: in}
- apiVersion: v1
  kind: Pod
  metadata: {name: gateway, namespace: plain, uid: x9, labels: {gateway.istio.io/managed: x}}
  spec: {nodeName: n1, serviceAccountName: gateway}
";

fn cluster(edit: impl Fn(&str) -> String) -> Objects {
    let mut objects = Objects::default();
    for object in testing::objects(&edit(CLUSTER)) {
        objects.upsert(object);
    }
    objects
}

fn ztunnel() -> Caller {
    Caller {
        account: ObjectKey::new("istio-system", "ztunnel"),
        pod: "zt1".to_owned(),
        pod_uid: "u1".to_owned(),
        node: Some("n1".to_owned()),
    }
}

#[test]
fn a_node_proxy_gets_the_identities_of_its_node() {
    let objects = cluster(str::to_owned);
    let id = |account: &str| format!("spiffe://cluster.local/ns/{account}");
    for (requested, expected) in [
        (id("shop/sa/cart"), Ok(())),
        (id("shop/sa/pending"), Ok(())),
        (id("plain/sa/in"), Ok(())),
        (id("plain/sa/gateway"), Ok(())),
        (id("shop/sa/far"), Err(Refusal::NotOnNode)),
        (id("shop/sa/unscheduled"), Err(Refusal::NotOnNode)),
        (id("shop/sa/failed"), Err(Refusal::NotOnNode)),
        (id("shop/sa/done"), Err(Refusal::NotOnNode)),
        (id("shop/sa/out"), Err(Refusal::NotOnNode)),
        (id("shop/sa/host"), Err(Refusal::NotOnNode)),
        (id("plain/sa/default"), Err(Refusal::NotOnNode)),
        (id("plain/sa/cart"), Err(Refusal::NotOnNode)),
        (id("shop/sa/nobody"), Err(Refusal::NotOnNode)),
        // Its own is no exception: it is not selected for the mesh.
        (id("istio-system/sa/ztunnel"), Err(Refusal::NotOnNode)),
        (
            "spiffe://other/ns/shop/sa/cart".to_owned(),
            Err(Refusal::OtherTrustDomain),
        ),
        (
            "spiffe://cluster.local/ns/shop/sa/cart/x".to_owned(),
            Err(Refusal::Identity(InvalidSpiffeId::Shape)),
        ),
        (
            id("shop/sa/cart,cart"),
            Err(Refusal::Identity(InvalidSpiffeId::Segment)),
        ),
        (
            String::new(),
            Err(Refusal::Identity(InvalidSpiffeId::Scheme)),
        ),
    ] {
        let got = certificate(&Mesh::default(), &objects, &ztunnel(), Some(&requested));
        let account = Account::Node("n1".to_owned());
        let expected = expected.map(|()| (requested.parse().unwrap(), account));
        assert_eq!(got, expected, "{requested}");
    }
}

#[test]
fn a_caller_must_be_what_its_token_says_right_now() {
    let same = |text: &str| text.to_owned();
    let zt1 = "metadata: {name: zt1, namespace: istio-system, uid: u1}";
    let on_n1 = "spec: {nodeName: n1, serviceAccountName: ztunnel}";
    let change = |edit: fn(&mut Caller)| {
        let mut caller = ztunnel();
        edit(&mut caller);
        caller
    };
    let replaced =
        |from: &'static str, to: &'static str| cluster(move |text| text.replace(from, to));
    for (case, objects, caller, expected) in [
        ("as it should be", cluster(same), ztunnel(), Ok("n1")),
        (
            "no node in the token",
            cluster(same),
            change(|c| c.node = None),
            Ok("n1"),
        ),
        (
            "not a node proxy",
            cluster(same),
            Caller {
                account: ObjectKey::new("shop", "cart"),
                pod: "cart".to_owned(),
                pod_uid: "c1".to_owned(),
                node: None,
            },
            Err(Refusal::NotTrusted),
        ),
        (
            "same account name elsewhere",
            cluster(same),
            change(|c| c.account = ObjectKey::new("shop", "ztunnel")),
            Err(Refusal::NotTrusted),
        ),
        (
            "deleted pod",
            replaced("name: zt1", "name: zt2"),
            ztunnel(),
            Err(Refusal::NoPod),
        ),
        (
            "recreated pod of the same name",
            replaced(
                zt1,
                "metadata: {name: zt1, namespace: istio-system, uid: u2}",
            ),
            ztunnel(),
            Err(Refusal::OtherPod),
        ),
        (
            "pod without a uid",
            replaced(zt1, "metadata: {name: zt1, namespace: istio-system}"),
            ztunnel(),
            Err(Refusal::OtherPod),
        ),
        (
            "ended pod",
            replaced(
                on_n1,
                "spec: {nodeName: n1, serviceAccountName: ztunnel}\n  status: {phase: Failed}",
            ),
            ztunnel(),
            Err(Refusal::OtherPod),
        ),
        (
            "pod of another account",
            replaced(on_n1, "spec: {nodeName: n1, serviceAccountName: other}"),
            ztunnel(),
            Err(Refusal::OtherAccount),
        ),
        (
            "pod on another node than the token says",
            replaced(on_n1, "spec: {nodeName: n2, serviceAccountName: ztunnel}"),
            ztunnel(),
            Err(Refusal::OtherNode),
        ),
        (
            "pod on no node",
            replaced(on_n1, "spec: {serviceAccountName: ztunnel}"),
            change(|c| c.node = None),
            Err(Refusal::OtherNode),
        ),
    ] {
        let mesh = Mesh::default();
        assert_eq!(node_proxy(&mesh, &objects, &caller), expected, "{case}");
        // What a node proxy may ask for, and nobody for anybody else.
        let requested = "spiffe://cluster.local/ns/shop/sa/pending";
        let certificate = certificate(&mesh, &objects, &caller, Some(requested));
        assert_eq!(certificate.map(drop), expected.map(drop), "{case}");
    }
}

#[test]
fn without_a_request_a_caller_gets_its_own_identity() {
    let objects = cluster(str::to_owned);
    let cart = Caller {
        account: ObjectKey::new("shop", "cart"),
        pod: "cart".to_owned(),
        pod_uid: "c1".to_owned(),
        node: None,
    };
    let mesh = Mesh::default();
    let (id, account) = certificate(&mesh, &objects, &cart, None).unwrap();
    assert_eq!(
        (id.to_string().as_str(), account),
        (
            "spiffe://cluster.local/ns/shop/sa/cart",
            Account::Pod("c1".into())
        )
    );
    // It is the mesh that decides who is in it.
    let others = Mesh {
        enablement: "[{podSelector: {matchLabels: {mesh: other}}}]"
            .parse()
            .unwrap(),
        ..Mesh::default()
    };
    assert_eq!(
        certificate(&others, &objects, &cart, None),
        Err(Refusal::NotInMesh)
    );
    let cart_id = id.to_string();
    assert_eq!(
        certificate(&others, &objects, &ztunnel(), Some(&cart_id)),
        Err(Refusal::NotOnNode)
    );
    let recreated = Caller {
        pod_uid: "c2".to_owned(),
        ..cart
    };
    assert_eq!(
        certificate(&mesh, &objects, &recreated, None),
        Err(Refusal::OtherPod)
    );
}

const WAYPOINTS: &str = "
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: w, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: []}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: other, namespace: shop}, spec: {gatewayClassName: nginx, listeners: []}}
---
apiVersion: v1
kind: Pod
metadata: {name: w-1, namespace: shop, uid: w1, labels: {gateway.networking.k8s.io/gateway-name: NAME, gateway.istio.io/managed: x}}
spec: {nodeName: n1, serviceAccountName: w}
";

#[test]
fn the_instances_of_a_waypoint_follow_the_mesh_and_have_their_own_identity() {
    let caller = |name: &str, uid: &str, account: &str| Caller {
        account: ObjectKey::new("shop", account),
        pod: name.to_owned(),
        pod_uid: uid.to_owned(),
        node: Some("n1".to_owned()),
    };
    let world = |gateway: &'static str| {
        cluster(move |text| [text, &WAYPOINTS.replace("NAME", gateway)].concat())
    };
    let mesh = Mesh::default();
    let instance = caller("w-1", "w1", "w");
    let follows = |objects: &Objects, caller: &Caller| {
        follower(&mesh, objects, caller).map(ToOwned::to_owned)
    };
    let objects = world("w");
    assert_eq!(follows(&objects, &instance), Ok("n1".to_owned()));
    assert_eq!(follows(&objects, &ztunnel()), Ok("n1".to_owned()));
    // Another pod of the namespace, one of before, and of a Gateway that is no waypoint, or is not there.
    let cart = caller("cart", "c1", "cart");
    assert_eq!(follows(&objects, &cart), Err(Refusal::NoProxy));
    let before = caller("w-1", "w0", "w");
    assert_eq!(follows(&objects, &before), Err(Refusal::OtherPod));
    for gateway in ["other", "none"] {
        assert_eq!(follows(&world(gateway), &instance), Err(Refusal::NoProxy));
    }
    // Its certificate is for itself, whether it says so or not.
    let own = "spiffe://cluster.local/ns/shop/sa/w";
    for requested in [None, Some(own)] {
        let (id, account) = certificate(&mesh, &objects, &instance, requested).unwrap();
        assert_eq!((id.as_str(), account), (own, Account::Pod("w1".to_owned())));
    }
    let other = Some("spiffe://cluster.local/ns/shop/sa/cart");
    let refused = certificate(&mesh, &objects, &instance, other);
    assert_eq!(refused, Err(Refusal::NotTrusted));
}
