use super::*;

fn namespace(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{l: {label}}}}}\n---\n"
    )
}

/// Changes as text: `+name=label` and `-name`.
fn texts(changes: &[Change]) -> Vec<String> {
    let text = |change: &Change| match change {
        Change::Upsert(object) => {
            let metadata = object.metadata();
            format!("+{}={}", metadata.name, metadata.labels["l"])
        }
        Change::Remove(id) => format!("-{}", id.key.name),
    };
    changes.iter().map(text).collect()
}

fn write(folder: &mut Folder, path: &str, text: &str) -> Vec<String> {
    texts(&folder.write(Path::new(path), text).unwrap())
}

#[test]
fn only_what_differs_is_a_change() {
    let mut folder = Folder::default();
    let (a, b) = (namespace("a", "1"), namespace("b", "1"));
    assert_eq!(
        write(&mut folder, "f", &format!("{a}{b}")),
        ["+a=1", "+b=1"]
    );
    assert!(write(&mut folder, "f", &format!("# moved\n{b}{a}")).is_empty());
    let changed = namespace("b", "2");
    assert_eq!(write(&mut folder, "f", &changed), ["-a", "+b=2"]);
    assert_eq!(texts(&folder.remove(Path::new("f"))), ["-b"]);
    assert_eq!(folder.paths().count(), 0);
}

#[test]
fn a_broken_file_keeps_what_it_said_last() {
    let mut folder = Folder::default();
    write(&mut folder, "f", &namespace("a", "1"));
    let broken = format!("{}kind: [", namespace("a", "2"));
    let error = folder.write(Path::new("f"), &broken).unwrap_err();
    let [report] = folder.broken().try_into().unwrap();
    assert_eq!(
        (report.path.as_path(), report.error),
        (Path::new("f"), error.to_string())
    );
    // It still owns its object, and says the same as before once it is repaired.
    assert!(write(&mut folder, "z", &namespace("a", "z")).is_empty());
    assert!(write(&mut folder, "f", &namespace("a", "1")).is_empty());
    assert!(folder.broken().is_empty());
}

#[test]
fn the_first_file_by_name_wins() {
    let mut folder = Folder::default();
    assert_eq!(write(&mut folder, "m", &namespace("a", "m")), ["+a=m"]);
    assert!(write(&mut folder, "z", &namespace("a", "z")).is_empty());
    assert_eq!(write(&mut folder, "b", &namespace("a", "b")), ["+a=b"]);
    let pairs = |folder: &Folder| -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let duplicates = folder.duplicates();
        duplicates
            .iter()
            .map(|d| (text(&d.kept), text(&d.ignored)))
            .collect()
    };
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    assert_eq!(pairs(&folder), own(&[("b", "m"), ("b", "z")]));
    assert_eq!(texts(&folder.remove(Path::new("b"))), ["+a=m"]);
    assert_eq!(texts(&folder.remove(Path::new("m"))), ["+a=z"]);
    assert!(folder.duplicates().is_empty());
    let twice = format!("{}{}", namespace("a", "z"), namespace("a", "other"));
    assert!(write(&mut folder, "z", &twice).is_empty());
    assert_eq!(pairs(&folder), own(&[("z", "z")]));
}
