//! Which build this is.

use serde_json::{Value, json};

/// As the configuration dump shows it.
pub fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": option_env!("TULLE_GIT_REVISION").unwrap_or("unknown"),
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "Tulle",
        "istioVersion": "unknown",
        "cryptoProvider": "tls-aws-lc",
    })
}
