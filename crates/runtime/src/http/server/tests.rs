use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn router() -> Router {
    Router::new("example")
        .route(
            Method::GET,
            "/hello",
            "greets",
            |request: Request| async move {
                text(StatusCode::OK, format!("hello {}", request.query["name"]))
            },
        )
        .route(
            Method::POST,
            "/echo",
            "echoes",
            |request: Request| async move { text(StatusCode::OK, request.body) },
        )
}

async fn start(config: ServerConfig) -> Vec<SocketAddr> {
    let server = Server::bind(Listen::Loopback(0), router(), config);
    let server = server.await.unwrap();
    let addresses = server.addresses();
    tokio::spawn(server.run());
    addresses
}

/// Sends `request` and returns all that comes until the server closes.
async fn exchange(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")
}

#[tokio::test]
async fn routes_are_served_on_both_loopback_addresses() {
    let addresses = start(ServerConfig::default()).await;
    assert!(addresses[0].is_ipv4());
    for address in addresses {
        let host = format!("host: {address}\r\n");
        let response = exchange(address, &get("/hello?name=you", &host)).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nhello you"), "{response}");
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let address = start(ServerConfig::default()).await[0];
    let request = "HEAD /hello?name=a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let response = exchange(address, request).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\n"), "{response}");
    assert!(response.contains("content-length: 7\r\n"), "{response}");
}

#[tokio::test]
async fn loopback_refuses_names_and_origins_of_others() {
    let address = start(ServerConfig::default()).await[0];
    for (headers, status) in [
        ("host: localhost:15000\r\n", "200"),
        ("host: 127.0.0.1:15000\r\n", "200"),
        ("host: [::1]:15000\r\n", "200"),
        ("host: LOCALHOST\r\norigin: http://LOCALHOST\r\n", "200"),
        ("host: evil.example\r\n", "403"),
        ("host: localhost.evil.example\r\n", "403"),
        ("host: localhost\r\norigin: http://evil.example\r\n", "403"),
        ("host: localhost\r\norigin: null\r\n", "403"),
    ] {
        let response = exchange(address, &get("/hello?name=a", headers)).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&expected), "{headers}: {response}");
    }
}

#[tokio::test]
async fn body_over_the_limit_is_refused() {
    let config = ServerConfig {
        max_body: 4,
        ..ServerConfig::default()
    };
    let address = start(config).await[0];
    for (body, status) in [("1234", "200"), ("12345", "413")] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = exchange(address, &request).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_request_is_closed_in_time() {
    let address = start(ServerConfig::default()).await[0];
    let start = tokio::time::Instant::now();
    let response = exchange(address, "GET /hello?name=a HT").await;
    assert!(!response.starts_with("HTTP/1.1 200"), "{response}");
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn one_connection_too_many_closes_the_oldest() {
    let config = ServerConfig {
        max_connections: 2,
        ..ServerConfig::default()
    };
    let address = start(config).await[0];
    let mut oldest = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let request = get("/hello?name=b", "host: localhost\r\n");
    let response = exchange(address, &request).await;
    assert!(response.ends_with("hello b"), "{response}");
    assert_eq!(oldest.read(&mut [0]).await.unwrap(), 0);
    // The others are still served.
    second.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    second.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("hello b"), "{response}");
}

#[tokio::test]
async fn any_address_is_served_under_any_name() {
    let server = Server::bind(Listen::Any(0), router(), ServerConfig::default());
    let server = server.await.unwrap();
    let port = server.addresses()[0].port();
    tokio::spawn(server.run());
    let request = get("/hello?name=a", "host: any.example\r\n");
    let response = exchange(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &request).await;
    assert!(response.ends_with("hello a"), "{response}");
}
