//! Accepts the connections of a pod.

use std::{future::Future, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use super::{Pod, PodListeners, inbound, outbound, passthrough};
use crate::dns::{self, DnsListeners, DnsSockets};

/// Serves a pod until it is let go or the process drains: then listeners close, and connections run on.
///
/// # Errors
/// When a listener cannot be handed to the runtime.
pub fn serve(pod: &Rc<Pod>, listeners: PodListeners) -> io::Result<()> {
    let outbound = TcpListener::from_std(listeners.outbound)?;
    let inbound = TcpListener::from_std(listeners.inbound)?;
    let hbone = TcpListener::from_std(listeners.hbone)?;
    let dns = listeners.dns.map(DnsSockets::into_listeners).transpose()?;
    spawn_local(accept(pod.clone(), outbound, "outbound", outbound::handle));
    spawn_local(accept(pod.clone(), inbound, "inbound", passthrough::handle));
    spawn_local(accept(pod.clone(), hbone, "hbone", inbound::handle));
    let DnsListeners { udp, tcp } = dns.unwrap_or_default();
    for socket in udp {
        spawn_local(dns::serve(pod.clone(), socket));
    }
    for listener in tcp {
        spawn_local(accept(pod.clone(), listener, "dns", dns::converse));
    }
    Ok(())
}

async fn accept<F: Future<Output = ()> + 'static>(
    pod: Rc<Pod>,
    listener: TcpListener,
    kind: &'static str,
    handle: fn(Rc<Pod>, TcpStream, SocketAddr) -> F,
) {
    let drain = pod.drain.clone();
    // Until the rest is taken, more may come.
    let _opening = pod.live.opening();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return accept_rest(&pod, listener, handle),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => admit(&pod, tcp, peer, handle),
            // Out of descriptors or memory: what is open may end soon, so wait instead of spinning.
            Err(error) => {
                tracing::warn!(%error, kind, pod = %pod.spec.info.name, "accept failed");
                pod.shared().metrics.refuse("accept_error");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes what has been answered by the kernel already, and would be reset with the listener.
fn accept_rest<F: Future<Output = ()> + 'static>(
    pod: &Rc<Pod>,
    listener: TcpListener,
    handle: fn(Rc<Pod>, TcpStream, SocketAddr) -> F,
) {
    if pod.gone.is_cancelled() {
        return;
    }
    let Ok(listener) = listener.into_std() else {
        return;
    };
    while let Ok((tcp, peer)) = listener.accept() {
        let tcp = tcp
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(tcp));
        if let Ok(tcp) = tcp {
            admit(pod, tcp, peer, handle);
        }
    }
}

fn admit<F: Future<Output = ()> + 'static>(
    pod: &Rc<Pod>,
    tcp: TcpStream,
    peer: SocketAddr,
    handle: fn(Rc<Pod>, TcpStream, SocketAddr) -> F,
) {
    // Connections that carry tunnels, and those that could, are counted beside the tunnels themselves.
    let open = pod.live.count() + pod.handshakes.established();
    if open >= pod.settings().max_connections {
        pod.shared().metrics.refuse("too_many_connections");
        return;
    }
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    // From here on it counts, whenever its turn comes.
    let (opening, handled) = (pod.live.opening(), handle(pod.clone(), tcp, peer));
    spawn_local(async move {
        handled.await;
        drop(opening);
    });
}

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Every connection holds one of these for as long as it lives; ten thousand idle ones should fit in 25 MB.
    #[test]
    fn connections_stay_small() {
        let sizes = [
            ("outbound", size(outbound::handle), 640),
            ("tunnel", inbound::tunnel_size(), 640),
            ("passthrough", size(passthrough::handle), 640),
            // One for all tunnels between two pods.
            ("tunnel connection", size(inbound::handle), 2048),
        ];
        for (kind, size, limit) in sizes {
            assert!(size <= limit, "{kind}: {size} bytes");
        }
    }
}
