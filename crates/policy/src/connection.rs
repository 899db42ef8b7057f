//! What is known about a connection.

use std::net::IpAddr;

use tulle_model::SpiffeId;

/// What a policy may ask about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who connected, as proven by a certificate; none for plaintext.
    pub identity: Option<&'a SpiffeId>,
    /// The TCP peer.
    pub source_ip: IpAddr,
    /// Address of the workload that is reached.
    pub destination_ip: IpAddr,
    /// Port of the workload that is reached, after every translation.
    pub destination_port: u16,
}

/// A connection in the form in which many policies compare it.
pub(crate) struct Facts<'a> {
    /// None for plaintext.
    pub(crate) identity: Option<&'a SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &Connection<'a>) -> Self {
        Self {
            identity: connection.identity,
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination_ip.to_canonical(),
            destination_port: connection.destination_port,
        }
    }

    /// Namespace of the peer; empty for plaintext, which is how policies compare it.
    pub(crate) fn namespace(&self) -> &[u8] {
        self.identity
            .map_or(&[], |identity| identity.namespace().as_bytes())
    }
}
