//! A server under attack, with an honest client beside the attacker.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::Notify,
    task::spawn_local,
    time::Instant,
};
use tulle_hbone::{
    ConnectError, DialFuture, Incoming, Meter, Pool, PoolSettings, Relay, Server, ServerError,
    Settings, TcpSide, Tunnel, tls,
};
use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr};
use tulle_model::SpiffeId;

use crate::raw::Raw;

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/catalog";

/// Tunnels to an application that returns every byte.
pub(crate) const ECHO: &str = "10.0.0.1:7";
/// Tunnels that are opened and never read.
pub(crate) const STALL: &str = "10.0.0.1:9";
/// Requests that are kept without an answer until [`State::gate`] opens or the client gives up; then as [`ECHO`].
pub(crate) const HOLD: &str = "10.0.0.1:17";

/// What the server has seen.
pub(crate) struct State {
    pub(crate) requests: Cell<usize>,
    /// Requests without an answer.
    pub(crate) held: Cell<usize>,
    /// Connections to the application.
    pub(crate) applications: Cell<usize>,
    pub(crate) gate: Notify,
    pub(crate) live: RefCell<HashMap<SocketAddr, tls::TlsStream>>,
    ended: RefCell<HashMap<SocketAddr, Result<(), ServerError>>>,
}

pub(crate) struct Lab {
    pub(crate) server: SocketAddr,
    pub(crate) client_svid: Arc<Svid>,
    pub(crate) state: Rc<State>,
    honest: Cell<Option<TcpStream>>,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let (client_svid, server_svid) = svids();
        let state = Rc::new(State {
            requests: Cell::new(0),
            held: Cell::new(0),
            applications: Cell::new(0),
            gate: Notify::new(),
            live: RefCell::default(),
            ended: RefCell::default(),
        });
        let listener = small_listener();
        let server = listener.local_addr().unwrap();
        let application = echo_application().await;
        let shared = state.clone();
        spawn_local(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                let (svid, settings, state) =
                    (server_svid.clone(), settings.clone(), shared.clone());
                spawn_local(async move {
                    let ended = attend(tcp, from, svid, settings, state.clone(), application).await;
                    state.live.borrow_mut().remove(&from);
                    state.ended.borrow_mut().insert(from, ended);
                });
            }
        });
        let pool = pool(PoolSettings::default());
        let tunnel = open(&pool, ECHO, server, &client_svid).await.unwrap();
        Self {
            server,
            client_svid,
            state,
            honest: Cell::new(Some(application_of(tunnel).await)),
        }
    }

    /// An attacker whose certificate is good.
    pub(crate) async fn attacker(&self) -> Raw {
        Raw::http2_client(self.server, &self.client_svid).await
    }

    /// The honest client's tunnel, open since before the attack, still works.
    pub(crate) async fn assert_honest_client_is_served(&self) {
        let mut honest = self.honest.take().unwrap();
        echo(&mut honest).await;
        self.honest.set(Some(honest));
    }

    /// How the server ended an attacker's connection.
    pub(crate) async fn end_of(&self, attacker: &Raw) -> Result<(), ServerError> {
        self.end_at(attacker.address).await
    }

    /// The same for the attacker with this address.
    pub(crate) async fn end_at(&self, attacker: SocketAddr) -> Result<(), ServerError> {
        wait_until(|| self.state.ended.borrow().contains_key(&attacker)).await;
        let ended = self.state.ended.borrow_mut().remove(&attacker);
        ended.unwrap()
    }

    /// The HTTP/2 error with which the server ended an attacker's connection.
    pub(crate) async fn reason(&self, attacker: &Raw) -> h2::Reason {
        match self.end_of(attacker).await {
            Err(ServerError::Http2(error)) => error.reason().expect("a reason"),
            other => panic!("{other:?}"),
        }
    }

    /// Bytes that came from an attacker, now; `None` when its connection has ended.
    pub(crate) fn received(&self, attacker: &Raw) -> Option<u64> {
        let live = self.state.live.borrow();
        live.get(&attacker.address).map(|io| io.received())
    }

    /// Sealed bytes that wait for an attacker to read, now.
    /// `None` when its connection has ended.
    pub(crate) fn queued(&self, attacker: &Raw) -> Option<usize> {
        let live = self.state.live.borrow();
        live.get(&attacker.address).map(|io| io.queued())
    }
}

async fn attend(
    tcp: TcpStream,
    from: SocketAddr,
    svid: Arc<Svid>,
    settings: Settings,
    state: Rc<State>,
    application: SocketAddr,
) -> Result<(), ServerError> {
    let accepted = tls::accept(tcp, svid.server_config().clone()).await;
    let (io, _) = accepted.map_err(|error| std::io::Error::other(error.to_string()))?;
    state.live.borrow_mut().insert(from, io.clone());
    let mut server = Server::start(io, &settings).await?;
    while let Some(incoming) = server.accept().await? {
        state.requests.set(state.requests.get() + 1);
        spawn_local(serve(incoming, state.clone(), application));
    }
    Ok(())
}

async fn serve(mut incoming: Incoming, state: Rc<State>, application: SocketAddr) {
    if incoming.method() != Method::CONNECT {
        return incoming.refuse(StatusCode::BAD_REQUEST);
    }
    match incoming.authority() {
        ECHO => {}
        HOLD => {
            state.held.set(state.held.get() + 1);
            let given_up = std::future::poll_fn(|cx| incoming.poll_reset(cx));
            let released = tokio::select! {
                _ = given_up => false,
                () = state.gate.notified() => true,
            };
            state.held.set(state.held.get() - 1);
            if !released {
                return;
            }
        }
        STALL => {
            let _tunnel = incoming.accept(HeaderMap::new());
            return std::future::pending().await;
        }
        _ => return incoming.refuse(StatusCode::NOT_FOUND),
    }
    state.applications.set(state.applications.get() + 1);
    let app = TcpStream::connect(application).await.unwrap();
    if let Ok(tunnel) = incoming.accept(HeaderMap::new()) {
        Relay::new(tunnel, TcpSide::new(app), Unmetered).await;
    }
}

pub(crate) struct Unmetered;

impl Meter for Unmetered {
    fn forward(&self, _bytes: u64) {}
    fn backward(&self, _bytes: u64) {}
}

/// A certificate for the client and one for the server.
pub(crate) fn svids() -> (Arc<Svid>, Arc<Svid>) {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    (svid(&ca, CLIENT), svid(&ca, SERVER))
}

fn svid(ca: &SigningCa, id: &str) -> Arc<Svid> {
    let id: SpiffeId = id.parse().unwrap();
    let key = KeyAndCsr::generate(&id).unwrap();
    let hour = Duration::from_secs(3600);
    let chain = ca
        .issue(&key.csr_pem, &id, hour, SystemTime::now())
        .unwrap();
    Arc::new(Svid::from_response(&id, key.key, &chain, WallClock::default()).unwrap())
}

/// A listener whose connections have small socket buffers.
fn small_listener() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(1024).unwrap()
}

pub(crate) fn pool(settings: PoolSettings) -> Pool<String> {
    let spawn = |task| drop(spawn_local(task));
    Pool::new(settings, Settings::default(), Rc::new(spawn))
}

/// Opens a tunnel by way of `pool`, with a key per server.
pub(crate) async fn open(
    pool: &Pool<String>,
    authority: &str,
    server: SocketAddr,
    svid: &Arc<Svid>,
) -> Result<Tunnel, ConnectError> {
    open_until(pool, authority, server, svid, None).await
}

/// The same over connections that serve new streams only until some time.
pub(crate) async fn open_until(
    pool: &Pool<String>,
    authority: &str,
    server: SocketAddr,
    svid: &Arc<Svid>,
    usable_until: Option<Instant>,
) -> Result<Tunnel, ConnectError> {
    let request = || {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority.parse().unwrap();
        request
    };
    let dial = || -> DialFuture {
        let (svid, expected) = (svid.clone(), SERVER.parse().unwrap());
        Box::pin(async move {
            let tcp = TcpStream::connect(server).await.unwrap();
            let (io, _) = tls::connect(tcp, svid.client_config().clone(), &[expected]).await?;
            Ok((io, usable_until))
        })
    };
    let opened = pool.open(&server.to_string(), request, dial).await;
    opened.map(|(tunnel, _)| tunnel)
}

/// An application's socket whose bytes go through `tunnel`.
pub(crate) async fn application_of(tunnel: Tunnel) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    spawn_local(Relay::new(TcpSide::new(far.unwrap().0), tunnel, Unmetered));
    near.unwrap()
}

/// Sends some bytes and gets them back.
pub(crate) async fn echo(app: &mut TcpStream) {
    app.write_all(b"still served").await.unwrap();
    let mut answer = [0; 12];
    app.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"still served");
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

pub(crate) async fn wait_until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("condition within ten seconds");
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("test within a minute");
    });
}

const SOCKET_BUFFER: u32 = 16 * 1024;
