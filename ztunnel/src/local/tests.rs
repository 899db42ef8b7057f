use std::{fs, future::Future};

use tulle_model::Uid;

use super::*;
use tulle_state::{StateConfig, StateWriter};

fn file_with(uid: &str) -> String {
    format!("workloads: [{{uid: {uid}, workloadIps: [10.0.0.1], namespace: ns, services: {{}}}}]")
}

async fn soon<T>(what: impl Future<Output = Option<T>>) -> T {
    let waited = timeout(Duration::from_secs(20), what).await;
    waited.expect("in time").expect("the writer is there")
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_bad_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("local.yaml");
    fs::write(&path, file_with("first")).unwrap();
    let (writer, reader) = StateWriter::new(StateConfig::default());
    let watching = tokio::spawn({
        let path = path.clone();
        async move { match watch(&path, writer).await {} }
    });
    let arrived = |uid: &str| {
        let (uid, reader) = (Uid::new(uid), reader.clone());
        async move { reader.wait_for(|s| s.workload(&uid).map(|_| ())).await }
    };
    soon(arrived("first")).await;
    // As editors do it: a new file in the old one's place.
    let next = directory.path().join("next.yaml");
    fs::write(&next, file_with("second")).unwrap();
    fs::rename(&next, &path).unwrap();
    soon(arrived("second")).await;
    assert_eq!(reader.load().counts().workloads, 1);
    let good = reader.load().generation();
    fs::write(&path, "workloads: nonsense").unwrap();
    fs::write(&next, file_with("third")).unwrap();
    fs::rename(&next, &path).unwrap();
    soon(arrived("third")).await;
    assert_eq!(
        reader.load().generation(),
        good + 1,
        "nothing came of the bad file"
    );
    watching.abort();
}

#[test]
fn last_good_file_stays_when_it_breaks_or_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("local.yaml");
    let (writer, reader) = StateWriter::new(StateConfig::default());
    let mut source = Source::new(&path);
    let mut load = |text: Option<&str>| {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap_or_default(),
        }
        source.reload(&writer);
        let snapshot = reader.load();
        (snapshot.generation(), snapshot.counts().workloads)
    };
    let good = file_with("a");
    for (text, expected) in [
        (None, (0, 0)),
        (Some("workloads: ["), (0, 0)),
        (Some(good.as_str()), (1, 1)),
        (Some(good.as_str()), (1, 1)),
        (Some("workloads: ["), (1, 1)),
        (None, (1, 1)),
        (Some("workloads: []"), (2, 0)),
    ] {
        assert_eq!(load(text), expected, "{text:?}");
    }
}
