use super::*;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use crate::client::{Request, ZdsClient};
use crate::socket::PacketSocket;

struct Lab {
    server: ZdsServer,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // A directory that is not there yet.
        let path = directory.path().join("ztunnel/zds.sock");
        Self {
            server: ZdsServer::bind(&path, config).unwrap(),
            path,
            _directory: directory,
        }
    }

    async fn connect(&self) -> ZdsClient {
        ZdsClient::connect(&self.path).await.unwrap()
    }

    /// A ztunnel that has taken the snapshot, and what was in it.
    async fn connect_in_step(&self) -> (ZdsClient, Vec<String>) {
        let mut client = self.connect().await;
        let mut snapshot = Vec::new();
        loop {
            match next(&mut client).await {
                end if end == "snapshot sent" => return (client, snapshot),
                other => snapshot.push(other),
            }
        }
    }

    async fn add(&self, uid: &str) -> Result<(), AddError> {
        self.server.add(uid, info(), null()).await
    }

    async fn connected(&self, count: usize) {
        let mut connected = self.server.connected();
        connected.wait_for(|&now| now == count).await.unwrap();
    }
}

/// The next request as text, answered.
async fn next(client: &mut ZdsClient) -> String {
    answer(client, Ok(())).await
}

async fn answer(client: &mut ZdsClient, answer: Result<(), &str>) -> String {
    let request = receive(client).await;
    client.ack(answer.map_err(str::to_owned)).await.unwrap();
    request
}

async fn receive(client: &mut ZdsClient) -> String {
    match client.recv().await.unwrap().expect("server closed") {
        Request::Add { uid, info, .. } => format!("add {uid} {}", info.namespace),
        Request::Keep { uid } => format!("keep {uid}"),
        Request::Del { uid } => format!("del {uid}"),
        Request::SnapshotSent => "snapshot sent".into(),
    }
}

async fn assert_closed(client: &mut ZdsClient) {
    assert!(!matches!(client.recv().await, Ok(Some(_))));
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn info() -> PodInfo {
    PodInfo {
        name: "web-0".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
    }
}

#[tokio::test]
async fn add_hands_over_the_descriptor_and_returns_the_answer() {
    let lab = Lab::new();
    let (mut client, snapshot) = lab.connect_in_step().await;
    assert_eq!(snapshot, [""; 0]);
    let file = lab.path.with_file_name("netns");
    std::fs::write(&file, "the one").unwrap();
    let netns = OwnedFd::from(File::open(&file).unwrap());

    let ztunnel = async {
        let Some(Request::Add { uid, info, netns }) = client.recv().await.unwrap() else {
            panic!("not an add");
        };
        assert_eq!((uid.as_str(), info), ("a", self::info()));
        assert_eq!(io::read_to_string(File::from(netns)).unwrap(), "the one");
        client.ack(Ok(())).await.unwrap();
    };
    let (added, ()) = tokio::join!(lab.server.add("a", info(), netns), ztunnel);
    assert_eq!(added, Ok(()));
}

#[tokio::test]
async fn refused_pod_stays_enrolled_until_it_is_deleted() {
    let lab = Lab::new();
    let (mut client, _) = lab.connect_in_step().await;
    let (added, _) = tokio::join!(lab.add("a"), answer(&mut client, Err("no port")));
    assert_eq!(added, Err(AddError::Refused("no port".into())));

    drop(client);
    lab.connected(0).await;
    let (mut client, snapshot) = lab.connect_in_step().await;
    assert_eq!(snapshot, ["add a shop"]);
    lab.server.del("a");
    assert_eq!(next(&mut client).await, "del a");
}

#[tokio::test]
async fn answer_within_a_snapshot_counts() {
    let lab = Lab::with(ServerConfig {
        connect_wait: Duration::from_secs(60),
        ..ServerConfig::default()
    });
    let (added, (_client, snapshot)) = tokio::join!(lab.add("a"), lab.connect_in_step());
    assert_eq!(added, Ok(()));
    assert_eq!(snapshot, ["add a shop"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_ztunnel_add_fails_after_its_wait_and_enrolls_nothing() {
    for wait in [Duration::ZERO, Duration::from_secs(7)] {
        let lab = Lab::with(ServerConfig {
            connect_wait: wait,
            ..ServerConfig::default()
        });
        let start = tokio::time::Instant::now();
        assert_eq!(lab.add("a").await, Err(AddError::NotConnected));
        assert!(start.elapsed() >= wait && start.elapsed() < wait + Duration::from_secs(1));
        let (_client, snapshot) = lab.connect_in_step().await;
        assert_eq!(snapshot, [""; 0]);
    }
}

#[tokio::test]
async fn snapshot_has_every_enrolled_pod_and_keeps_those_without_a_namespace() {
    let lab = Lab::new();
    let netns = Arc::new(null());
    lab.server.enroll("a", info(), Some(netns)).unwrap();
    lab.server.enroll("b", info(), None).unwrap();
    lab.server.enroll("c", info(), None).unwrap();
    lab.server.del("c");
    let (mut client, snapshot) = lab.connect_in_step().await;
    assert_eq!(snapshot, ["add a shop", "keep b"]);

    // After the snapshot a keep must not be sent, so the next request is the one after it.
    lab.server.enroll("d", info(), None).unwrap();
    lab.server
        .enroll("e", info(), Some(Arc::new(null())))
        .unwrap();
    assert_eq!(next(&mut client).await, "add e shop");
    // A kept pod whose namespace is found is added.
    lab.server
        .enroll("b", info(), Some(Arc::new(null())))
        .unwrap();
    assert_eq!(next(&mut client).await, "add b shop");
}

#[tokio::test]
async fn newest_ztunnel_gets_new_pods_and_all_are_told_of_deleted_ones() {
    let lab = Lab::new();
    let (mut old, _) = lab.connect_in_step().await;
    let (added, _) = tokio::join!(lab.add("a"), next(&mut old));
    assert_eq!(added, Ok(()));
    let (mut new, snapshot) = lab.connect_in_step().await;
    assert_eq!(snapshot, ["add a shop"]);

    let (added, request) = tokio::join!(lab.add("b"), next(&mut new));
    assert_eq!((added, request.as_str()), (Ok(()), "add b shop"));
    lab.server.del("a");
    assert_eq!(next(&mut new).await, "del a");
    // Also shows that it was not told of b.
    assert_eq!(next(&mut old).await, "del a");
}

#[tokio::test]
async fn ztunnel_that_is_newest_again_is_told_what_it_missed() {
    let lab = Lab::new();
    let (mut old, _) = lab.connect_in_step().await;
    let (mut new, _) = lab.connect_in_step().await;
    let (added, _) = tokio::join!(lab.add("a"), next(&mut new));
    assert_eq!(added, Ok(()));
    drop(new);
    assert_eq!(next(&mut old).await, "add a shop");
    let (added, _) = tokio::join!(lab.add("b"), next(&mut old));
    assert_eq!(added, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn silent_ztunnel_is_disconnected_at_the_deadline() {
    let lab = Lab::new();
    let (mut client, _) = lab.connect_in_step().await;
    let start = tokio::time::Instant::now();
    let added = lab.add("a").await;
    assert_eq!(added, Err(AddError::NotConnected));
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(receive(&mut client).await, "add a shop");
    assert_closed(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn pod_goes_to_the_previous_ztunnel_if_the_newest_is_silent() {
    let lab = Lab::new();
    let (mut old, _) = lab.connect_in_step().await;
    let (_silent, _) = lab.connect_in_step().await;
    let (added, request) = tokio::join!(lab.add("a"), next(&mut old));
    assert_eq!((added, request.as_str()), (Ok(()), "add a shop"));
}

#[tokio::test(start_paused = true)]
async fn late_answer_is_never_taken_for_another_requests() {
    let lab = Lab::new();
    let (mut client, _) = lab.connect_in_step().await;
    assert_eq!(lab.add("a").await, Err(AddError::NotConnected));
    receive(&mut client).await;
    // The answer comes when the connection is closed already.
    let _ = client.ack(Ok(())).await;
    assert_eq!(lab.add("b").await, Err(AddError::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn ztunnel_that_does_not_greet_or_speaks_unasked_is_disconnected() {
    let lab = Lab::new();
    let silent = PacketSocket::connect(&lab.path).unwrap();
    assert!(silent.receive().await.unwrap().is_none());

    for greeting in [vec![], vec![0x08, 0x02], message::keep("a")] {
        let stranger = PacketSocket::connect(&lab.path).unwrap();
        if !greeting.is_empty() {
            stranger.send(&greeting, None).await.unwrap();
        }
        assert!(stranger.receive().await.unwrap().is_none(), "{greeting:?}");
    }
    assert_eq!(*lab.server.connected().borrow(), 0);

    let (mut client, _) = lab.connect_in_step().await;
    lab.connected(1).await;
    client.ack(Ok(())).await.unwrap();
    assert_closed(&mut client).await;
    lab.connected(0).await;
}

#[tokio::test]
async fn disconnection_is_noticed_while_idle() {
    let lab = Lab::new();
    let (client, _) = lab.connect_in_step().await;
    lab.connected(1).await;
    drop(client);
    lab.connected(0).await;
}

#[tokio::test]
async fn later_request_for_a_pod_supersedes_an_add() {
    let lab = Lab::new();
    let (_client, _) = lab.connect_in_step().await;
    let (added, ()) = tokio::join!(lab.add("a"), async { lab.server.del("a") });
    assert_eq!(added, Err(AddError::Superseded));
}

#[tokio::test(start_paused = true)]
async fn add_has_a_deadline_even_if_ztunnels_come_and_go() {
    let lab = Lab::with(ServerConfig {
        connect_wait: Duration::from_secs(60),
        response_deadline: Duration::from_secs(60),
        ..ServerConfig::default()
    });
    let (_silent, _) = lab.connect_in_step().await;
    let deadline = Duration::from_secs(30);
    assert_eq!(lab.add("a").await, Err(AddError::Deadline(deadline)));
}

#[tokio::test]
async fn pod_that_does_not_fit_a_packet_is_refused() {
    let lab = Lab::new();
    let uid = "x".repeat(MAX_PACKET);
    assert!(matches!(lab.add(&uid).await, Err(AddError::TooLarge(_))));
    let enrolled = lab.server.enroll(&uid, info(), None);
    assert!(matches!(enrolled, Err(AddError::TooLarge(_))));
}

#[tokio::test]
async fn more_ztunnels_than_the_limit_are_refused() {
    let lab = Lab::with(ServerConfig {
        max_connections: 1,
        ..ServerConfig::default()
    });
    let (mut first, _) = lab.connect_in_step().await;
    let second = PacketSocket::connect(&lab.path).unwrap();
    assert!(second.receive().await.unwrap().is_none());
    let (added, _) = tokio::join!(lab.add("a"), next(&mut first));
    assert_eq!(added, Ok(()));
}

#[tokio::test]
async fn socket_is_the_owners_only_and_goes_with_its_server() {
    let lab = Lab::new();
    let mode = std::fs::metadata(&lab.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    // A server that takes over the path keeps its socket when the earlier one ends.
    let second = ZdsServer::bind(&lab.path, ServerConfig::default()).unwrap();
    drop(lab.server);
    let greeted = ZdsClient::connect(&lab.path).await;
    assert!(greeted.is_ok());
    drop(second);
    assert!(!lab.path.exists());
}

#[tokio::test]
async fn what_is_not_a_socket_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let bound = ZdsServer::bind(&path, ServerConfig::default());
    assert!(matches!(bound, Err(BindError::Occupied { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}
