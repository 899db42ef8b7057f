//! A program of ours that is told something by a line, and answers each with one.

use std::{fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::node::Node;

/// The running program; it ends with this.
pub(crate) struct Teller {
    _process: Child,
    told: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Teller {
    /// Starts it. What it logs is in `<name>.log`.
    pub(crate) fn start(node: &Node, name: &str, mut program: Command) -> Result<Self> {
        let log = fs::File::create(node.logs.join(format!("{name}.log")))?;
        let mut process = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let answers = process.stdout.take().context("piped")?;
        Ok(Self {
            told: process.stdin.take().context("piped")?,
            answers: BufReader::new(answers).lines(),
            _process: process,
        })
    }

    /// Tells it a line, to which it has to say `ok`.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        self.told.write_all(format!("{line}\n").as_bytes()).await?;
        let answer = self.answers.next_line().await?.context("it has ended")?;
        ensure!(answer == "ok", "{line}: {answer}");
        Ok(())
    }
}
