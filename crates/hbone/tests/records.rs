//! Our record layer against rustls' own, byte for byte.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tulle_hbone::tls::{self, TlsStream};
use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr};
use tulle_model::SpiffeId;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

#[test]
fn our_client_talks_to_a_rustls_server() {
    run(async {
        let (near, far, svid) = sockets().await;
        let acceptor = TlsAcceptor::from(svid.server_config().clone());
        let expected = [svid.id.clone()];
        let (ours, theirs) = tokio::join!(
            tls::connect(near, svid.client_config().clone(), &expected),
            acceptor.accept(far)
        );
        exchange(ours.unwrap().0, theirs.unwrap(), |stream| {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
        })
        .await;
    });
}

#[test]
fn a_rustls_client_talks_to_our_server() {
    run(async {
        let (near, far, svid) = sockets().await;
        let connector = TlsConnector::from(svid.client_config().clone());
        let name = ServerName::try_from("ignored.test").unwrap();
        let (theirs, ours) = tokio::join!(
            connector.connect(name, near),
            tls::accept(far, svid.server_config().clone())
        );
        let (ours, peer) = ours.unwrap();
        assert_eq!(peer.to_string(), ID);
        exchange(ours, theirs.unwrap(), |stream| {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
        })
        .await;
    });
}

#[test]
fn bytes_that_are_no_record_end_the_connection() {
    run(async {
        for garbage in [
            &[22, 3, 3, 0, 1, 0][..], // a handshake record in the clear
            &[23, 2, 0, 0, 17],       // no TLS version
            &[23, 3, 3, 0xff, 0xff],  // longer than any record
            &[
                23, 3, 3, 0, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17,
            ], // forged
        ] {
            let (near, far, svid) = sockets().await;
            let acceptor = TlsAcceptor::from(svid.server_config().clone());
            let expected = [svid.id.clone()];
            let (ours, theirs) = tokio::join!(
                tls::connect(near, svid.client_config().clone(), &expected),
                acceptor.accept(far)
            );
            let (mut ours, _) = ours.unwrap();
            let (mut tcp, _) = theirs.unwrap().into_inner();
            tcp.write_all(garbage).await.unwrap();
            let read = ours.read_u8().await;
            assert!(read.is_err(), "{garbage:?}");
        }
    });
}

#[test]
fn a_cut_connection_is_no_orderly_end() {
    run(async {
        let (near, far, svid) = sockets().await;
        let acceptor = TlsAcceptor::from(svid.server_config().clone());
        let expected = [svid.id.clone()];
        let (ours, theirs) = tokio::join!(
            tls::connect(near, svid.client_config().clone(), &expected),
            acceptor.accept(far)
        );
        let (mut ours, _) = ours.unwrap();
        drop(theirs.unwrap().into_inner().0);
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

/// Both send blocks of many sizes, with new keys in between, and an orderly end.
async fn exchange<S>(mut ours: TlsStream, mut theirs: S, mut rekey: impl FnMut(&mut S))
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for size in [1, 9, 4096, 4097, 16_383, 16_384, 16_385, 70_000, 300_000] {
        let block: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let sending = async {
            // The other side reads at the same time, or neither could finish.
            ours.write_all(&block).await.unwrap();
            flush(&ours).await;
        };
        let mut arrived = vec![0; size];
        let receiving = theirs.read_exact(&mut arrived);
        let ((), received) = tokio::join!(sending, receiving);
        received.unwrap();
        assert!(arrived == block, "{size} bytes from us");

        rekey(&mut theirs);
        let sending = async {
            theirs.write_all(&block).await.unwrap();
            theirs.flush().await.unwrap();
        };
        let mut arrived = vec![0; size];
        let receiving = async {
            let read = ours.read_exact(&mut arrived).await;
            flush(&ours).await;
            read
        };
        let ((), received) = tokio::join!(sending, receiving);
        received.unwrap();
        assert!(arrived == block, "{size} bytes to us");
    }
    ours.shutdown().await.unwrap();
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    theirs.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
}

/// Waits until everything written is with the kernel.
async fn flush(stream: &TlsStream) {
    poll_fn(|cx| {
        stream.flush_batch(cx).unwrap();
        if stream.queued() == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn sockets() -> (TcpStream, TcpStream, Arc<Svid>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0, svid())
}

fn svid() -> Arc<Svid> {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let id: SpiffeId = ID.parse().unwrap();
    let key = KeyAndCsr::generate(&id).unwrap();
    let hour = Duration::from_secs(3600);
    let chain = ca
        .issue(&key.csr_pem, &id, hour, SystemTime::now())
        .unwrap();
    Arc::new(Svid::from_response(&id, key.key, &chain, WallClock::default()).unwrap())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, test).await.unwrap();
    });
}
