use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Response, Status, transport::Server};
use tulle_proto::ca::{
    IstioCertificateResponse,
    istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
};
use tulle_testkit::spiffe;

use super::*;
use crate::{
    Svid, WallClock,
    ca::SigningCa,
    control_tls::{IncomingConfig, RootSource, ServingKey, Standing, TokenSource, incoming},
    csr::KeyAndCsr,
};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn gets_a_certificate_from_a_server_it_verified() {
    let server = TestServer::start(Behaviour::Sign).await;
    let client = server.client(|_| ());
    let id = spiffe("shop", "cart");
    let request = KeyAndCsr::generate(&id).unwrap();
    let chain = client.sign(&id, request.csr_pem, HOUR).await.unwrap();
    let svid = Svid::from_response(&id, request.key, &chain, WallClock::default()).unwrap();
    assert_eq!(svid.id, id);
}

#[tokio::test]
async fn reads_the_token_for_each_request() {
    let server = TestServer::start(Behaviour::Sign).await;
    let token = server.directory.path().join("token");
    let client = server.client(|config| {
        config.credentials.token = TokenSource::File(token.clone());
    });
    for (text, allowed) in [("good", true), ("bad", false), ("good", true)] {
        std::fs::write(&token, text).unwrap();
        let result = sign(&client).await;
        assert_eq!(result.is_ok(), allowed, "{text}: {result:?}");
    }
    let refused = server.client(|config| config.credentials.token = TokenSource::None);
    let error = sign(&refused).await.unwrap_err();
    assert!(
        matches!(
            error,
            CaError::Refused {
                code: tonic::Code::Unauthenticated,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn refuses_a_server_of_another_root_or_name() {
    let (server, other) = (
        TestServer::start(Behaviour::Sign).await,
        TestServer::start(Behaviour::Sign).await,
    );
    let stranger = server.client(|config| {
        config.channel.root = RootSource::Pem(other.ca.roots_pem().to_owned());
    });
    let error = sign(&stranger).await.unwrap_err().to_string();
    assert!(error.contains("BadSignature"), "{error}");
    let misnamed = server.client(|config| {
        config.channel.server_name = Some("else.example".to_owned());
    });
    let error = sign(&misnamed).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let renamed = server.client(|config| {
        config.channel.server_name = Some("tulled.example".to_owned());
    });
    sign(&renamed).await.unwrap();
}

#[tokio::test]
async fn follows_a_change_of_the_root_file() {
    let (server, other) = (
        TestServer::start(Behaviour::Sign).await,
        TestServer::start(Behaviour::Sign).await,
    );
    let file = server.directory.path().join("root.pem");
    let client = server.client(|config| {
        config.channel.root = RootSource::File(file.clone());
    });
    sign(&client).await.unwrap_err();
    write(&file, other.ca.roots_pem());
    sign(&client).await.unwrap_err();
    write(&file, server.ca.roots_pem());
    sign(&client).await.unwrap();
    // Without its file, the open connection goes on.
    std::fs::remove_file(&file).unwrap();
    sign(&client).await.unwrap();
    // A root that no longer vouches for the server ends that.
    write(&file, other.ca.roots_pem());
    sign(&client).await.unwrap_err();
}

#[tokio::test]
async fn reconnects_when_the_server_comes_back() {
    let mut server = TestServer::start(Behaviour::Sign).await;
    let client = server.client(|_| ());
    sign(&client).await.unwrap();
    server.restart().await;
    // The first request may still meet the broken connection.
    let mut results = Vec::new();
    for _ in 0..3 {
        results.push(sign(&client).await);
    }
    assert!(results.iter().any(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = TestServer::start(Behaviour::Hang).await;
    let client = server.client(|config| config.deadline = Duration::from_millis(200));
    let error = sign(&client).await.unwrap_err();
    let code = match error {
        CaError::Deadline(limit) => {
            assert_eq!(limit, Duration::from_millis(200));
            return;
        }
        CaError::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        code,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
    ));
}

#[tokio::test]
async fn a_stalled_handshake_delays_nobody_else() {
    let server = TestServer::start(Behaviour::Sign).await;
    let _silent = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    sign(&server.client(|_| ())).await.unwrap();
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_room() {
    let limits = IncomingConfig {
        max_connections: 1,
        ..IncomingConfig::default()
    };
    let server = TestServer::start_with(Behaviour::Sign, limits).await;
    let first = server.client(|_| ());
    sign(&first).await.unwrap();
    let second = server.client(|config| config.deadline = Duration::from_millis(200));
    sign(&second).await.unwrap_err();
    drop((first, second));
    let patient = server.client(|_| ());
    sign(&patient).await.unwrap();
}

#[tokio::test]
async fn no_address_has_more_than_its_share() {
    let limits = IncomingConfig {
        max_per_address: 1,
        ..IncomingConfig::default()
    };
    let server = TestServer::start_with(Behaviour::Sign, limits).await;
    let first = server.client(|_| ());
    sign(&first).await.unwrap();
    // It is told at once, and does not wait as it would for room.
    sign(&server.client(|_| ())).await.unwrap_err();
    drop(first);
    let patient = server.client(|_| ());
    let signed = async { while sign(&patient).await.is_err() {} };
    tokio::time::timeout(HOUR, signed).await.unwrap();
}

#[tokio::test]
async fn callers_that_have_not_proved_who_they_are_have_a_smaller_share() {
    let limits = IncomingConfig {
        max_unproven_per_address: 1,
        ..IncomingConfig::default()
    };
    let server = TestServer::start_with(Behaviour::Sign, limits).await;
    let silent = tokio::net::TcpStream::connect(server.address).await;
    let silent = silent.unwrap();
    let other = server.client(|_| ());
    sign(&other).await.unwrap_err();
    drop(silent);
    let signed = async { while sign(&other).await.is_err() {} };
    tokio::time::timeout(HOUR, signed).await.unwrap();
    // It has proved who it is, and leaves the place to another although it stays connected.
    let another = server.client(|_| ());
    sign(&another).await.unwrap();
}

#[tokio::test]
async fn whoever_does_not_prove_who_it_is_cannot_stay() {
    let limits = IncomingConfig {
        max_unproven_per_address: 1,
        proof_timeout: Duration::from_millis(50),
        ..IncomingConfig::default()
    };
    let server = TestServer::start_with(Behaviour::Sign, limits).await;
    let nobody = server.client(|config| {
        config.credentials.token = TokenSource::Literal("bad".to_owned());
    });
    let refused = sign(&nobody).await.unwrap_err();
    assert!(refused.to_string().contains("who are you"), "{refused}");
    // Nobody would stay, and keeps the only place until it is sent away.
    let other = server.client(|_| ());
    let signed = async { while sign(&other).await.is_err() {} };
    tokio::time::timeout(HOUR, signed).await.unwrap();
    drop(nobody);
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let server = TestServer::start(Behaviour::Flood).await;
    let error = sign(&server.client(|_| ())).await.unwrap_err();
    assert!(
        matches!(
            error,
            CaError::Refused {
                code: tonic::Code::OutOfRange,
                ..
            }
        ),
        "{error:?}"
    );
}

async fn sign(client: &CaClient) -> Result<Vec<String>, CaError> {
    let id = spiffe("shop", "cart");
    let request = KeyAndCsr::generate(&id).unwrap();
    client.sign(&id, request.csr_pem, HOUR).await
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[derive(Clone, Copy)]
enum Behaviour {
    Sign,
    Hang,
    Flood,
}

/// The real authority behind real TLS, on loopback.
struct TestServer {
    ca: Arc<SigningCa>,
    address: SocketAddr,
    behaviour: Behaviour,
    task: JoinHandle<()>,
    directory: tempfile::TempDir,
}

impl TestServer {
    async fn start(behaviour: Behaviour) -> Self {
        Self::start_with(behaviour, IncomingConfig::default()).await
    }

    async fn start_with(behaviour: Behaviour, limits: IncomingConfig) -> Self {
        let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
        let (ca, any) = (Arc::new(ca), (Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            task: serve(listener, ca.clone(), behaviour, limits),
            directory: tempfile::tempdir().unwrap(),
            behaviour,
            ca,
        }
    }

    async fn restart(&mut self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.task = serve(
            listener,
            self.ca.clone(),
            self.behaviour,
            IncomingConfig::default(),
        );
    }

    fn client(&self, change: impl FnOnce(&mut CaClientConfig)) -> CaClient {
        let root = RootSource::Pem(self.ca.roots_pem().to_owned());
        let channel = ChannelConfig::new(format!("https://{}", self.address), root);
        let credentials = Credentials {
            token: TokenSource::Literal("good".to_owned()),
            cluster_id: Some("east".to_owned()),
            ..Credentials::default()
        };
        let mut config = CaClientConfig::new(channel, credentials);
        change(&mut config);
        CaClient::new(config).unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve(
    listener: TcpListener,
    ca: Arc<SigningCa>,
    behaviour: Behaviour,
    limits: IncomingConfig,
) -> JoinHandle<()> {
    let names = ["tulled.example".to_owned()];
    let addresses = [Ipv4Addr::LOCALHOST.into()];
    let serving = ca.issue_serving(&names, &addresses, HOUR, SystemTime::now());
    let tls = ServingKey::new(serving.unwrap()).unwrap().server_config();
    let incoming = incoming(listener, Arc::new(tls.unwrap()), limits);
    let service = IstioCertificateServiceServer::new(Authority { ca, behaviour });
    tokio::spawn(async move {
        let server = Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    })
}

struct Authority {
    ca: Arc<SigningCa>,
    behaviour: Behaviour,
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let metadata = request.metadata();
        assert_eq!(metadata.get("clusterid").unwrap(), "east");
        if metadata
            .get("authorization")
            .is_none_or(|value| value != "Bearer good")
        {
            return Err(Status::unauthenticated("who are you"));
        }
        request.extensions().get::<Standing>().unwrap().prove();
        let cert_chain = match self.behaviour {
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Flood => vec!["x".repeat(2 << 20)],
            Behaviour::Sign => self.issue(request.into_inner())?,
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl Authority {
    fn issue(&self, request: IstioCertificateRequest) -> Result<Vec<String>, Status> {
        assert_eq!(request.validity_duration, 3600);
        let metadata = request.metadata.unwrap();
        let Some(prost_types::value::Kind::StringValue(id)) =
            &metadata.fields["ImpersonatedIdentity"].kind
        else {
            return Err(Status::invalid_argument("no identity"));
        };
        let id = id.parse().unwrap();
        self.ca
            .issue(&request.csr, &id, HOUR, SystemTime::now())
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
