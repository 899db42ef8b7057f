//! What is known about a connection.

use std::{fmt, net::IpAddr};

use tulle_model::{SpiffeId, token::TokenField};

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

/// What a policy may ask about a request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The host, with the port if the client named one, in lower case.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Without the query, in the one spelling in which it is forwarded.
    pub path: &'a str,
    /// Where it began.
    pub remote_ip: IpAddr,
    /// The values of a header, by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Vec<&'a [u8]>,
    /// The values of a field of its valid token; none without such a token.
    pub token: &'a dyn Fn(&TokenField) -> Vec<&'a str>,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method, host, path, ..
        } = self;
        write!(f, "{method} {host}{path}")
    }
}

/// A connection in the form in which many policies compare it.
pub(crate) struct Facts<'a> {
    /// None for plaintext.
    pub(crate) identity: Option<&'a SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) request: Option<Request<'a>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &Connection<'a>, request: Option<Request<'a>>) -> Self {
        Self {
            identity: connection.identity,
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination_ip.to_canonical(),
            destination_port: connection.destination_port,
            request,
        }
    }

    /// Namespace of the peer; empty for plaintext, which is how policies compare it.
    pub(crate) fn namespace(&self) -> &[u8] {
        self.identity
            .map_or(&[], |identity| identity.namespace().as_bytes())
    }
}
