//! Tunnels between a real client and a real server over loopback TCP.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    task::spawn_local,
    time::timeout,
};
use tulle_hbone::{
    ConnectError, Incoming, Meter, Pool, PoolSettings, Relay, RelayEnd, Server, Settings, TcpSide,
    tls,
};
use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr};
use tulle_model::SpiffeId;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/catalog";

#[test]
fn bytes_arrive_whole_in_both_directions() {
    run(async {
        let lab = Lab::start(echo_application().await).await;
        let mut app = lab.dial_as(SERVER).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7) as u8).collect();
        let (mut read, mut write) = app.split();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let reading = read.read_to_end(&mut received);
        let ((), length) = tokio::join!(writing, reading);
        assert_eq!(length.unwrap(), sent.len());
        assert!(received == sent);
    });
}

#[test]
fn streams_to_one_peer_share_a_connection() {
    run(async {
        let lab = Lab::start(echo_application().await).await;
        let mut apps = Vec::new();
        for _ in 0..50 {
            apps.push(lab.dial_as(SERVER).await.unwrap());
        }
        for app in &mut apps {
            app.write_all(b"ping").await.unwrap();
            let mut answer = [0; 4];
            app.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"ping");
        }
        assert_eq!(lab.pool.usage(), (1, 50));
        drop(apps);
        wait_until(|| lab.pool.usage().1 == 0).await;
    });
}

#[test]
fn the_peers_stream_limit_opens_another_connection() {
    run(async {
        let settings = Settings {
            max_streams: 10,
            ..Settings::default()
        };
        let lab = Lab::start_with(echo_application().await, settings).await;
        let mut apps = Vec::new();
        for _ in 0..25 {
            let mut app = lab.dial_as(SERVER).await.unwrap();
            app.write_all(b"x").await.unwrap();
            app.read_u8().await.unwrap();
            apps.push(app);
        }
        assert_eq!(lab.pool.usage(), (3, 25));
    });
}

#[test]
fn another_identity_than_expected_is_refused() {
    run(async {
        let lab = Lab::start(echo_application().await).await;
        let other = "spiffe://cluster.local/ns/shop/sa/other";
        match lab.open(other).await {
            Err(error) => assert!(
                matches!(error.root(), ConnectError::Handshake(tls::HandshakeError::WrongIdentity { actual }) if actual.to_string() == SERVER),
                "{error}"
            ),
            Ok(_) => panic!("tunnel to the wrong identity"),
        }
    });
}

#[test]
fn a_half_closed_application_still_gets_its_answer() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (mut app, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            app.read_to_end(&mut all).await.unwrap();
            app.write_all(format!("got {}", all.len()).as_bytes())
                .await
                .unwrap();
        });
        let lab = Lab::start(address).await;
        let mut app = lab.dial_as(SERVER).await.unwrap();
        app.write_all(&[1; 100_000]).await.unwrap();
        app.shutdown().await.unwrap();
        let mut answer = String::new();
        app.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "got 100000");
    });
}

#[test]
fn a_reset_is_a_reset_on_the_other_side() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lab = Lab::start(address).await;
        let mut client = lab.dial_as(SERVER).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut hello = [0; 5];
        app.read_exact(&mut hello).await.unwrap();

        app.set_zero_linger().unwrap();
        drop(app);
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let client = lab.dial_as(SERVER).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
        let error = app.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_refused_request_says_so() {
    run(async {
        // Nobody listens there, so the server answers 503.
        let lab = Lab::start("127.0.0.1:1".parse().unwrap()).await;
        match lab.open(SERVER).await {
            Err(ConnectError::Refused(status)) => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE)
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("opened"),
        }
    });
}

#[test]
fn readers_that_stop_do_not_stop_others_and_bound_memory() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lab = Lab::start(listener.local_addr().unwrap()).await;
        let mut stuck = Vec::new();
        for _ in 0..6 {
            let client = lab.dial_as(SERVER).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            stuck.extend([client, server].map(|end| spawn_local(until_full(end))));
        }
        // More than the window of a connection, if nobody made room, in each direction.
        let mut full = Vec::new();
        for end in stuck {
            full.push(end.await.unwrap());
        }
        let mut client = lab.dial_as(SERVER).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (mut question, mut answer) = ([0; 8], [0; 6]);
        client.write_all(b"question").await.unwrap();
        server.read_exact(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((&question, &answer), (b"question", b"answer"));
    });
}

/// Writes until every buffer on the way is full.
async fn until_full(stuck: TcpStream) -> TcpStream {
    let block = vec![0; 1 << 20];
    let mut total = 0;
    while timeout(Duration::from_millis(500), stuck.writable())
        .await
        .is_ok()
    {
        total += stuck.try_write(&block).unwrap_or(0);
        assert!(total < 64 << 20, "nothing holds the writer back");
    }
    assert!(total > 4 << 20, "{total} bytes: not even a stream's window");
    stuck
}

/// A server that tunnels to `application`, and a pool of clients for it.
struct Lab {
    pool: Pool<SpiffeId>,
    server: SocketAddr,
    client_svid: Arc<Svid>,
}

struct Unmetered;

impl Meter for Unmetered {
    fn forward(&self, _bytes: u64) {}
    fn backward(&self, _bytes: u64) {}
}

impl Lab {
    async fn start(application: SocketAddr) -> Self {
        Self::start_with(application, Settings::default()).await
    }

    async fn start_with(application: SocketAddr, settings: Settings) -> Self {
        let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
        let (client_svid, server_svid) = (svid(&ca, CLIENT), svid(&ca, SERVER));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (svid, settings) = (server_svid.clone(), settings.clone());
                spawn_local(async move {
                    let Ok((io, peer)) = tls::accept(tcp, svid.server_config().clone()).await
                    else {
                        return;
                    };
                    assert_eq!(peer.to_string(), CLIENT);
                    let mut server = Server::start(io, &settings).await.unwrap();
                    while let Ok(Some(incoming)) = server.accept().await {
                        spawn_local(serve(incoming, application));
                    }
                });
            }
        });
        let pool = Pool::new(
            PoolSettings::default(),
            Settings::default(),
            Rc::new(|task| {
                spawn_local(task);
            }),
        );
        Self {
            pool,
            server,
            client_svid,
        }
    }

    async fn open(&self, expected: &str) -> Result<tulle_hbone::Tunnel, ConnectError> {
        let expected: SpiffeId = expected.parse().unwrap();
        let request = || {
            let mut request = Request::new(());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = "10.0.0.1:80".parse().unwrap();
            request
        };
        let dial = || -> tulle_hbone::DialFuture {
            let (peer, svid, expected) = (self.server, self.client_svid.clone(), expected.clone());
            Box::pin(async move {
                let tcp = TcpStream::connect(peer)
                    .await
                    .map_err(|source| ConnectError::Tcp { peer, source })?;
                tcp.set_nodelay(true).unwrap();
                let (io, _) = tls::connect(tcp, svid.client_config().clone(), &[expected]).await?;
                Ok((io, None))
            })
        };
        self.pool
            .open(&expected, request, dial)
            .await
            .map(|(tunnel, _)| tunnel)
    }

    /// An application's socket whose bytes go through a tunnel.
    async fn dial_as(&self, expected: &str) -> Result<TcpStream, ConnectError> {
        let tunnel = self.open(expected).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (captured, _) = listener.accept().await.unwrap();
        spawn_local(Relay::new(TcpSide::new(captured), tunnel, Unmetered));
        Ok(application)
    }
}

async fn serve(incoming: Incoming, application: SocketAddr) {
    assert_eq!(incoming.method(), Method::CONNECT);
    assert_eq!(incoming.authority(), "10.0.0.1:80");
    let Ok(app) = TcpStream::connect(application).await else {
        return incoming.refuse(StatusCode::SERVICE_UNAVAILABLE);
    };
    let tunnel = incoming.accept(HeaderMap::new()).unwrap();
    let end = Relay::new(tunnel, TcpSide::new(app), Unmetered).await;
    let _: RelayEnd = end;
}

async fn echo_application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut app, _)) = listener.accept().await {
            spawn_local(async move {
                let (mut read, mut write) = app.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

fn svid(ca: &SigningCa, id: &str) -> Arc<Svid> {
    let id: SpiffeId = id.parse().unwrap();
    let key = KeyAndCsr::generate(&id).unwrap();
    let chain = ca
        .issue(
            &key.csr_pem,
            &id,
            Duration::from_secs(3600),
            SystemTime::now(),
        )
        .unwrap();
    Arc::new(Svid::from_response(&id, key.key, &chain, WallClock::default()).unwrap())
}

async fn wait_until(condition: impl Fn() -> bool) {
    let done = Cell::new(false);
    tokio::time::timeout(Duration::from_secs(10), async {
        while !done.get() {
            done.set(condition());
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("condition within ten seconds");
}

fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("test within thirty seconds");
    });
}
