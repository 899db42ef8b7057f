//! What every process needs: readiness, drain, signals, logs, metrics, admin server.
//!
//! Everything runs on a single-threaded tokio runtime; the log has one thread of its own, so that writing a line never
//! blocks who writes it. What a process is for is not here.
//!
//! ```no_run
//! use tulle_runtime::{drain, http, log, metrics, readiness::Readiness, signal};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let log = log::init(log::LogConfig::default())?;
//! let readiness = Readiness::new();
//! let proxy = readiness.task("proxy");
//! let routes = http::Router::new("example").merge(log.routes());
//! let admin = http::Server::bind(http::Listen::Loopback(15000), routes, http::ServerConfig::default()).await?;
//! let admin = tokio::spawn(admin.run());
//! let (trigger, watcher) = drain::channel();
//! // … start tasks with clones of `watcher` …
//! drop(watcher);
//! proxy.ready();
//! signal::Shutdown::install()?.wait().await;
//! trigger.drain(std::time::Duration::from_secs(5)).await;
//! admin.abort();
//! # Ok(()) }
//! ```

pub mod drain;
pub mod http;
pub mod log;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod signal;
