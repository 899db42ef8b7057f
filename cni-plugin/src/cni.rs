//! The Container Network Interface as a chained plugin sees it: environment and configuration in, result or error out.

mod config;
mod environment;
mod error;
mod version;

pub use config::{Attachment, Config};
pub use environment::{Command, Environment, PodArgs};
pub use error::{CniError, Code};
pub use version::Version;
