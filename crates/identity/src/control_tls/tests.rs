use super::*;

#[test]
fn addresses() {
    for (address, server_name, expected) in [
        (
            "https://tulled.mesh.svc:15012",
            None,
            ("tulled.mesh.svc", 15012, "tulled.mesh.svc"),
        ),
        ("tulled:15012", None, ("tulled", 15012, "tulled")),
        ("https://tulled", None, ("tulled", 443, "tulled")),
        ("https://10.0.0.1:1/", None, ("10.0.0.1", 1, "10.0.0.1")),
        ("https://[::1]:1", None, ("::1", 1, "::1")),
        (
            "https://10.0.0.1:1",
            Some("tulled"),
            ("10.0.0.1", 1, "tulled"),
        ),
    ] {
        let target = Target::parse(&config(address, server_name)).unwrap();
        let name = target.name.to_str();
        assert_eq!((target.host.as_str(), target.port, name.as_ref()), expected);
    }
    for address in [
        "",
        "http://tulled:15010",
        "https://",
        "https://user@tulled:1",
        "https://tulled:99999",
        "https://tulled:1/path",
        "https://tu lled:1",
    ] {
        let error = Target::parse(&config(address, None)).unwrap_err();
        assert!(
            matches!(
                error,
                ChannelError::Address(_) | ChannelError::ServerName { .. }
            ),
            "{address}: {error:?}"
        );
    }
    let error = Target::parse(&config("https://tulled:1", Some("no name"))).unwrap_err();
    assert!(matches!(error, ChannelError::ServerName { .. }));
}

#[test]
fn credentials_are_metadata_and_stay_out_of_logs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let credentials = Credentials {
        token: TokenSource::File(path.clone()),
        cluster_id: Some("east".to_owned()),
        headers: vec![("X-Team".to_owned(), "shop".to_owned())],
    };
    let apply = || {
        let mut metadata = tonic::metadata::MetadataMap::new();
        credentials.apply(&mut metadata).map(|()| metadata)
    };
    let error = apply().unwrap_err();
    assert!(
        matches!(error, CredentialsError::TokenFile { .. }),
        "{error:?}"
    );
    std::fs::write(&path, " \n").unwrap();
    assert!(matches!(apply(), Err(CredentialsError::EmptyToken)));
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let metadata = apply().unwrap();
        let bearer = metadata.get("authorization").unwrap();
        assert_eq!(bearer.to_str().unwrap(), format!("Bearer {token}"));
        assert!(!format!("{metadata:?}").contains(token));
        assert_eq!(metadata.get("clusterid").unwrap(), "east");
        assert_eq!(metadata.get("x-team").unwrap(), "shop");
    }
    let literal = TokenSource::Literal("secret".to_owned());
    assert!(!format!("{literal:?}").contains("secret"));
}

fn config(address: &str, server_name: Option<&str>) -> ChannelConfig {
    ChannelConfig {
        server_name: server_name.map(str::to_owned),
        ..ChannelConfig::new(address, RootSource::Pem(String::new()))
    }
}
