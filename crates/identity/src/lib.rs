//! Who a workload is, and how it proves it: keys, certificates, peer verification, the certificate authority.
//!
//! - [`tls`]: the mesh's TLS profile and the verifiers of peer certificates
//! - [`Svid`]: one certificate with its key, its trust roots and the two TLS configurations built from it
//! - [`SvidStore`]: fetches, renews and hands out SVIDs
//! - [`CaClient`]: asks a certificate authority over gRPC; [`control_tls`] is the channel, shared with xDS
//! - [`ca`]: the authority itself, as `tulled` runs it
//!
//! Which identity is acceptable on a connection is decided by whoever opened it; see [`peer_identity`].
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr};
//!
//! let id = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
//! let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
//! let request = KeyAndCsr::generate(&id).unwrap();
//! let chain = ca.issue(&request.csr_pem, &id, Duration::from_secs(3600), SystemTime::now()).unwrap();
//! let svid = Svid::from_response(&id, request.key, &chain, WallClock::default()).unwrap();
//! assert_eq!(svid.id, id);
//! ```

pub mod ca;
pub mod control_tls;
pub mod csr;
pub mod tls;

mod authority;
mod ca_client;
mod clock;
mod peer;
mod roots;
mod store;
mod svid;

pub use authority::{CaError, CertificateAuthority, SignFuture};
pub use ca_client::{CaClient, CaClientConfig};
pub use clock::WallClock;
pub use peer::{InvalidPeer, peer_identity};
pub use roots::{InvalidRoots, Roots};
pub use store::{
    FetchError, SvidError, SvidState, SvidStatus, SvidStore, SvidStoreConfig, SvidWatch, Worker,
};
pub use svid::{InvalidSvid, Svid};
