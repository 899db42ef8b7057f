//! Protobuf messages and gRPC services of the mesh contracts.
//!
//! The `.proto` files in `proto/` are the source; the code beside this file is generated from them and checked in, so
//! that no build needs a protobuf compiler. `tests/generated.rs` regenerates it and fails on any difference.
//!
//! Only the crates that speak a protocol use this one: everybody else uses `tulle-model`.

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod generated {
    pub mod discovery {
        include!("generated/envoy.service.discovery.v3.rs");
    }
    pub mod workload {
        include!("generated/istio.workload.rs");
    }
    pub mod security {
        include!("generated/istio.security.rs");
    }
    pub mod ca {
        include!("generated/istio.v1.auth.rs");
    }
    pub mod zds {
        include!("generated/istio.workload.zds.rs");
    }
    pub mod authorizer {
        include!("generated/envoy.service.auth.v3.rs");
    }
    pub mod trace {
        include!("generated/opentelemetry.proto.collector.trace.v1.rs");
    }
    pub mod rate_limit {
        include!("generated/envoy.service.ratelimit.v3.rs");
    }
    pub mod mesh {
        include!("generated/tulle.mesh.v1.rs");
    }
}

pub use generated::{authorizer, ca, discovery, mesh, rate_limit, security, trace, workload, zds};
