//! A second ztunnel on a node, as there is one while the first is replaced.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use super::Mesh;
use crate::{
    http,
    process::{Process, Program},
};

impl Mesh {
    /// Starts another ztunnel like the one of `node`, with ports of its own for what is not in pods, and waits until it is ready.
    ///
    /// # Errors
    /// When there is none to be like, or it is not ready in time.
    pub async fn start_successor(&self, node: &str) -> Result<Process> {
        let pid = self.ztunnel(node).process().pid().context("no ztunnel")?;
        let environment = fs::read_to_string(format!("/proc/{pid}/environ"))?;
        let variables = environment
            .split('\0')
            .filter_map(|text| text.split_once('='));
        let program = Program::new(
            format!("ztunnel-{node}-successor"),
            self.binaries().path("ztunnel")?,
        );
        let program = variables.fold(program, |program, (name, value)| program.env(name, value));
        let program = program
            .env("TULLE_ADMIN_ADDR", "16000")
            .env("TULLE_STATS_ADDR", "16020")
            .env("TULLE_READINESS_ADDR", READINESS.to_string());
        let netns = self.lab().node(node).netns().clone();
        let mut process = Process::spawn(&netns, &self.lab().logs(), program)?;
        let ready = ([127, 0, 0, 1], READINESS).into();
        process
            .wait_until("readiness", LIMIT, async || {
                http::get(&netns, ready, "/healthz/ready").await.ok()
            })
            .await?;
        Ok(process)
    }
}

const READINESS: u16 = 16_021;
const LIMIT: Duration = Duration::from_secs(15);
