//! A pair of relays over loopback, each on a thread of its own: bulk, and small messages on many connections.
//!
//! `cargo bench -p tulle-hbone`. Only the ratio to the direct connection in the same run means anything.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark fails by panicking and measures real time"
)]

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    task::spawn_local,
};
use tulle_hbone::{ConnectError, Meter, Pool, PoolSettings, Relay, Server, Settings, TcpSide, tls};
use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr};
use tulle_model::SpiffeId;

const ROUNDS: usize = 3;
const LASTING: Duration = Duration::from_secs(2);

fn main() {
    let svid = svid();
    let application = on_thread(|report| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        report.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let (app, _) = listener.accept().await.unwrap();
            app.set_nodelay(true).unwrap();
            spawn_local(serve_application(app));
        }
    });
    let server_svid = svid.clone();
    let terminator =
        on_thread(move |report| async move { terminate(server_svid, application, report).await });
    let originator =
        on_thread(move |report| async move { originate(svid, terminator, report).await });
    for round in 1..=ROUNDS {
        for (name, address) in [("direct", application), ("tunnel", originator)] {
            let bulk = on_client(bulk(address));
            let messages = on_client(messages(address, 64));
            println!("round {round} {name}: {bulk:6.2} Gbit/s, {messages:8.0} messages/s");
        }
    }
}

/// The first byte tells what the client wants: `b` to swallow, anything else to echo.
async fn serve_application(mut app: TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    let mut swallow = None;
    while let Ok(length @ 1..) = app.read(&mut buffer).await {
        if !*swallow.get_or_insert(buffer[0] == b'b')
            && app.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}

async fn bulk(address: SocketAddr) -> f64 {
    let mut app = TcpStream::connect(address).await.unwrap();
    let block = vec![b'b'; 128 * 1024];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < LASTING {
        sent += app.write(&block).await.unwrap();
    }
    sent as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}

async fn messages(address: SocketAddr, connections: usize) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            spawn_local(async move {
                let mut app = TcpStream::connect(address).await.unwrap();
                app.set_nodelay(true).unwrap();
                let mut answer = [0; 200];
                let mut count = 0u64;
                while start.elapsed() < LASTING {
                    app.write_all(&[b'm'; 200]).await.unwrap();
                    app.read_exact(&mut answer).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    total as f64 / start.elapsed().as_secs_f64()
}

struct Unmetered;

impl Meter for Unmetered {
    fn forward(&self, _bytes: u64) {}
    fn backward(&self, _bytes: u64) {}
}

async fn terminate(svid: Arc<Svid>, application: SocketAddr, report: mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    report.send(listener.local_addr().unwrap()).unwrap();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let config = svid.server_config().clone();
        spawn_local(async move {
            let (io, _) = tls::accept(tcp, config).await.unwrap();
            let mut server = Server::start(io, &Settings::default()).await.unwrap();
            while let Ok(Some(incoming)) = server.accept().await {
                spawn_local(async move {
                    let app = TcpStream::connect(application).await.unwrap();
                    app.set_nodelay(true).unwrap();
                    let tunnel = incoming.accept(HeaderMap::new()).unwrap();
                    Relay::new(tunnel, TcpSide::new(app), Unmetered).await;
                });
            }
        });
    }
}

async fn originate(svid: Arc<Svid>, terminator: SocketAddr, report: mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    report.send(listener.local_addr().unwrap()).unwrap();
    let spawn = Rc::new(|task| {
        spawn_local(task);
    });
    let pool = Pool::new(PoolSettings::default(), Settings::default(), spawn);
    loop {
        let (app, _) = listener.accept().await.unwrap();
        app.set_nodelay(true).unwrap();
        let (pool, svid) = (pool.clone(), svid.clone());
        spawn_local(async move {
            let request = || {
                let mut request = Request::new(());
                *request.method_mut() = Method::CONNECT;
                *request.uri_mut() = "10.0.0.1:80".parse().unwrap();
                request
            };
            let dial = || -> tulle_hbone::DialFuture {
                let svid = svid.clone();
                Box::pin(async move {
                    let peer = terminator;
                    let tcp = TcpStream::connect(peer)
                        .await
                        .map_err(|source| ConnectError::Tcp { peer, source })?;
                    tcp.set_nodelay(true).unwrap();
                    let expected = [svid.id.clone()];
                    let config = svid.client_config().clone();
                    Ok((tls::connect(tcp, config, &expected).await?.0, None))
                })
            };
            let (tunnel, _) = pool.open(&(), request, dial).await.unwrap();
            Relay::new(TcpSide::new(app), tunnel, Unmetered).await;
        });
    }
}

fn on_thread<F, T>(server: F) -> SocketAddr
where
    F: FnOnce(mpsc::Sender<SocketAddr>) -> T + Send + 'static,
    T: Future,
{
    let (report, address) = mpsc::channel();
    thread::spawn(move || {
        on_client(server(report));
    });
    address.recv().unwrap()
}

fn on_client<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(work)
}

fn svid() -> Arc<Svid> {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let key = KeyAndCsr::generate(&id).unwrap();
    let hour = Duration::from_secs(3600);
    let chain = ca
        .issue(&key.csr_pem, &id, hour, SystemTime::now())
        .unwrap();
    Arc::new(Svid::from_response(&id, key.key, &chain, WallClock::default()).unwrap())
}
