use std::future::poll_fn;

use bytes::Bytes;
use h2::server::{self, Connection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PING: u8 = 6;

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_given_up_in_time() {
    for (busy, expected) in [(true, 10 + 20), (false, 60 + 20)] {
        let (mut watched, mut peer) = start().await;
        let started = Instant::now();
        watched.until_dead(busy, || 0).await;
        assert_eq!(started.elapsed(), expected * SECOND, "busy: {busy}");
        assert_eq!(peer.pings().await, 1, "busy: {busy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_is_not_pinged() {
    let (mut watched, mut peer) = start().await;
    let started = Instant::now();
    // A byte a second.
    let received = || started.elapsed().as_secs();
    let hour = timeout(3600 * SECOND, watched.until_dead(true, received)).await;
    assert!(hour.is_err());
    assert_eq!(peer.pings().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_pings_is_given_up_once_it_falls_silent() {
    let (mut watched, mut peer) = start().await;
    let started = Instant::now();
    // One last byte after the ping went out.
    let received = || u64::from(started.elapsed() > 15 * SECOND);
    let hour = timeout(3600 * SECOND, watched.until_dead(true, received)).await;
    assert!(hour.is_ok());
    // Pinged at 10 s, the byte seen at 30 s, waited for again from 40 s.
    assert_eq!(started.elapsed(), 60 * SECOND);
    assert_eq!(
        peer.pings().await,
        1,
        "no second one while the first is open"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_given_up() {
    let (mut watched, _peer) = start().await;
    watched.blocked = true;
    let started = Instant::now();
    watched.until_dead(true, || 0).await;
    assert_eq!(started.elapsed(), 30 * SECOND);
}

struct Watched {
    connection: Connection<DuplexStream, Bytes>,
    liveness: Liveness,
    /// Whether the connection makes no progress.
    blocked: bool,
}

impl Watched {
    async fn until_dead(&mut self, busy: bool, received: impl Fn() -> u64) {
        poll_fn(|cx| {
            if !self.blocked {
                assert!(self.connection.poll_accept(cx).is_pending());
            }
            match self.liveness.poll(cx, received(), busy) {
                Ok(()) => Poll::Pending,
                Err(Dead) => Poll::Ready(()),
            }
        })
        .await;
    }
}

/// The far end: it answers nothing.
struct Peer(DuplexStream);

impl Peer {
    /// Pings that have come so far.
    async fn pings(&mut self) -> usize {
        let mut count = 0;
        loop {
            let mut head = [0; 9];
            if timeout(SECOND, self.0.read_exact(&mut head)).await.is_err() {
                return count;
            }
            let length = (usize::from(head[1]) << 8) | usize::from(head[2]);
            self.0.read_exact(&mut vec![0; length]).await.unwrap();
            count += usize::from(head[3] == PING);
        }
    }
}

async fn start() -> (Watched, Peer) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (near, mut far) = duplex(64 << 10);
    far.write_all(PREFACE).await.unwrap();
    let mut connection = server::handshake(near).await.unwrap();
    let liveness = Liveness::new(&LivenessSettings::default(), connection.ping_pong());
    let watched = Watched {
        connection,
        liveness,
        blocked: false,
    };
    (watched, Peer(far))
}
