//! What the agent knows of pods and namespaces.

use super::*;

const LISTS: &str = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dnode1&limit";

#[tokio::test]
async fn lists_and_watches_converge() {
    let server = Server::start().await;
    server.put(NAMESPACES, namespace("shop", "ambient"));
    server.put(PODS, pod("web-0", "node1", "u-1"));
    server.put(PODS, pod("web-1", "node2", "u-2"));
    let mut node = Node::of(server).await;
    {
        let objects = node.objects.borrow();
        assert_eq!(names(&objects), ["web-0"]);
        assert_eq!(mode(&objects, "shop").as_deref(), Some("ambient"));
        let known = objects.pod(&key("web-0")).unwrap();
        assert_eq!(
            (known.uid.as_str(), known.service_account.as_str()),
            ("u-1", "web")
        );
        assert_eq!(known.ips, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);
    }
    node.server.put(PODS, pod("web-2", "node1", "u-3"));
    node.knows(|objects| names(objects) == ["web-0", "web-2"])
        .await;
    node.server.remove(PODS, "shop", "web-0");
    node.server.put(NAMESPACES, namespace("shop", "none"));
    node.server
        .put(PODS, annotated(pod("web-2", "node1", "u-3"), "enabled"));
    node.knows(|objects| {
        let known = objects.pod(&key("web-2")).unwrap();
        names(objects) == ["web-2"]
            && mode(objects, "shop").as_deref() == Some("none")
            && known.facts.annotations.len() == 1
    })
    .await;
    node.server.remove(NAMESPACES, "", "shop");
    node.knows(|objects| mode(objects, "shop").is_none()).await;
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let server = Server::start().await;
    for number in 0..60 {
        server.put(
            PODS,
            pod(&format!("web-{number:02}"), "node1", &format!("u-{number}")),
        );
    }
    let node = Node::of(server).await;
    assert_eq!(node.objects.borrow().pods().count(), 60);
    let world = node.server.world();
    let pages = world.requests.iter();
    let pages = pages.filter(|request| request.contains("/pods") && request.contains("limit=25"));
    assert_eq!(pages.count(), 3);
}

#[tokio::test]
async fn cut_watch_goes_on_where_it_was() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    let mut node = Node::of(server).await;
    node.server.put(PODS, pod("web-1", "node1", "u-2"));
    node.knows(|objects| names(objects) == ["web-0", "web-1"])
        .await;
    node.server.cut();
    // While nobody watches.
    node.server.remove(PODS, "shop", "web-0");
    node.server.put(PODS, pod("web-2", "node1", "u-3"));
    node.knows(|objects| names(objects) == ["web-1", "web-2"])
        .await;
    assert_eq!(node.server.world().asked(LISTS), 1);
}

#[tokio::test]
async fn watch_that_ends_goes_on_from_the_last_bookmark() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    let mut node = Node::of(server).await;
    let watch = "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dnode1&watch";
    soon(node.server.until(|world| world.asked(watch) == 1)).await;
    let version = node.server.bookmark();
    node.server.end();
    node.server.forget_before(version);
    soon(node.server.until(|world| world.asked(watch) == 2)).await;
    node.server.put(PODS, pod("web-1", "node1", "u-2"));
    node.knows(|objects| names(objects) == ["web-0", "web-1"])
        .await;
    let world = node.server.world();
    assert_eq!(world.asked(LISTS), 1);
    let last = world
        .requests
        .iter()
        .rfind(|request| request.starts_with(watch));
    assert!(
        last.unwrap()
            .ends_with(&format!("&resourceVersion={version}")),
        "{last:?}"
    );
}

#[tokio::test]
async fn no_pod_vanishes_while_a_list_is_read_again() {
    let server = Server::start().await;
    for number in 0..60 {
        server.put(
            PODS,
            pod(&format!("web-{number:02}"), "node1", &format!("u-{number}")),
        );
    }
    let mut node = Node::of(server).await;
    node.server.cut();
    node.server.remove(PODS, "shop", "web-00");
    node.server.put(PODS, pod("web-60", "node1", "u-60"));
    let version = node.server.world().version();
    node.server.forget_before(version);
    // Every state on the way there.
    soon(async {
        while names(&node.objects.borrow_and_update()).last().unwrap() != "web-60" {
            assert_eq!(node.objects.borrow().pods().count(), 60);
            node.objects.changed().await.unwrap();
        }
    })
    .await;
    let objects = node.objects.borrow();
    assert_eq!(objects.pods().count(), 60);
    assert_eq!(objects.pod(&key("web-00")), None);
    assert_eq!(node.server.world().asked(LISTS), 6);
}

#[tokio::test]
async fn server_that_is_away_is_waited_for() {
    let server = Server::start().await;
    server.put(NAMESPACES, namespace("shop", "ambient"));
    server.put(PODS, pod("web-0", "node1", "u-1"));
    server.world().away = Some("");
    let mut node = Node::begin(server);
    soon(
        node.server
            .until(|world| world.asked("GET /api/v1/pods") >= 2),
    )
    .await;
    assert!(!node.objects.borrow().is_complete());
    node.server.world().away = None;
    node.knows(|objects| objects.is_complete() && names(objects) == ["web-0"])
        .await;

    node.server.world().away = Some("");
    node.server.cut();
    node.server.put(PODS, pod("web-1", "node1", "u-2"));
    let asked = node.server.world().requests.len();
    soon(node.server.until(|world| world.requests.len() > asked + 3)).await;
    assert_eq!(names(&node.objects.borrow()), ["web-0"]);
    assert_eq!(
        mode(&node.objects.borrow(), "shop").as_deref(),
        Some("ambient")
    );
    node.server.world().away = None;
    node.knows(|objects| names(objects) == ["web-0", "web-1"])
        .await;
}

#[tokio::test]
async fn object_that_cannot_be_understood_harms_no_other() {
    let server = Server::start().await;
    let mut odd = pod("odd", "node1", "u-9");
    odd["metadata"]["labels"] = json!(["not", "labels"]);
    server.put(PODS, odd.clone());
    server.put(PODS, pod("web-0", "node1", "u-1"));
    let mut node = Node::of(server).await;
    assert_eq!(names(&node.objects.borrow()), ["web-0"]);
    node.server.put(PODS, odd);
    node.server.put(PODS, pod("web-1", "node1", "u-2"));
    node.knows(|objects| names(objects) == ["web-0", "web-1"])
        .await;
}

#[tokio::test]
async fn one_pod_is_fetched_if_it_is_of_this_node() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    server.put(PODS, pod("web-1", "node2", "u-2"));
    let node = Node::begin(server);
    let fetch = async |key: &ObjectKey| soon(node.kubernetes.fetch(key)).await;
    let known = fetch(&key("web-0")).await.unwrap();
    assert_eq!(
        (known.uid.as_str(), known.facts.namespace.as_str()),
        ("u-1", "shop")
    );
    assert_eq!(fetch(&key("web-1")).await, None);
    assert_eq!(fetch(&key("web-2")).await, None);
    // No such name can be, so nobody is asked.
    assert_eq!(fetch(&key("web-0?a=b")).await, None);
    let world = node.server.world();
    assert_eq!(world.asked("GET /api/v1/namespaces/shop/pods/"), 3);
}
