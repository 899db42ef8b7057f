use std::{fs::File, os::unix::fs::symlink, path::PathBuf};

use tempfile::TempDir;

use super::*;

const UID: &str = "7c1e3f0a-1b2c-4d3e-8f90-a1b2c3d4e5f6";
const OTHER: &str = "7c1e3f0a-1b2c-4d3e-8f90-000000000000";

/// A `/proc` whose namespaces are plain files: to look at one is to look at its device and inode.
struct Fake(TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fs::create_dir(fake.0.path().join("namespaces")).unwrap();
        fake.process(1, "0::/init.scope\n", "node", 1);
        fake
    }

    fn namespace(&self, name: &str) -> PathBuf {
        let path = self.0.path().join("namespaces").join(name);
        if !path.exists() {
            File::create(&path).unwrap();
        }
        path
    }

    fn process(&self, number: u32, cgroup: &str, namespace: &str, started: u64) -> PathBuf {
        let directory = self.0.path().join(number.to_string());
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(self.namespace(namespace), directory.join("ns/net")).unwrap();
        fs::write(directory.join("cgroup"), cgroup).unwrap();
        let before = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0";
        let stat = format!("{number} (a) b) {before} {started} 1 1");
        fs::write(directory.join("stat"), stat).unwrap();
        directory
    }

    fn scan(&self) -> Scan {
        scan(self.0.path(), &HashSet::from([UID.to_owned()])).unwrap()
    }

    fn claim(&self, number: u32, namespace: &str, container: Option<String>) -> Claim {
        Claim {
            whose: Whose::Uid(UID.to_owned()),
            path: self.0.path().join(format!("{number}/ns/net")),
            id: Some(netns_id(&self.namespace(namespace)).unwrap()),
            container,
            source: Source::Proc,
        }
    }
}

fn cgroup(uid: &str, container: char) -> String {
    let container = container.to_string().repeat(64);
    format!("0::/kubepods/pod{uid}/{container}\n")
}

#[test]
fn the_oldest_process_of_each_namespace_speaks_for_it() {
    let fake = Fake::new();
    fake.process(20, &cgroup(UID, 'a'), "pod", 300);
    fake.process(30, &cgroup(UID, 'b'), "pod", 100);
    fake.process(40, &cgroup(UID, 'c'), "pod", 200);
    fake.process(50, &cgroup(UID, 'c'), "nested", 400);
    fake.process(60, &cgroup(OTHER, 'd'), "other", 1);
    fake.process(70, &cgroup(UID, 'a'), "node", 1);
    let scan = fake.scan();
    assert_eq!(
        scan.claims,
        [fake.claim(30, "pod", None), fake.claim(50, "nested", None)]
    );
    assert_eq!(scan.node, netns_id(&fake.namespace("node")).unwrap());
}

#[test]
fn the_sandbox_is_the_one_of_the_process_and_not_its_container() {
    let fake = Fake::new();
    let sandbox = "e".repeat(64);
    let directory = fake.process(20, &cgroup(UID, 'a'), "pod", 300);
    let root = format!("/containers/storage/overlay-containers/{sandbox}/userdata/hostname");
    let mounts = format!("36 35 8:1 {root} /etc/hostname rw - tmpfs tmpfs rw\n");
    fs::write(directory.join("mountinfo"), mounts).unwrap();
    assert_eq!(fake.scan().claims, [fake.claim(20, "pod", Some(sandbox))]);
}

#[test]
fn processes_that_end_or_make_no_sense_are_left_out() {
    let fake = Fake::new();
    fake.process(20, &cgroup(UID, 'a'), "pod", 300);
    let mixed = cgroup(UID, 'a') + &cgroup(UID, 'b');
    fake.process(30, &mixed, "mixed", 1);
    let ended = fake.process(40, &cgroup(UID, 'a'), "ended", 1);
    fs::remove_file(ended.join("stat")).unwrap();
    let odd = fake.process(50, &cgroup(UID, 'a'), "odd", 1);
    fs::write(odd.join("stat"), b"50 (\xff").unwrap();
    let unlinked = fake.process(60, &cgroup(UID, 'a'), "unlinked", 1);
    fs::remove_file(unlinked.join("ns/net")).unwrap();
    fs::create_dir(fake.0.path().join("70")).unwrap();
    File::create(fake.0.path().join("uptime")).unwrap();
    assert_eq!(fake.scan().claims, [fake.claim(20, "pod", None)]);
}

#[test]
fn without_the_nodes_namespace_no_process_is_believed() {
    let fake = Fake::new();
    fake.process(20, &cgroup(UID, 'a'), "pod", 300);
    fs::remove_file(fake.0.path().join("1/ns/net")).unwrap();
    let error = scan(fake.0.path(), &HashSet::from([UID.to_owned()]))
        .err()
        .unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .starts_with("the namespace of process 1: "),
        "{error}"
    );
}
