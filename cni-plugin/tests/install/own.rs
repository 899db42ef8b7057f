//! Our own file, a copy of the primary's.

use tulle_cni_plugin::node::install::{Installer, Mode, uninstall};

use crate::node::{ENTRY, Node, PRIMARY, SINGLE, in_place, mode, version};

const OWN: &str = "02-tulle-cni.conflist";

fn installer(node: &Node, name: &str) -> Installer {
    let mut config = node.config();
    config.mode = Mode::OwnFile(name.to_owned());
    Installer::new(config)
}

/// The copy of a list in this file.
fn copied(text: &str, file: &str) -> String {
    let entry = ENTRY.strip_suffix('}').unwrap();
    text.replace(
        "true}}\n",
        &format!("true}}}},\n    {entry},\"tulle.io/copy-of\":\"{file}\"}}\n"),
    )
}

#[test]
fn copy_follows_the_primary_which_is_not_touched() {
    let node = Node::new();
    let mut installer = installer(&node, OWN);
    assert!(installer.pass().unwrap().standing.is_err());
    assert_eq!(node.configurations(), [""; 0]);
    for text in [
        PRIMARY.to_owned(),
        version(1),
        PRIMARY.replace("1.50e3", "1500"),
    ] {
        node.write("conf/10-pods.conflist", &text);
        let pass = installer.pass().unwrap();
        assert!(pass.configured);
        assert_eq!(in_place(pass), node.path("conf").join(OWN));
        assert_eq!(node.read("conf/10-pods.conflist"), text);
        let own = node.read(&format!("conf/{OWN}"));
        assert_eq!(own, copied(&text, "10-pods.conflist"));
        assert!(!installer.pass().unwrap().configured);
    }
    assert_eq!(mode(&node.path("conf").join(OWN)), 0o600);

    // Without a primary there is nothing to copy, and no reason to let pods start without the mesh.
    std::fs::remove_file(node.path("conf/10-pods.conflist")).unwrap();
    assert!(installer.pass().unwrap().standing.is_err());
    assert_eq!(node.configurations(), [OWN]);
}

#[test]
fn copy_is_a_list_even_if_the_primary_is_none() {
    let node = Node::new();
    node.write("conf/10-pods.json", SINGLE);
    in_place(installer(&node, OWN).pass().unwrap());
    assert_eq!(node.configurations(), [OWN, "10-pods.json"]);
    assert_eq!(node.read("conf/10-pods.json"), SINGLE);
    let own = node.read(&format!("conf/{OWN}"));
    assert!(own.contains(SINGLE.trim()) && own.contains("\"tulle.io/copy-of\":\"10-pods.json\""));
}

#[test]
fn copy_must_come_first() {
    let node = Node::new();
    node.write("conf/00-pods.conflist", PRIMARY);
    let error = installer(&node, OWN).pass().unwrap_err().to_string();
    let path = |name: &str| node.path("conf").join(name).display().to_string();
    assert_eq!(
        error,
        format!(
            "{} would not come before {}, so runtimes would not use it: choose an earlier name by \
             --cni-own-config=NAME",
            path(OWN),
            path("00-pods.conflist")
        )
    );
    assert_eq!(node.configurations(), ["00-pods.conflist"]);
    in_place(installer(&node, "00-mesh.conflist").pass().unwrap());
    assert_eq!(
        node.configurations(),
        ["00-mesh.conflist", "00-pods.conflist"]
    );
}

#[test]
fn another_mode_takes_away_what_this_one_left() {
    let node = Node::new();
    node.write("conf/10-pods.conflist", PRIMARY);
    in_place(installer(&node, OWN).pass().unwrap());
    in_place(installer(&node, "01-mesh.conflist").pass().unwrap());
    assert_eq!(
        node.configurations(),
        ["01-mesh.conflist", "10-pods.conflist"]
    );
    in_place(node.installer().pass().unwrap());
    assert_eq!(node.configurations(), ["10-pods.conflist"]);
    // Then again: the entry is in the copy once, and in the primary's until that is written again.
    in_place(installer(&node, OWN).pass().unwrap());
    let own = node.read(&format!("conf/{OWN}"));
    assert_eq!(own, copied(PRIMARY, "10-pods.conflist"));

    uninstall(&node.uninstall_config()).unwrap();
    assert_eq!(node.names("conf"), ["10-pods.conflist"]);
    assert_eq!(node.read("conf/10-pods.conflist"), PRIMARY);
}
