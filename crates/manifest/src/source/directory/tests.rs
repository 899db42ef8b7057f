use super::*;

struct Fixture {
    root: tempfile::TempDir,
    directory: Directory,
}

impl Fixture {
    async fn open(files: &[(&str, &str)]) -> (Self, usize) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(root.path(), name, text);
        }
        let (directory, changes) = Directory::open(DirectoryConfig::new(root.path()))
            .await
            .unwrap();
        (Self { root, directory }, changes.len())
    }

    /// The next changes as text; the test framework's own limit ends a wait that never does.
    async fn next(&mut self) -> Vec<String> {
        let changes = timeout(Duration::from_secs(20), self.directory.next());
        let text = |change| match change {
            Change::Upsert(object) => format!("+{}", object.id().key.name),
            Change::Remove(id) => format!("-{}", id.key.name),
        };
        changes.await.unwrap().into_iter().map(text).collect()
    }
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

#[tokio::test]
async fn files_are_followed_through_their_life() {
    let (a, b) = (namespace("a"), namespace("b"));
    let (mut fixture, initial) = Fixture::open(&[
        ("a.yaml", &a),
        ("deep/er/b.yml", &b),
        ("notes.txt", "not a manifest"),
        (".hidden/c.yaml", "not: looked at"),
    ])
    .await;
    assert_eq!(initial, 2);
    let root = fixture.root.path().to_owned();

    write(
        &root,
        "new/c.json",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}"#,
    );
    assert_eq!(fixture.next().await, ["+c"]);
    write(&root, ".x", &namespace("d"));
    fs::rename(root.join(".x"), root.join("a.yaml")).unwrap();
    assert_eq!(fixture.next().await, ["-a", "+d"]);
    fs::remove_dir_all(root.join("deep")).unwrap();
    assert_eq!(fixture.next().await, ["-b"]);
}

#[tokio::test]
async fn a_broken_file_is_reported_and_changes_nothing_else() {
    let (mut fixture, _) = Fixture::open(&[("a.yaml", &namespace("a"))]).await;
    let root = fixture.root.path().to_owned();
    let problems = fixture.directory.problems();
    write(
        &root,
        "a.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {}\n",
    );
    write(&root, "b.yaml", &namespace("b"));
    assert_eq!(fixture.next().await, ["+b"]);
    let [broken] = problems.lock().broken.clone().try_into().unwrap();
    assert_eq!(broken.path, root.join("a.yaml"));
    assert!(
        broken
            .error
            .starts_with("line 3, column 11, field metadata: "),
        "{}",
        broken.error
    );

    write(&root, "a.yaml", &namespace("repaired"));
    assert_eq!(fixture.next().await, ["-a", "+repaired"]);
    assert_eq!(*problems.lock(), Problems::default());
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_is_done() {
    use std::io::Write;
    let (mut fixture, _) = Fixture::open(&[("a.yaml", &namespace("a"))]).await;
    fixture.directory.scanner.as_mut().unwrap().config.settle = Duration::from_secs(600);
    let path = fixture.root.path().join("a.yaml");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(namespace("half").as_bytes()).unwrap();
    file.flush().unwrap();
    // Something else changes, and a scan sees the file half written.
    write(fixture.root.path(), "b.yaml", &namespace("b"));
    assert_eq!(fixture.next().await, ["+b"]);
    write!(file, "---\n{}", namespace("rest")).unwrap();
    drop(file);
    assert_eq!(fixture.next().await, ["-a", "+half", "+rest"]);
}

#[tokio::test]
async fn a_source_does_not_start_without_all_of_its_files() {
    for (name, text, message) in [
        ("a.yaml", "kind: x\n", "a.yaml: line 1, column 1, field .: "),
        ("b.yaml", "\u{0}", "b.yaml: line 1, column 1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), name, text);
        let Err(error) = Directory::open(DirectoryConfig::new(root.path())).await else {
            panic!("{name} was accepted")
        };
        assert!(error.to_string().contains(message), "{error}");
    }
    let missing = DirectoryConfig::new("/nonexistent/manifests");
    assert!(matches!(
        Directory::open(missing).await,
        Err(OpenError::Watch { .. })
    ));
}

#[tokio::test]
async fn a_directory_that_vanishes_removes_nothing() {
    let (mut fixture, _) = Fixture::open(&[("a.yaml", &namespace("a"))]).await;
    let aside = tempfile::tempdir().unwrap();
    let root = fixture.root.path().to_owned();
    fs::rename(&root, aside.path().join("x")).unwrap();
    let scanner = fixture.directory.scanner.as_mut().unwrap();
    let outcome = scanner.scan(&Readiness::Everything);
    assert!(outcome.changes.is_empty());
    assert_eq!(scanner.problems().broken[0].path, root);
    fs::rename(aside.path().join("x"), &root).unwrap();
    assert!(scanner.scan(&Readiness::Everything).changes.is_empty());
    assert_eq!(scanner.problems(), Problems::default());
}
