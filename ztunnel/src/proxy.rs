//! The data path of one pod on one thread.
//!
//! Every data-plane thread has its own [`Pod`] for each pod of the node: its own listening sockets (the kernel spreads
//! connections over them), pooled connections and connection table. Nothing of it crosses threads; what threads share
//! is in [`Shared`] and is either immutable or atomic.
//!
//! ```text
//!  15001 outbound.rs     captured from the app: route, then a tunnel or plain TCP
//!  15006 passthrough.rs  captured on its way to the app, in the clear: policy, then plain TCP
//!  15008 inbound.rs      tunnels from other nodes: identity, policy, then plain TCP to the app
//!  15053 dns.rs, beside  the app's DNS queries, on one of the threads
//! ```

mod announce;
mod inbound;
mod listen;
mod live;
mod outbound;
mod passthrough;
mod pod;
mod serve;
mod settings;

pub use listen::{PodListeners, open_listeners};
pub use live::{Closed, ConnectionDump, LiveConnections, Opening};
pub use pod::{Local, Pod, PodSpec, Shared, ThreadContext};
pub use serve::serve;
pub use settings::ProxySettings;
