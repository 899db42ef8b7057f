//! Taking the plugin away, and what the executable does meanwhile.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use tulle_cni_plugin::node::install::{Plugin, uninstall};

use crate::node::{Node, PRIMARY, in_place};

/// A node with the real executable.
fn node() -> Node {
    let node = Node::new();
    fs::copy(
        env!("CARGO_BIN_EXE_tulle-cni"),
        node.path("image/tulle-cni"),
    )
    .unwrap();
    node.write("conf/10-pods.conflist", PRIMARY);
    in_place(node.installer().pass().unwrap());
    node
}

/// Executes the installed plugin, which has no agent to ask.
fn execute(node: &Node, verb: &str, input: &str) -> (String, bool) {
    let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";
    let mut child = Command::new(node.path("bin/tulle-cni"))
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c-1")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.success(),
    )
}

fn input(node: &Node, more: &str) -> String {
    let run_dir = node.path("run");
    format!(
        "{{\"cniVersion\":\"1.1.0\",\"name\":\"pods\",\"type\":\"tulle-cni\",\"timeout_seconds\":1,\
         \"cni_agent_run_dir\":{run_dir:?}{more}}}"
    )
}

const PREVIOUS: &str = r#"{"cniVersion":"1.1.0", "zone":12345678901234567890, "w":1.0, "ips":[{"address":"10.1.2.3/24"}]}"#;

fn command(node: &Node) -> Output {
    let flag =
        |name: &str, directory: &str| [OsStr::new(name).to_owned(), node.path(directory).into()];
    // In a network namespace of its own: what it takes away there is not this machine's.
    Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(env!("CARGO_BIN_EXE_tulle-node"))
        .env("NODE_NAME", "node1")
        .env("TULLE_NODE_INSTALL", "true")
        .arg("uninstall")
        .args(flag("--cni-bin-dir", "bin"))
        .args(flag("--cni-conf-dir", "conf"))
        .args(flag("--cni-cache-dir", "cache"))
        .args(flag("--state", "state"))
        .output()
        .unwrap()
}

const TRACES: &str = "removed the table of probes and what was known of pods\n";

#[test]
fn node_without_sandboxes_is_as_it_was() {
    let node = node();
    node.write("conf/.10-pods.conflist.1a.tulle-new", "half");
    node.write("bin/.tulle-cni.1a.tulle-new", "half");
    let output = command(&node);
    assert!(output.status.success(), "{output:?}");
    let expected = format!(
        "took tulle-cni out of {}\nremoved tulle-cni\n{TRACES}",
        node.path("conf/10-pods.conflist").display()
    );
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(node.names("conf"), ["10-pods.conflist"]);
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
    assert_eq!(node.names("bin"), [""; 0]);
    let again = command(&node);
    let again_said = String::from_utf8_lossy(&again.stdout);
    assert_eq!(again_said, format!("tulle-cni is not installed\n{TRACES}"));
    assert!(again.status.success());
}

#[test]
fn executable_stays_and_passes_while_sandboxes_name_it() {
    let node = node();
    node.add_sandbox("pods-c1-eth0", "conf/10-pods.conflist");
    let add = input(&node, &format!(",\"prevResult\":{PREVIOUS}"));
    assert!(!execute(&node, "ADD", &add).1, "passed without an agent");
    let output = command(&node);
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1 sandboxes still name tulle-cni"), "{said}");
    assert_eq!(node.names("bin"), ["tulle-cni", "tulle-cni.pass-through"]);

    assert_eq!(execute(&node, "ADD", &add), (format!("{PREVIOUS}\n"), true));
    let odd = add
        .replace("1.1.0", "0.1.0")
        .replace("timeout_seconds", "unknown");
    let passed = PREVIOUS.replace("1.1.0", "0.1.0") + "\n";
    assert_eq!(execute(&node, "ADD", &odd), (passed, true));
    for verb in ["DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(execute(&node, verb, &add), (String::new(), true), "{verb}");
    }
    let (versions, success) = execute(&node, "VERSION", "");
    assert!(
        success && versions.contains("supportedVersions"),
        "{versions}"
    );
    // There is no result to make up.
    let (error, success) = execute(&node, "ADD", &input(&node, ""));
    assert!(!success && error.contains("no prevResult"), "{error}");

    // Nothing changes until the sandbox is gone.
    let done = uninstall(&node.uninstall_config()).unwrap();
    assert_eq!(done.plugin, Plugin::PassesThrough(1));
    fs::remove_file(node.path("cache/results/pods-c1-eth0")).unwrap();
    let done = uninstall(&node.uninstall_config()).unwrap();
    assert_eq!(done.plugin, Plugin::Removed);
    assert_eq!(done.configurations, [""; 0].map(std::path::PathBuf::from));
    assert_eq!(node.names("bin"), [""; 0]);
}

#[test]
fn installing_again_closes_the_door() {
    let node = node();
    node.add_sandbox("pods-c1-eth0", "conf/10-pods.conflist");
    let add = input(&node, &format!(",\"prevResult\":{PREVIOUS}"));
    uninstall(&node.uninstall_config()).unwrap();
    assert!(execute(&node, "ADD", &add).1);
    in_place(node.installer().pass().unwrap());
    assert_eq!(node.names("bin"), ["tulle-cni"]);
    let (error, success) = execute(&node, "ADD", &add);
    assert!(!success && error.contains("\"code\":11"), "{error}");
}

#[test]
fn mark_of_just_anybody_opens_nothing() {
    let node = node();
    let add = input(&node, &format!(",\"prevResult\":{PREVIOUS}"));
    let marker = node.path("bin/tulle-cni.pass-through");
    let passes = || execute(&node, "ADD", &add).1;
    for (mode, passed) in [(0o644, true), (0o664, false), (0o646, false), (0o600, true)] {
        node.write("bin/tulle-cni.pass-through", "");
        fs::set_permissions(&marker, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(passes(), passed, "{mode:o}");
    }
    fs::remove_file(&marker).unwrap();
    std::os::unix::fs::symlink(node.path("conf/10-pods.conflist"), &marker).unwrap();
    assert!(!passes(), "a link");
    fs::remove_file(&marker).unwrap();
    fs::create_dir(&marker).unwrap();
    assert!(!passes(), "a directory");
    fs::remove_dir(&marker).unwrap();
    // Only root can give files away.
    if nix::unistd::geteuid().is_root() {
        let give = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(12_345), None);
        node.write("bin/tulle-cni.pass-through", "");
        if give(&marker).is_ok() {
            assert!(!passes(), "somebody else's");
            give(&node.path("bin/tulle-cni")).unwrap();
            assert!(passes(), "the executable's owner's");
        }
    }
}

#[test]
fn executable_is_not_removed_while_a_configuration_may_name_it() {
    let node = node();
    let broken = node
        .read("conf/10-pods.conflist")
        .replace("\"name\": \"pods\",", "");
    node.write("conf/10-pods.conflist", &broken);
    let error = uninstall(&node.uninstall_config()).unwrap_err().to_string();
    let path = node.path("conf/10-pods.conflist");
    assert_eq!(
        error,
        format!(
            "{} mentions tulle-cni, but cannot be edited",
            path.display()
        )
    );
    assert_eq!(node.names("bin"), ["tulle-cni"]);
    assert!(!command(&node).status.success());
}
