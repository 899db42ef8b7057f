use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::{LocalSet, spawn_local},
};

use super::*;

/// What comes of an answer, and what was asked.
async fn asked(answer: &'static [u8], more: usize) -> (Result<Said, NoKeys>, String) {
    let (near, far) = duplex(64 << 10);
    let local = LocalSet::new();
    local
        .run_until(async {
            let server = spawn_local(serve(far, answer, more));
            let url = Url::parse("http://keys.example:8080/a?b").unwrap();
            let said = exchange(TokioIo::new(near), &url).await;
            (said, server.await.unwrap())
        })
        .await
}

async fn serve(mut io: DuplexStream, answer: &'static [u8], more: usize) -> String {
    let mut seen = vec![0; 4096];
    let length = io.read(&mut seen).await.unwrap();
    let mut left = more;
    let mut open = io.write_all(answer).await.is_ok();
    while open && left > 0 {
        let length = left.min(4096);
        open = io.write_all(&vec![b'x'; length]).await.is_ok();
        left -= length;
    }
    String::from_utf8_lossy(&seen[..length]).into_owned()
}

#[tokio::test]
async fn an_answer_is_taken_as_it_is() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncache-control: public, max-age=90\r\n\r\n{}";
    let (said, seen) = asked(answer, 0).await;
    let said = said.unwrap();
    assert_eq!(
        (&*said.text, said.max_age),
        (&b"{}"[..], Some(Duration::from_secs(90)))
    );
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: keys.example:8080\r\n"), "{seen}");
}

#[tokio::test]
async fn nobody_sends_the_waypoint_elsewhere() {
    let answer =
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let (said, _) = asked(answer, 0).await;
    assert!(matches!(said, Err(NoKeys::Status(StatusCode::FOUND))));
}

#[tokio::test]
async fn answers_have_bounds() {
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    let (said, _) = asked(answer, LONGEST).await;
    assert_eq!(said.unwrap().text.len(), LONGEST);
    let (said, _) = asked(answer, LONGEST + 1).await;
    assert!(matches!(said, Err(NoKeys::Body)));
    let (said, _) = asked(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", 3).await;
    assert!(matches!(said, Err(NoKeys::Http(_))));
}

#[test]
fn how_long_an_answer_is_good() {
    for (said, expected) in [
        (&[][..], None),
        (&["no-store"], None),
        (&["public, Max-Age=60"], Some(60)),
        (&["public", "max-age=\"7\""], Some(7)),
        (&["max-age=-1"], None),
        (&["s-maxage=5"], None),
    ] {
        let mut headers = HeaderMap::new();
        for value in said {
            headers.append(header::CACHE_CONTROL, value.parse().unwrap());
        }
        let expected = expected.map(Duration::from_secs);
        assert_eq!(max_age(&headers), expected, "{said:?}");
    }
}
