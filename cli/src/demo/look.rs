//! How to look around in a demo that was left running.

use tulle_lab::sandbox::Sandbox;

use super::world::{CART, World};

pub(super) fn around(sandbox: &Sandbox, world: &World) {
    let lab = world.mesh.lab();
    let cart = lab.pod(CART).netns_name();
    let web = world.web();
    let dir = lab.dir().display();
    let logs = lab.logs();
    let logs = logs.display();
    let enter = enter(sandbox);
    // On standard error, so that --json leaves one document on standard output.
    eprintln!(
        "
The mesh is running. Look around from another terminal, with this before each line, or alone for a shell:

  {enter}

  ip netns exec {cart} curl -s http://{web}/            a request through the mesh
  ip netns exec node2 tcpdump -ni to-node1 tcp           what a bystander between the nodes sees
  ip netns exec node1 curl -s localhost:15000/config_dump   everything ztunnel on node1 knows
  ip netns exec node1 curl -s localhost:15020/metrics       its metrics
  tail -f {logs}/ztunnel-node2.log          its access log
  ls {dir}/manifests                           the objects; edit one and watch
  ls /run/netns                                          all nodes and pods

Ctrl-C removes everything."
    );
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
