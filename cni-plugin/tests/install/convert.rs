//! A single plugin that becomes a list, and becomes one again.

use std::{fs, os::unix::fs::PermissionsExt};

use tulle_cni_plugin::node::install::{Plugin, uninstall};

use crate::node::{ENTRY, Node, PRIMARY, SINGLE, in_place, mode};

/// The list that a single plugin of this file becomes.
pub(crate) fn converted(single: &str, file: &str) -> String {
    let entry = ENTRY.strip_suffix('}').unwrap();
    format!(
        "{{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {},\n    \
         {entry},\"tulle.io/converted-from\":\"{file}\"}}\n  ]\n}}\n",
        single.trim()
    )
}

fn newer() -> String {
    SINGLE.replace("1.0", "2.0")
}

#[test]
fn single_plugin_is_made_a_list_and_restored() {
    for file in ["10-pods.conf", "10-pods.json"] {
        let node = Node::new();
        let path = node.path("conf").join(file);
        fs::write(&path, SINGLE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut installer = node.installer();
        let list = node.path("conf/10-pods.conflist");
        assert_eq!(in_place(installer.pass().unwrap()), list);
        assert_eq!(node.configurations(), ["10-pods.conflist"]);
        assert_eq!(node.read("conf/10-pods.conflist"), converted(SINGLE, file));
        assert_eq!(mode(&list), 0o644);
        assert!(!installer.pass().unwrap().configured);

        let done = uninstall(&node.uninstall_config()).unwrap();
        assert_eq!(done.configurations, [list]);
        assert_eq!(done.plugin, Plugin::Removed);
        drop(installer);
        assert_eq!(node.names("conf"), [file]);
        assert_eq!(fs::read_to_string(&path).unwrap(), SINGLE);
        assert_eq!(mode(&path), 0o644);
    }
}

#[test]
fn single_plugin_that_is_written_again_is_made_a_list_again() {
    for file in ["10-pods.conf", "10-pods.json"] {
        let node = Node::new();
        let path = node.path("conf").join(file);
        fs::write(&path, SINGLE).unwrap();
        let mut installer = node.installer();
        in_place(installer.pass().unwrap());
        fs::write(&path, newer()).unwrap();
        assert!(installer.pass().unwrap().configured);
        assert_eq!(node.configurations(), ["10-pods.conflist"]);
        assert_eq!(
            node.read("conf/10-pods.conflist"),
            converted(&newer(), file)
        );

        // Written once more while nobody looks: that is what stays.
        fs::write(&path, SINGLE).unwrap();
        uninstall(&node.uninstall_config()).unwrap();
        drop(installer);
        assert_eq!(node.names("conf"), [file]);
        assert_eq!(fs::read_to_string(&path).unwrap(), SINGLE);
    }
}

#[test]
fn what_is_written_through_an_open_file_is_made_the_list() {
    let node = Node::new();
    node.write("conf/10-pods.conf", SINGLE);
    let late = fs::File::options();
    let late = late
        .clone()
        .write(true)
        .open(node.path("conf/10-pods.conf"));
    let mut installer = node.installer();
    in_place(installer.pass().unwrap());
    std::io::Write::write_all(&mut late.unwrap(), newer().as_bytes()).unwrap();
    assert!(installer.pass().unwrap().configured);
    assert_eq!(node.configurations(), ["10-pods.conflist"]);
    let expected = converted(&newer(), "10-pods.conf");
    assert_eq!(node.read("conf/10-pods.conflist"), expected);
}

#[test]
fn conversion_that_was_cut_short_is_finished() {
    let node = Node::new();
    node.write("conf/10-pods.conf", SINGLE);
    // The list was there, of an earlier text even, and the single plugin still was.
    node.write(
        "conf/10-pods.conflist",
        &converted(&newer(), "10-pods.conf"),
    );
    in_place(node.installer().pass().unwrap());
    assert_eq!(node.configurations(), ["10-pods.conflist"]);
    let expected = converted(SINGLE, "10-pods.conf");
    assert_eq!(node.read("conf/10-pods.conflist"), expected);
    assert_eq!(node.read("conf/10-pods.conf.tulle-original"), SINGLE);
}

#[test]
fn list_of_somebody_else_is_not_overwritten() {
    let node = Node::new();
    node.write("conf/10-pods.conf", SINGLE);
    node.write("conf/10-pods.conflist", PRIMARY);
    let error = node.installer().pass().unwrap_err().to_string();
    let [single, list] =
        ["10-pods.conf", "10-pods.conflist"].map(|name| node.path("conf").join(name));
    assert_eq!(
        error,
        format!(
            "{} is in the way of the list that {} has to become: remove one of them",
            list.display(),
            single.display()
        )
    );
    assert_eq!(fs::read_to_string(single).unwrap(), SINGLE);
    assert_eq!(fs::read_to_string(list).unwrap(), PRIMARY);
}

#[test]
fn list_must_be_what_a_runtime_finds_first() {
    let node = Node::new();
    node.write("conf/10-pods.conf", SINGLE);
    node.write("conf/10-pods.confetti.conflist", PRIMARY);
    let error = node.installer().pass().unwrap_err().to_string();
    assert!(
        error.contains("10-pods.conflist would not come before"),
        "{error}"
    );
    assert!(error.ends_with("give the latter another name"), "{error}");
    assert_eq!(
        node.names("conf"),
        ["10-pods.conf", "10-pods.confetti.conflist"]
    );
}

#[test]
fn list_that_somebody_changed_since_stays_a_list() {
    let node = Node::new();
    node.write("conf/10-pods.conf", SINGLE);
    in_place(node.installer().pass().unwrap());
    let list = node.read("conf/10-pods.conflist");
    node.write(
        "conf/10-pods.conflist",
        &list.replace("\"name\"", "\"x\": 1, \"name\""),
    );
    let done = uninstall(&node.uninstall_config()).unwrap();
    assert_eq!(done.configurations, [node.path("conf/10-pods.conflist")]);
    assert_eq!(node.names("conf"), ["10-pods.conflist"]);
    let left = node.read("conf/10-pods.conflist");
    assert!(
        left.contains("\"x\": 1") && !left.contains("tulle"),
        "{left}"
    );
}
