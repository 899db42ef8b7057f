//! How to look around in a demo that was left running.

use tulle_lab::sandbox::Sandbox;

use super::world::{CART, World};

/// Prints to standard error, so that `--json` leaves one document on standard output.
pub(super) fn around(sandbox: &Sandbox, world: &World) {
    eprintln!(
        "\nThe mesh is running. Look around from another terminal: this alone for a shell, or before a line below"
    );
    eprintln!("\n  {}\n", enter(sandbox));
    let lines = lines(world);
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
    for (line, what) in lines {
        eprintln!("  {line:<width$}  # {what}");
    }
    eprintln!("\nCtrl-C removes everything.");
}

fn lines(world: &World) -> Vec<(String, &'static str)> {
    let lab = world.mesh.lab();
    let cart = lab.pod(CART).netns_name();
    let web = world.web();
    let (dir, logs) = (lab.dir(), lab.logs());
    let (dir, logs) = (dir.display(), logs.display());
    vec![
        (
            format!("ip netns exec {cart} curl -s http://{web}/"),
            "a request through the mesh",
        ),
        (
            "ip netns exec node2 tcpdump -ni to-node1 tcp".into(),
            "what a bystander between the nodes sees",
        ),
        (
            "ip netns exec node1 curl -s localhost:15000/config_dump".into(),
            "everything ztunnel on node1 knows",
        ),
        (
            "ip netns exec node1 curl -s localhost:15020/metrics".into(),
            "its metrics",
        ),
        (
            format!("tail -f {logs}/ztunnel-node2.log"),
            "the log of the one on node2",
        ),
        (
            format!("ls {dir}/manifests"),
            "the objects; edit one and watch",
        ),
        ("ls /run/netns".into(), "all nodes and pods"),
    ]
}

fn enter(sandbox: &Sandbox) -> String {
    let target = sandbox
        .outer_pid()
        .map_or_else(|| "$(pgrep -n -x tulle)".into(), |pid| pid.to_string());
    if sandbox.is_rootless() {
        format!("nsenter -t {target} -U --preserve-credentials -m -p -n")
    } else {
        format!("nsenter -t {target} -m -p -n")
    }
}
