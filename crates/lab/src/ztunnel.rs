//! A node's ztunnel: the process, and what it tells about itself.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::Value;
use tulle_net::Netns;

use crate::{address::Families, http, metrics::Metrics, process::Process};

/// The ztunnel of one node.
#[derive(Debug)]
pub struct Ztunnel {
    node: String,
    netns: Netns,
    families: Families,
    process: Process,
}

impl Ztunnel {
    pub(crate) fn new(node: &str, netns: &Netns, families: Families, process: Process) -> Self {
        Self {
            node: node.into(),
            netns: netns.clone(),
            families,
            process,
        }
    }

    /// The node it serves.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its process, for signals, usage and log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process, to be stopped, killed or started again.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it exits or is not ready within `limit`.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let (netns, to) = (self.netns.clone(), self.local(READINESS_PORT));
        self.process
            .wait_until("readiness", limit, async || {
                http::get(&netns, to, "/healthz/ready").await.ok().map(drop)
            })
            .await
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics> {
        let text = http::get(&self.netns, self.local(METRICS_PORT), "/metrics").await;
        Metrics::parse(&text.with_context(|| format!("no metrics of ztunnel on {}", self.node))?)
    }

    /// Everything it knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn config_dump(&self) -> Result<Value> {
        let text = http::get(&self.netns, self.local(ADMIN_PORT), "/config_dump").await;
        Ok(serde_json::from_str(&text.with_context(|| {
            format!("no config dump of ztunnel on {}", self.node)
        })?)?)
    }

    /// Waits until the config dump fits `condition`.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn wait_for_config(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let what = format!("ztunnel on {}: {what}", self.node);
        crate::process::wait_for(&what, limit, async || {
            let dump = self.config_dump().await.ok()?;
            condition(&dump).then_some(())
        })
        .await
    }

    /// Asks the admin server to do something.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn post(&self, path: &str) -> Result<String> {
        let answer = http::request(&self.netns, Method::POST, self.local(ADMIN_PORT), path).await?;
        ensure!(
            answer.status.is_success(),
            "{path} answered {}: {}",
            answer.status,
            answer.body
        );
        Ok(answer.body)
    }

    /// The lines of the access log so far.
    pub fn access_log(&self) -> Vec<Access> {
        access_lines(&self.process.log())
    }

    /// Waits for a line of the access log.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub async fn wait_for_access(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Access) -> bool,
    ) -> Result<Access> {
        let what = format!("access log on {}: {what}", self.node);
        crate::process::wait_for(&what, limit, async || {
            self.access_log().into_iter().rev().find(&condition)
        })
        .await
    }

    fn local(&self, port: u16) -> SocketAddr {
        if self.families.v4() {
            (Ipv4Addr::LOCALHOST, port).into()
        } else {
            (Ipv6Addr::LOCALHOST, port).into()
        }
    }
}

/// A line of the access log.
#[derive(Clone, Debug)]
pub struct Access(Value);

impl Access {
    /// A field as text, such as `src.identity` or `bytes_sent`.
    pub fn field(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether the field has this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.field(name).as_deref() == Some(value)
    }

    /// Why the connection failed, if it did.
    pub fn error(&self) -> Option<String> {
        self.field("error")
    }
}

/// The access lines of a JSON log. Other lines, and one that is still being written, are skipped.
fn access_lines(log: &str) -> Vec<Access> {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line.get("scope").and_then(Value::as_str) == Some("access"))
        .map(Access)
        .collect()
}

const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READINESS_PORT: u16 = 15021;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_lines_are_told_from_others() {
        let log = concat!(
            "plain words\n",
            r#"{"level":"info","scope":"state","message":"connection complete"}"#,
            "\n",
            r#"{"level":"error","scope":"access","src.identity":"spiffe://a/ns/b/sa/c","bytes_sent":5,"error":"denied"}"#,
            "\n",
            r#"{"level":"info","scope":"acc"#,
        );
        let lines = access_lines(log);
        let [line] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert!(line.is("src.identity", "spiffe://a/ns/b/sa/c") && line.is("bytes_sent", "5"));
        assert_eq!(line.error().as_deref(), Some("denied"));
    }
}
