//! A lab to look around in: two nodes and two pods, until Ctrl-C.
//!
//! ```text
//! cargo run -p tulle-lab --example lab
//! ```

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tulle_lab::{
    Lab, LabSpec, PodSpec,
    sandbox::{self, Run, Sandbox},
};

fn main() -> anyhow::Result<ExitCode> {
    let sandbox = match sandbox::enter()? {
        Run::Inside(sandbox) => sandbox,
        Run::Ended(status) => return Ok(ExitCode::from(sandbox::exit_code(status))),
    };
    sandbox.block_on(stay)?
}

async fn stay(sandbox: Sandbox) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut lab = Lab::create(&sandbox, &LabSpec::default()).await?;
    lab.add_pod(PodSpec::new("shop/cart", "node1")).await?;
    lab.add_pod(PodSpec::new("shop/web", "node2")).await?;
    if let Some(pid) = sandbox.outer_pid() {
        println!("nsenter -t {pid} -U --preserve-credentials -m -p -n ip netns exec shop-cart sh");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    // Not the usual status, so that it can be told from one that somebody else made up.
    Ok(ExitCode::from(7))
}
