//! The programs of the demo's pods, between two pods without a mesh.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::{net::SocketAddr, time::Duration};

use serde::de::DeserializeOwned;
use tulle_cli::workload::{BulkResult, LoadResult};
use tulle_lab::{
    Lab, LabSpec, PodSpec, Process, Program,
    sandbox::{self, Sandbox},
    wait_for,
};

fn tulle(name: &str, args: &[&str]) -> Program {
    let args = ["workload"].into_iter().chain(args.iter().copied());
    Program::new(name, env!("CARGO_BIN_EXE_tulle")).args(args)
}

async fn lab_with_server(sandbox: &Sandbox) -> (Lab, Process) {
    let mut lab = Lab::create(sandbox, &LabSpec::default()).await.unwrap();
    lab.add_pod(PodSpec::new("shop/cart", "node1"))
        .await
        .unwrap();
    lab.add_pod(PodSpec::new("shop/web", "node2"))
        .await
        .unwrap();
    let server = lab
        .spawn("shop/web", tulle("server", &["serve", "--name", "web"]))
        .unwrap();
    let to = SocketAddr::new(lab.pod("shop/web").ip(), 8080);
    wait_for("the server listens", LIMIT, async || {
        lab.pod("shop/cart").connect(to).await.ok().map(drop)
    })
    .await
    .unwrap();
    (lab, server)
}

async fn result<T: DeserializeOwned>(lab: &Lab, args: &[&str]) -> T {
    let output = lab
        .pod("shop/cart")
        .exec(&tulle("client", args))
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn load_sends_at_its_rate_and_reconnects_as_told() {
    sandbox::test(async |sandbox| {
        let (lab, _server) = lab_with_server(&sandbox).await;
        let to = format!("{}:8080", lab.pod("shop/web").ip());
        let args = [
            "load",
            "--rate",
            "200",
            "--seconds",
            "1",
            "--connections",
            "4",
            "--reconnect",
            "10",
            "--to",
            &to,
        ];
        let load: LoadResult = result(&lab, &args).await;
        assert_eq!(
            (load.succeeded, load.failed, load.connections),
            (200, 0, 20),
            "{load:?}"
        );
        assert!(
            load.p50_us > 0 && load.p50_us <= load.p99_us && load.p99_us <= load.max_us,
            "{load:?}"
        );
    });
}

#[test]
fn load_counts_failures_and_says_why() {
    sandbox::test(async |sandbox| {
        let (lab, server) = lab_with_server(&sandbox).await;
        drop(server);
        let to = format!("{}:8081", lab.pod("shop/web").ip());
        let args = [
            "load",
            "--rate",
            "50",
            "--seconds",
            "0.2",
            "--connections",
            "1",
            "--to",
            &to,
        ];
        let load: LoadResult = result(&lab, &args).await;
        assert_eq!((load.succeeded, load.failed), (0, 10), "{load:?}");
        assert!(load.first_error.unwrap().contains("refused"));
    });
}

#[test]
fn bulk_counts_what_arrived_on_every_stream() {
    sandbox::test(async |sandbox| {
        let (lab, _server) = lab_with_server(&sandbox).await;
        let to = format!("{}:9001", lab.pod("shop/web").ip());
        let args = ["bulk", "--seconds", "0.3", "--streams", "2", "--to", &to];
        let bulk: BulkResult = result(&lab, &args).await;
        assert!(
            bulk.bytes > 1 << 20 && bulk.megabits_per_second > 1.0,
            "{bulk:?}"
        );
    });
}

const LIMIT: Duration = Duration::from_secs(10);
