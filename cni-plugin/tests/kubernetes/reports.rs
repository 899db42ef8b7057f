//! What the agent tells of its pods.

use super::*;

const ENABLED: Option<Redirection> = Some(Redirection::Enabled);

#[tokio::test]
async fn annotation_is_written_changed_and_removed() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    let node = Node::of(server).await;
    let is = |value: Option<&str>| {
        let value = value.map(str::to_owned);
        soon(
            node.server
                .until(move |world| world.annotation("shop", "web-0") == value),
        )
    };
    node.tell("web-0", "u-1", Some(Redirection::Pending), None);
    is(Some("pending")).await;
    node.tell("web-0", "u-1", ENABLED, None);
    is(Some("enabled")).await;
    node.tell("web-0", "u-1", None, None);
    is(None).await;
    let world = node.server.world();
    assert_eq!(world.patches.len(), 3);
    assert_eq!(world.patches[0]["metadata"]["uid"], "u-1");
}

#[tokio::test]
async fn what_is_there_already_is_not_written() {
    let server = Server::start().await;
    server.put(PODS, annotated(pod("web-0", "node1", "u-1"), "enabled"));
    server.put(PODS, pod("web-1", "node1", "u-2"));
    let node = Node::of(server).await;
    node.tell("web-0", "u-1", ENABLED, None);
    node.tell("web-1", "u-2", ENABLED, None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-1").is_some()),
    )
    .await;
    // Whoever may have been in its way.
    node.tell("web-1", "u-2", None, None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-1").is_none()),
    )
    .await;
    let world = node.server.world();
    assert_eq!(world.asked("PATCH"), 2);
    assert_eq!(world.asked("PATCH /api/v1/namespaces/shop/pods/web-0/"), 0);
}

#[tokio::test]
async fn namesake_is_left_alone() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    let mut node = Node::of(server).await;
    // The server has another pod of the name already, which no watch shows.
    node.server.world().away = Some("GET");
    node.server.cut();
    soon(
        node.server
            .until(|world| world.asked("GET /api/v1/pods") >= 3),
    )
    .await;
    node.server.remove(PODS, "shop", "web-0");
    node.server.put(PODS, pod("web-0", "node1", "u-2"));
    node.tell("web-0", "u-1", ENABLED, None);
    soon(
        node.server
            .until(|world| world.asked("PATCH") == 1 && world.idle()),
    )
    .await;
    assert_eq!(node.server.annotation("shop", "web-0"), None);
    node.server.world().away = None;
    node.knows(|objects| {
        objects
            .pod(&key("web-0"))
            .is_some_and(|pod| pod.uid == "u-2")
    })
    .await;
    node.tell("web-0", "u-2", Some(Redirection::Pending), None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-0").is_some()),
    )
    .await;
    let world = node.server.world();
    assert_eq!(
        world.annotation("shop", "web-0").as_deref(),
        Some("pending")
    );
    assert_eq!(world.patches.len(), 1);
}

#[tokio::test]
async fn forged_annotation_goes_once_all_is_known() {
    let server = Server::start().await;
    server.put(PODS, annotated(pod("forged", "node1", "u-1"), "enabled"));
    server.put(PODS, annotated(pod("other", "node2", "u-2"), "enabled"));
    server.put(PODS, pod("web-0", "node1", "u-3"));
    let node = Node::of(server).await;
    node.tell("web-0", "u-3", ENABLED, None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-0").is_some()),
    )
    .await;
    let annotation = node.server.annotation("shop", "forged");
    assert_eq!(annotation.as_deref(), Some("enabled"));

    node.caught_up.send_replace(true);
    soon(
        node.server
            .until(|world| world.annotation("shop", "forged").is_none()),
    )
    .await;
    // Forged again.
    node.server
        .put(PODS, annotated(pod("forged", "node1", "u-1"), "pending"));
    soon(
        node.server
            .until(|world| world.annotation("shop", "forged").is_none()),
    )
    .await;
    let world = node.server.world();
    assert_eq!(
        world.annotation("shop", "web-0").as_deref(),
        Some("enabled")
    );
    assert_eq!(
        world.annotation("shop", "other").as_deref(),
        Some("enabled")
    );
}

#[tokio::test]
async fn problem_becomes_one_event() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    server.put(PODS, pod("web-1", "node1", "u-2"));
    let node = Node::of(server).await;
    node.tell("web-0", "u-1", None, Some("not capturable: hostNetwork"));
    soon(node.server.until(|world| world.events.len() == 1)).await;
    node.tell("web-0", "u-1", None, Some("not capturable: hostNetwork"));
    node.tell("web-1", "u-2", None, Some("no ztunnel"));
    soon(node.server.until(|world| world.events.len() == 2)).await;
    let world = node.server.world();
    assert_eq!(world.asked("POST"), 2);
    let told = &world.events[0];
    assert_eq!(told["note"], "not capturable: hostNetwork");
    assert_eq!(told["reason"], "NotCapturable");
    assert_eq!(told["reportingInstance"], "node1");
    assert_eq!(
        (&told["regarding"]["name"], &told["regarding"]["uid"]),
        (&json!("web-0"), &json!("u-1"))
    );
    assert_eq!(world.events[1]["regarding"]["uid"], "u-2");
}

#[tokio::test]
async fn outage_is_made_up_for_without_a_storm() {
    let server = Server::start().await;
    for number in 0..40 {
        server.put(
            PODS,
            pod(&format!("web-{number}"), "node1", &format!("u-{number}")),
        );
    }
    let node = Node::of(server).await;
    node.server.world().refuse = Some(StatusCode::SERVICE_UNAVAILABLE);
    for number in 0..40 {
        let (name, uid) = (format!("web-{number}"), format!("u-{number}"));
        node.tell(&name, &uid, ENABLED, None);
    }
    soon(node.server.until(|world| world.asked("PATCH") >= 1)).await;
    // Only the last word counts.
    node.tell("web-0", "u-0", Some(Redirection::Pending), None);
    soon(node.server.until(|world| world.asked("PATCH") >= 9)).await;
    {
        let mut world = node.server.world();
        // Not one for each pod: a few were under way when the first was refused.
        assert!(world.asked("PATCH") <= 12, "{}", world.asked("PATCH"));
        world.refuse = None;
        world.requests.clear();
    }
    soon(node.server.until(|world| world.patches.len() >= 40)).await;
    let world = node.server.world();
    assert_eq!((world.patches.len(), world.asked("PATCH")), (40, 40));
    assert!(world.busiest <= 6, "{} at a time", world.busiest);
    assert_eq!(
        world.annotation("shop", "web-0").as_deref(),
        Some("pending")
    );
    assert_eq!(
        world.annotation("shop", "web-39").as_deref(),
        Some("enabled")
    );
}

#[tokio::test]
async fn pod_that_is_refused_is_tried_again_and_holds_up_no_other() {
    let server = Server::start().await;
    server.put(PODS, pod("web-0", "node1", "u-1"));
    server.put(PODS, pod("web-1", "node1", "u-2"));
    let node = Node::of(server).await;
    node.server.world().refuse = Some(StatusCode::CONFLICT);
    node.tell("web-0", "u-1", ENABLED, None);
    soon(node.server.until(|world| world.asked("PATCH") == 1)).await;
    node.server.world().refuse = None;
    node.tell("web-1", "u-2", ENABLED, None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-1").is_some()),
    )
    .await;
    assert_eq!(node.server.annotation("shop", "web-0"), None);
    soon(
        node.server
            .until(|world| world.annotation("shop", "web-0").is_some()),
    )
    .await;
}
