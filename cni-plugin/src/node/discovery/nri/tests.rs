use bytes::BytesMut;
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use super::{messages::*, wire::*, *};

/// A runtime that plays one conversation, then returns what it was told.
fn runtime<F, R>(play: F) -> (TempDir, PathBuf, JoinHandle<R>)
where
    F: AsyncFnOnce(Connection) -> R + 'static,
    R: 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nri.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let played = tokio::task::spawn_local(async move {
        let (socket, _) = listener.accept().await.unwrap();
        play(Connection::over(socket)).await
    });
    (folder, path, played)
}

fn pod(id: &str, uid: &str, namespaces: &[(&str, &str)]) -> PodSandbox {
    let namespaces = namespaces.iter().map(|(kind, path)| LinuxNamespace {
        kind: (*kind).to_owned(),
        path: (*path).to_owned(),
    });
    PodSandbox {
        id: id.to_owned(),
        uid: uid.to_owned(),
        linux: Some(LinuxPodSandbox {
            namespaces: namespaces.collect(),
        }),
    }
}

fn network(id: &str, uid: &str) -> PodSandbox {
    pod(
        id,
        uid,
        &[("pid", ""), ("network", &format!("/run/netns/{id}"))],
    )
}

fn expected(id: &str, uid: &str) -> Claim {
    Claim {
        whose: Whose::Uid(uid.to_owned()),
        path: format!("/run/netns/{id}").into(),
        id: None,
        container: Some(id.to_owned()),
        source: Source::Nri,
    }
}

/// Waits for the registration and accepts it.
async fn register(connection: &mut Connection) {
    let (service, frame) = connection.next().await.unwrap();
    assert_eq!(
        (service, frame.stream, frame.kind),
        (Service::Runtime, 1, Kind::Request)
    );
    let request = Request::decode(frame.data.as_slice()).unwrap();
    assert_eq!(request.service, "nri.pkg.api.v1alpha1.Runtime");
    assert_eq!(request.method, "RegisterPlugin");
    let plugin = RegisterPluginRequest::decode(request.payload.as_slice()).unwrap();
    assert_eq!(
        (plugin.plugin_name.as_str(), plugin.plugin_index.as_str()),
        ("tulle-node", "99")
    );
    let accepted = Frame::new(1, Kind::Response, &Response::default());
    connection.send(Service::Runtime, &accepted).await.unwrap();
}

fn call(stream: u32, method: &str, message: &impl Message) -> Frame {
    let request = Request {
        service: "nri.pkg.api.v1alpha1.Plugin".to_owned(),
        method: method.to_owned(),
        payload: message.encode_to_vec(),
    };
    Frame::new(stream, Kind::Request, &request)
}

/// Calls the plugin and returns its answer.
async fn ask(
    connection: &mut Connection,
    stream: u32,
    method: &str,
    message: &impl Message,
) -> Response {
    let call = call(stream, method, message);
    connection.send(Service::Plugin, &call).await.unwrap();
    let (service, frame) = connection.next().await.unwrap();
    assert_eq!(
        (service, frame.stream, frame.kind),
        (Service::Plugin, stream, Kind::Response)
    );
    Response::decode(frame.data.as_slice()).unwrap()
}

async fn local<R>(test: impl Future<Output = R>) -> R {
    tokio::task::LocalSet::new().run_until(test).await
}

#[tokio::test]
async fn pods_of_all_parts_are_told_and_no_event_is_asked_for_but_one() {
    local(async {
        let (_folder, path, played) = runtime(async |mut connection| {
            register(&mut connection).await;
            let answer = ask(&mut connection, 1, "Configure", &Empty {}).await;
            let configured = ConfigureResponse::decode(answer.payload.as_slice()).unwrap();
            assert_eq!((answer.status, configured.events), (None, 0b100));
            let first = SynchronizeRequest {
                pods: vec![network("c-1", "u-1"), pod("c-2", "u-2", &[("network", "")])],
                more: true,
            };
            let answer = ask(&mut connection, 3, "Synchronize", &first).await;
            assert!(
                SynchronizeResponse::decode(answer.payload.as_slice())
                    .unwrap()
                    .more
            );
            let answer = ask(&mut connection, 5, "StateChange", &Empty {}).await;
            assert_eq!(answer, Response::default());
            let last = SynchronizeRequest {
                pods: vec![network("c-3", "u-3"), pod("c-4", "u-4", &[("mount", "/x")])],
                more: false,
            };
            let answer = ask(&mut connection, 7, "Synchronize", &last).await;
            assert!(
                !SynchronizeResponse::decode(answer.payload.as_slice())
                    .unwrap()
                    .more
            );
            // They are gone then.
            assert!(matches!(
                connection.next().await,
                Err(NriError::Connection(_))
            ));
        });
        let claims = claims(&path, LIMIT).await.unwrap();
        assert_eq!(claims, [expected("c-1", "u-1"), expected("c-3", "u-3")]);
        played.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_large_message_arrives_in_pieces_among_others() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let pods: Vec<PodSandbox> = (0..2000).map(|n| network(&format!("c-{n}"), "u")).collect();
    let told = SynchronizeRequest { pods, more: false };
    let call = call(1, "Synchronize", &told);
    // By hand: a connection sends a frame in one piece.
    let mut bytes = Vec::new();
    bytes.extend((call.data.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 1, 1, 0]);
    bytes.extend(&call.data);
    let mut sent = Vec::new();
    for piece in bytes.chunks(4096) {
        for (connection, piece) in [(7_u32, b"unknown".as_slice()), (1, piece), (2, &[])] {
            sent.extend(connection.to_be_bytes());
            sent.extend((piece.len() as u32).to_be_bytes());
            sent.extend(piece);
        }
    }
    let mut connection = Connection::over(theirs);
    let (received, written) = tokio::join!(connection.next(), ours.write_all(&sent));
    written.unwrap();
    assert_eq!(received.unwrap(), (Service::Plugin, call));
}

#[tokio::test]
async fn a_runtime_that_takes_no_plugin_is_an_error() {
    local(async {
        let (_folder, path, played) = runtime(async |mut connection| {
            connection.next().await.unwrap();
            let status = Status {
                code: 3,
                message: "invalid plugin name".to_owned(),
            };
            let refusal = Response {
                status: Some(status),
                payload: Vec::new(),
            };
            let frame = Frame::new(1, Kind::Response, &refusal);
            connection.send(Service::Runtime, &frame).await.unwrap();
        });
        let error = claims(&path, LIMIT).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "it took no plugin: invalid plugin name (code 3)"
        );
        played.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_call_of_another_service_is_refused_and_an_end_is_an_error() {
    local(async {
        let (_folder, path, played) = runtime(async |mut connection| {
            register(&mut connection).await;
            let other = Request {
                service: "other".to_owned(),
                method: "Configure".to_owned(),
                payload: Vec::new(),
            };
            let frame = Frame::new(1, Kind::Request, &other);
            connection.send(Service::Plugin, &frame).await.unwrap();
            let (_, frame) = connection.next().await.unwrap();
            let answer = Response::decode(frame.data.as_slice()).unwrap();
            assert_eq!(answer.status.unwrap().code, 12);
            let shutdown = call(3, "Shutdown", &Empty {});
            connection.send(Service::Plugin, &shutdown).await.unwrap();
        });
        assert!(matches!(claims(&path, LIMIT).await, Err(NriError::Ending)));
        played.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_is_too_long_or_no_message_is_an_error() {
    let multiplexed = |connection: u32, length: u32, content: &[u8]| {
        let header = [connection.to_be_bytes(), length.to_be_bytes()].concat();
        [header.as_slice(), content].concat()
    };
    let frame = |length: u32| [&length.to_be_bytes(), [0, 0, 0, 1].as_slice(), &[1, 0]].concat();
    let most: u32 = (4 << 20) + 10;
    for (bytes, expected) in [
        (
            multiplexed(1, most + 1, b""),
            "it sent a message of 4194315 bytes",
        ),
        (
            multiplexed(1, 10, &frame((4 << 20) + 1)),
            "it sent a message of 4194305 bytes",
        ),
        (
            multiplexed(1, 14, &[frame(4), vec![0xff; 4]].concat()),
            "it sent what is no message: ",
        ),
        (multiplexed(1, 10, b"half"), "the connection failed: "),
        (Vec::new(), "the connection failed: "),
    ] {
        local(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nri.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let runtime = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                // So that nothing unread turns the end of the connection into a reset.
                socket.read_exact(&mut [0; 8]).await.unwrap();
                socket.write_all(&bytes).await.unwrap();
            };
            let (told, ()) = tokio::join!(claims(&path, LIMIT), runtime);
            let error = told.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_silent_runtime_is_left_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nri.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = claims(&path, Duration::from_millis(10)).await.unwrap_err();
    assert!(matches!(error, NriError::TimedOut), "{error}");
}

#[tokio::test]
async fn a_runtime_without_nri_is_told_from_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let absent = claims(&folder.path().join("nri.sock"), LIMIT)
        .await
        .unwrap_err();
    assert!(absent.is_absent(), "{absent}");
    let path = folder.path().join("left.sock");
    drop(UnixListener::bind(&path).unwrap());
    let left = claims(&path, LIMIT).await.unwrap_err();
    assert!(!left.is_absent(), "{left}");
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_are_cut(
        frames in vec((any::<u32>(), any::<u8>(), vec(any::<u8>(), 0..300)), 0..8),
        cuts in vec(1_usize..400, 1..20),
    ) {
        let frames: Vec<Frame> = frames.into_iter().map(|(stream, kind, data)| Frame {
            stream,
            kind: Kind::numbered(kind),
            data,
        }).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        let (mut rest, mut arrived, mut taken) = (bytes.as_slice(), BytesMut::new(), Vec::new());
        for cut in cuts.into_iter().cycle() {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            arrived.extend_from_slice(piece);
            while let Some(frame) = Frame::take(&mut arrived).unwrap() {
                taken.push(frame);
            }
            if left.is_empty() {
                break;
            }
            rest = left;
        }
        prop_assert_eq!(taken, frames);
        prop_assert!(arrived.is_empty());
    }
}

/// A runtime that knows one pod.
pub(in crate::node::discovery) struct OnePod(PodSandbox);

pub(in crate::node::discovery) fn runtime_with(id: &str, uid: &str, netns: &Path) -> OnePod {
    OnePod(pod(id, uid, &[("network", netns.to_str().unwrap())]))
}

impl OnePod {
    /// Returns its socket, and when it has told of the pod.
    pub(in crate::node::discovery) fn start(self) -> (TempDir, PathBuf, JoinHandle<()>) {
        runtime(async move |mut connection| {
            register(&mut connection).await;
            ask(&mut connection, 1, "Configure", &Empty {}).await;
            let told = SynchronizeRequest {
                pods: vec![self.0],
                more: false,
            };
            ask(&mut connection, 3, "Synchronize", &told).await;
        })
    }
}

/// For calls whose content does not matter.
#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}
