use std::fs;

use tulle_manifest::source::directory::DirectoryConfig;

use super::*;

/// One that serves nothing.
async fn start(directory: &Path) -> ControlPlane {
    fs::create_dir(directory.join("manifests")).unwrap();
    let config = Config {
        mesh: Mesh::default(),
        source: SourceConfig::Directory {
            manifests: DirectoryConfig::new(directory.join("manifests")),
            state: directory.join("state"),
        },
        ca: None,
        usual_ca: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        http: "127.0.0.1:0".parse().unwrap(),
        debug_port: 0,
        serving: ServingConfig::new("istio-system", []),
        identity: "test".to_owned(),
        authority: AuthorityConfig::default(),
        root_overlap: AuthorityConfig::default().max_ttl,
        waypoints: None,
    };
    ControlPlane::start(config, None).await.unwrap()
}

#[tokio::test]
async fn goes_on_while_all_its_parts_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut control_plane = start(directory.path()).await;
    // Those that are ready have all been polled once `failed` is pending.
    tokio::select! {
        biased;
        failed = control_plane.failed() => panic!("{failed:?}"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn fails_with_a_part_that_panics() {
    let directory = tempfile::tempdir().unwrap();
    let mut control_plane = start(directory.path()).await;
    control_plane.background.spawn(async { panic!("a defect") });
    let error = control_plane.failed().await.unwrap_err();
    assert_eq!(error.to_string(), "a task failed");
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("a defect"), "{cause}");
}

#[tokio::test]
async fn fails_with_a_part_that_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut control_plane = start(directory.path()).await;
    control_plane.background.spawn(async { "a part" });
    let error = control_plane.failed().await.unwrap_err();
    assert_eq!(error.to_string(), "a part failed");
}

#[tokio::test]
async fn fails_when_writing_panics() {
    let directory = tempfile::tempdir().unwrap();
    let mut control_plane = start(directory.path()).await;
    control_plane.writing = Some(Writing::of(async { panic!("a defect") }));
    let error = control_plane.failed().await.unwrap_err();
    assert_eq!(error.to_string(), "writing to the cluster failed");
}
