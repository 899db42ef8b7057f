use super::*;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::socket::{PacketListener, PacketSocket};

/// An agent that the test speaks for, packet by packet.
struct Agent {
    listener: PacketListener,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("zds.sock");
        Self {
            listener: PacketListener::bind(&path).unwrap(),
            path,
            _directory: directory,
        }
    }

    /// Waits for a client and its greeting.
    async fn accept(&self) -> PacketSocket {
        let socket = self.listener.accept().await.unwrap();
        let hello = socket.receive().await.unwrap().unwrap();
        message::decode_hello(hello).unwrap();
        socket
    }
}

async fn ask(socket: &PacketSocket, packet: Vec<u8>, netns: Option<&File>) -> Result<(), String> {
    let netns = netns.map(AsFd::as_fd);
    socket.send(&packet, netns).await.unwrap();
    let answer = socket.receive().await.unwrap().expect("client closed");
    message::decode_ack(answer).unwrap()
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

fn info() -> PodInfo {
    PodInfo {
        name: "web-0".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
    }
}

/// Tells the test what is asked of it, and refuses pods whose UID starts with `bad`.
struct Recorder(mpsc::UnboundedSender<String>);

impl Handler for Recorder {
    async fn add(&mut self, uid: &str, info: PodInfo, _netns: OwnedFd) -> Result<(), String> {
        self.0.send(format!("add {uid} {}", info.name)).unwrap();
        match uid.starts_with("bad") {
            true => Err(format!("cannot start {uid}")),
            false => Ok(()),
        }
    }

    async fn del(&mut self, uid: &str) {
        self.0.send(format!("del {uid}")).unwrap();
    }

    fn in_step(&mut self, in_step: bool) {
        self.0.send(format!("in step {in_step}")).unwrap();
    }
}

fn follow_agent(
    agent: &Agent,
) -> (
    tokio::task::JoinHandle<Infallible>,
    mpsc::UnboundedReceiver<String>,
) {
    let (sender, events) = mpsc::unbounded_channel();
    let path = agent.path.clone();
    let task = tokio::spawn(async move { run(path, Recorder(sender)).await });
    (task, events)
}

/// What the handler was asked since the last time.
fn seen(events: &mut mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

#[tokio::test]
async fn request_is_received_with_its_descriptor_and_answered() {
    let agent = Agent::new();
    let (client, socket) = tokio::join!(ZdsClient::connect(&agent.path), agent.accept());
    let mut client = client.unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("netns"), "the one").unwrap();
    let netns = File::open(directory.path().join("netns")).unwrap();

    let asking = ask(&socket, message::add("u1", &info()), Some(&netns));
    let answering = async {
        let Some(Request::Add { uid, info, netns }) = client.recv().await.unwrap() else {
            panic!("not an add");
        };
        assert_eq!((uid.as_str(), info), ("u1", self::info()));
        let flags = rustix::io::fcntl_getfd(&netns).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(
            std::io::read_to_string(File::from(netns)).unwrap(),
            "the one"
        );
        client.ack(Err("no such pod".into())).await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer, Err("no such pod".into()));

    drop(socket);
    assert!(client.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn packets_that_break_the_contract_end_the_conversation() {
    let large = PodInfo {
        name: "x".repeat(1024),
        ..info()
    };
    let no_info = vec![0x0a, 0x03, 0x0a, 0x01, b'u'];
    let unknown = vec![0x32, 0x00];
    let cases: [(Vec<u8>, usize, &str); 10] = [
        (
            message::add("u", &info()),
            0,
            "message has 0 descriptors, must have 1",
        ),
        (
            message::add("u", &info()),
            2,
            "message has 2 descriptors, must have 1",
        ),
        (
            message::add("u", &info()),
            20,
            "packet is too large or has too many descriptors",
        ),
        (
            message::keep("u"),
            1,
            "message has 1 descriptors, must have 0",
        ),
        (
            message::snapshot_sent(),
            1,
            "message has 1 descriptors, must have 0",
        ),
        (
            message::add("u", &large),
            1,
            "packet is too large or has too many descriptors",
        ),
        (message::del(""), 0, "message without a pod UID"),
        (no_info, 1, "added pod has no workload info"),
        (unknown, 0, "message without a known payload"),
        (vec![0xff; 8], 0, "malformed message"),
    ];
    for (packet, descriptors, expected) in cases {
        let agent = Agent::new();
        let (client, socket) = tokio::join!(ZdsClient::connect(&agent.path), agent.accept());
        send_raw(&socket, &packet, descriptors);
        let error = client.unwrap().recv().await.unwrap_err();
        assert!(
            chain(&error).contains(expected),
            "{} is not {expected}",
            chain(&error)
        );
    }
}

/// Sends any number of descriptors.
fn send_raw(socket: &PacketSocket, packet: &[u8], descriptors: usize) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let null = null();
    let descriptors = vec![null.as_fd(); descriptors];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let iov = [std::io::IoSlice::new(packet)];
    sendmsg(&socket.0, &iov, &mut control, SendFlags::empty()).unwrap();
}

#[tokio::test]
async fn long_error_is_cut_to_fit_a_packet() {
    let agent = Agent::new();
    let (client, socket) = tokio::join!(ZdsClient::connect(&agent.path), agent.accept());
    let long = "é".repeat(2000);
    client.unwrap().ack(Err(long.clone())).await.unwrap();
    let answer = socket.receive().await.unwrap().unwrap();
    let error = message::decode_ack(answer).unwrap().unwrap_err();
    assert!(
        long.starts_with(&error) && error.len() > 1000,
        "{}",
        error.len()
    );
}

#[tokio::test(start_paused = true)]
async fn handler_follows_snapshots_across_connections() {
    let agent = Agent::new();
    let (_task, mut events) = follow_agent(&agent);
    let netns = null();
    let netns = Some(&netns);

    let socket = agent.accept().await;
    assert_eq!(
        ask(&socket, message::add("a", &info()), netns).await,
        Ok(())
    );
    assert_eq!(
        ask(&socket, message::add("b", &info()), netns).await,
        Ok(())
    );
    let refused = ask(&socket, message::add("bad", &info()), netns).await;
    assert_eq!(refused, Err("cannot start bad".into()));
    assert_eq!(ask(&socket, message::keep("unknown"), None).await, Ok(()));
    assert_eq!(
        seen(&mut events),
        ["add a web-0", "add b web-0", "add bad web-0"]
    );
    assert_eq!(ask(&socket, message::snapshot_sent(), None).await, Ok(()));
    assert_eq!(seen(&mut events), ["in step true"]);
    assert_eq!(ask(&socket, message::del("b"), None).await, Ok(()));
    assert_eq!(ask(&socket, message::del("b"), None).await, Ok(()));
    assert_eq!(seen(&mut events), ["del b"]);

    drop(socket);
    let socket = agent.accept().await;
    assert_eq!(
        seen(&mut events),
        ["in step false"],
        "pods stay as they are"
    );
    assert_eq!(ask(&socket, message::keep("a"), None).await, Ok(()));
    assert_eq!(
        ask(&socket, message::add("c", &info()), netns).await,
        Ok(())
    );
    assert_eq!(ask(&socket, message::del("c"), None).await, Ok(()));
    assert_eq!(seen(&mut events), ["add c web-0"]);
    assert_eq!(ask(&socket, message::snapshot_sent(), None).await, Ok(()));
    let mut gone = seen(&mut events);
    gone.sort();
    assert_eq!(gone, ["del bad", "del c", "in step true"]);
}

#[tokio::test(start_paused = true)]
async fn request_out_of_order_ends_the_connection_and_a_new_one_is_made() {
    for packet in [message::keep("a"), message::snapshot_sent()] {
        let agent = Agent::new();
        let (_task, mut events) = follow_agent(&agent);
        let socket = agent.accept().await;
        ask(&socket, message::snapshot_sent(), None).await.unwrap();
        socket.send(&packet, None).await.unwrap();
        assert!(socket.receive().await.unwrap().is_none(), "not answered");

        let socket = agent.accept().await;
        ask(&socket, message::snapshot_sent(), None).await.unwrap();
        assert_eq!(
            seen(&mut events),
            ["in step true", "in step false", "in step true"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn client_waits_for_an_agent_that_is_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zds.sock");
    let (sender, _events) = mpsc::unbounded_channel();
    let client = tokio::spawn({
        let path = path.clone();
        async move { run(path, Recorder(sender)).await }
    });
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let listener = PacketListener::bind(&path).unwrap();
    let start = tokio::time::Instant::now();
    let socket = listener.accept().await.unwrap();
    assert!(socket.receive().await.unwrap().is_some());
    assert!(start.elapsed() <= std::time::Duration::from_secs(18));
    client.abort();
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
