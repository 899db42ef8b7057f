//! What is known about a connection.

use std::net::IpAddr;

use smallvec::SmallVec;
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
    pub(crate) identity: Option<Identity<'a>>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination_ip: IpAddr,
    pub(crate) destination_port: u16,
}

/// The texts of an identity. The principal is put together once per check, on the stack.
pub(crate) struct Identity<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service_account: &'a str,
    pub(crate) principal: SmallVec<[u8; INLINE_PRINCIPAL]>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(connection: &Connection<'a>) -> Self {
        Self {
            identity: connection.identity.map(Identity::new),
            source_ip: connection.source_ip.to_canonical(),
            destination_ip: connection.destination_ip.to_canonical(),
            destination_port: connection.destination_port,
        }
    }

    /// Namespace of the peer; empty for plaintext, which is how policies compare it.
    pub(crate) fn namespace(&self) -> &[u8] {
        self.identity
            .as_ref()
            .map_or(&[], |identity| identity.namespace.as_bytes())
    }
}

impl<'a> Identity<'a> {
    fn new(id: &'a SpiffeId) -> Self {
        let mut principal = SmallVec::new();
        for part in [
            id.trust_domain().as_str(),
            "/ns/",
            id.namespace(),
            "/sa/",
            id.service_account(),
        ] {
            principal.extend_from_slice(part.as_bytes());
        }
        Self {
            namespace: id.namespace(),
            service_account: id.service_account(),
            principal,
        }
    }
}

/// Longer principals (at most 769 bytes) cost an allocation.
const INLINE_PRINCIPAL: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principal_equals_the_model_form_for_short_and_long_identities() {
        let long = "x".repeat(250);
        for (namespace, account) in [("shop", "cart"), (long.as_str(), long.as_str())] {
            let id = SpiffeId::new(Default::default(), namespace, account).unwrap();
            assert_eq!(
                Identity::new(&id).principal.as_slice(),
                id.principal().as_bytes()
            );
        }
    }
}
