//! Requests of which two parsers could see different ends or hosts: whatever a waypoint makes of them, an endpoint sees no request that
//! policy has not seen.
//!
//! Spec: `threats.md` §3; `waypoint-l7.md` §3.7; RFC 9112 §2.2, §3, §6, §7, §11.2.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tulle_lab::{Mesh, sandbox::Sandbox};

use crate::{
    app::Server,
    world::{ONE, SOON, TWO, client, eventually, service, start},
};

/// What may become of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// 4xx or 5xx, or nothing but the end.
    Refused,
    /// Answered, with a body of so many bytes.
    Taken(u64),
    /// Either: it has but one meaning, or is refused.
    Unambiguous,
}
use Fate::{Refused, Taken, Unambiguous};

/// The corpus, by HTTP/1.1.
pub(crate) async fn of_http1(sandbox: Sandbox) -> Result<()> {
    let (mesh, servers) = begin(&sandbox).await?;
    let before = hidden(&servers);
    for (number, (name, head, body, fate)) in corpus().into_iter().enumerate() {
        let path = format!("/case{number}");
        let text = [head.replace("/x", &path).as_bytes(), &body].concat();
        let said = say(&mesh, &text).await?;
        let status = said.get(9..12).unwrap_or_default();
        let seen: Vec<_> = servers
            .iter()
            .flat_map(|server| server.asked(&path))
            .collect();
        let context = || format!("{name}: {said:?}, and the server saw {seen:?}");
        match fate {
            Refused => {
                let is_error = status.is_empty() || status.starts_with(['4', '5']);
                ensure!(is_error, "{}", context());
                ensure!(seen.is_empty(), "{}", context());
            }
            Taken(length) => {
                ensure!(status == "200" && seen.len() == 1, "{}", context());
                let body = seen.first().and_then(|seen| seen.get("body")?.as_u64());
                ensure!(body == Some(length), "{}", context());
            }
            Unambiguous => ensure!(seen.len() <= 1, "{}", context()),
        }

        ensure!(
            hidden(&servers) == before,
            "something was let through: {}",
            context()
        );
    }
    Ok(())
}

/// What HTTP/2 can say and HTTP/1 cannot, to an endpoint that is spoken to in HTTP/1.
pub(crate) async fn of_http2(sandbox: Sandbox) -> Result<()> {
    let (mesh, servers) = begin(&sandbox).await?;
    let before = hidden(&servers);
    for (number, (headers, body, is_taken)) in [
        (&[][..], "", true),
        (&[("te", "trailers")], "", true),
        (&[("content-length", "3")], "abc", true),
        (
            &[("transfer-encoding", "chunked")],
            "0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: web.shop\r\n\r\n",
            false,
        ),
        (&[("connection", "close")], "", false),
        (&[("upgrade", "h2c")], "", false),
        (
            &[("content-length", "0")],
            "GET /hidden HTTP/1.1\r\nhost: web.shop\r\n\r\n",
            false,
        ),
        (
            &[("content-length", "3"), ("content-length", "4")],
            "abc",
            false,
        ),
        (&[("content-length", "+3")], "abc", false),
        (&[("host", "other.shop")], "", false),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/case{number}");
        let answered = ask(&mesh, &path, headers, body).await;
        let seen: Vec<_> = servers
            .iter()
            .flat_map(|server| server.asked(&path))
            .collect();
        let context = || format!("{headers:?}: {answered:?}, and the server saw {seen:?}");
        match is_taken {
            true => ensure!(answered == Some(200) && seen.len() == 1, "{}", context()),
            false => {
                // A server may have seen how it begins, and not that it is all.
                ensure!(answered.is_none_or(|status| status >= 400), "{}", context());
            }
        }

        ensure!(
            hidden(&servers) == before,
            "something was let through: {}",
            context()
        );
    }
    Ok(())
}

/// However a path is spelt: what policy sees is what is forwarded, and that has one spelling.
pub(crate) async fn spellings(sandbox: Sandbox) -> Result<()> {
    let (mesh, servers) = begin(&sandbox).await?;
    let before = hidden(&servers);
    let all = paths();
    ensure!(all.len() >= 200, "{} spellings", all.len());
    let mut forwarded = 0;
    for (number, path) in all.iter().enumerate() {
        let text = format!("GET {path}?n={number} HTTP/1.1\r\nhost: web.shop\r\n\r\n");
        let said = say(&mesh, text.as_bytes()).await?;
        let query = format!("n={number}");
        let is_it = |uri: &hyper::Uri| uri.query() == Some(&query);
        let seen = servers
            .iter()
            .flat_map(|server| server.asked_for(is_it))
            .next();
        let Some(seen) = seen else {
            let status = said.get(9..12).unwrap_or_default();
            ensure!(matches!(status, "400" | "403" | "404"), "{path}: {said}");
            continue;
        };
        forwarded += 1;
        let uri = seen
            .get("uri")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        let seen = uri.split('?').next().unwrap_or_default();
        let mut elements = seen.split('/').skip(1);
        ensure!(
            !elements.any(|element| matches!(element, "." | "..")),
            "{path}: {seen}"
        );
        ensure!(
            !seen.contains(['\\', '#']) && seen.starts_with('/'),
            "{path}: {seen}"
        );
        for unreserved in ["%2E", "%2e", "%68", "%48", "%7E", "%2D", "%5F"] {
            ensure!(!seen.contains(unreserved), "{path}: {seen}");
        }
    }
    ensure!(hidden(&servers) == before, "what is hidden was reached");
    // It is not that everything is refused.
    ensure!(forwarded >= 20, "{forwarded} were forwarded");
    Ok(())
}

/// Spellings of `/hidden`, and of what lies beside it.
fn paths() -> Vec<String> {
    let name = "hidden";
    let mut names = vec![
        name.to_owned(),
        name.to_uppercase(),
        format!("{name}%00"),
        format!("{name};a=b"),
        format!("{name}."),
        format!("{name}%20"),
    ];
    for (at, letter) in name.char_indices() {
        let (start, end) = (&name[..at], &name[at + 1..]);
        let code = u32::from(letter);
        for spelt in [
            format!("%{code:02x}"),
            format!("%{code:02X}"),
            format!("%25{code:02x}"),
            format!("%u00{code:02x}"),
            format!("%c1%{:02x}", 0x80 | (code & 0x3f)),
        ] {
            names.push(format!("{start}{spelt}{end}"));
        }
    }
    let wholly: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    names.push(wholly);
    let mut all = Vec::new();
    for name in &names {
        for around in ["/NAME", "//NAME", "/./NAME", "/a/../NAME", "/a/%2e%2e/NAME"] {
            all.push(around.replace("NAME", name));
        }
    }
    for around in [
        "/%2e/hidden",
        "/.%2e/hidden",
        "/%2e./hidden",
        "/a/..;/hidden",
        "/a/.%00./hidden",
        "\\hidden",
        "/\\hidden",
        "/a\\..\\hidden",
        "/a%5c..%5chidden",
        "/a%2f..%2fhidden",
        "/a%2F..%2Fhidden",
        "/%2fhidden",
        "/%5chidden",
        "/hidden/",
        "/hidden/.",
        "/hidden/..",
        "/hidden/../hidden",
        "/hidden/a/..",
        "/../hidden",
        "/../../hidden",
        "/a/b/../../hidden",
        "/a//../hidden",
        "/hidden%2f",
        "/hidden%5c",
        "/hidden%3f",
        "/hidden%23",
        "/hidden#a",
        "/hidden%0a",
        "/hidden%0d%0a",
        "/hidden%09",
        "/hidden//",
        "/.hidden",
        "/hidden..",
        "/...//hidden",
        "/%252e%252e/hidden",
        "/a/%252e%252e/hidden",
        "/%ef%bc%8fhidden",
        "/%c0%afhidden",
        "/%e0%80%afhidden",
        "/a/%c0%ae%c0%ae/hidden",
    ] {
        all.push(around.to_owned());
    }
    all
}

/// With a policy that refuses what is hidden, so that only what it does not see arrives.
async fn begin(sandbox: &Sandbox) -> Result<(Mesh, [Server; 2])> {
    let mut mesh = start(sandbox).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(DENIED).await?;
    let asks = b"GET /hidden HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    eventually("the policy is in force", async || {
        let said = say(&mesh, asks).await;
        said.is_ok_and(|said| said.starts_with("HTTP/1.1 403"))
    })
    .await?;
    Ok((mesh, servers))
}

/// How often endpoints have seen what is hidden. At first, before there was a policy, they may have.
fn hidden(servers: &[Server]) -> usize {
    let seen = servers.iter().map(|server| server.asked("/hidden").len());
    seen.sum()
}

/// All that is said to this, and to whatever follows it.
async fn say(mesh: &Mesh, text: &[u8]) -> Result<String> {
    let mut tcp = client(mesh).connect(service(80)).await?;
    // It may be refused before it has all been sent.
    let _ = tcp.write_all(text).await;
    let mut said = Vec::new();
    // Who waits for more of it is told that there is no more.
    let first = timeout(PATIENCE, async {
        while !is_whole(&said) && tcp.read_buf(&mut said).await.is_ok_and(|read| read > 0) {}
    });
    let _ = first.await;
    let _ = tcp.shutdown().await;
    let rest = timeout(SOON, tcp.read_to_end(&mut said)).await;
    let _ = rest.context("it is neither answered nor ended")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Whether a first answer has come with all of its body.
fn is_whole(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said);
    let Some((head, body)) = said.split_once("\r\n\r\n") else {
        return false;
    };
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, length)| length.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// The status of a request by HTTP/2; `None` if its stream or connection is reset.
async fn ask(mesh: &Mesh, path: &str, headers: &[(&str, &str)], body: &str) -> Option<u16> {
    let tcp = client(mesh).connect(service(80)).await.ok()?;
    let (sender, connection) = h2::client::handshake(tcp).await.ok()?;
    let driving = tokio::spawn(connection);
    let mut request = Request::post(format!("http://web.shop{path}"))
        .body(())
        .ok()?;
    for (name, value) in headers {
        let name: HeaderName = name.parse().ok()?;
        let value: HeaderValue = value.parse().ok()?;
        request.headers_mut().append(name, value);
    }
    let mut sender = sender.ready().await.ok()?;
    let (response, mut stream) = sender.send_request(request, body.is_empty()).ok()?;
    if !body.is_empty() {
        stream
            .send_data(Bytes::copy_from_slice(body.as_bytes()), true)
            .ok()?;
    }
    let answered = timeout(SOON, response).await.ok()?;
    driving.abort();
    Some(answered.ok()?.status().as_u16())
}

/// By name: a head, for path `/x`, what follows it, and what may become of it.
fn corpus() -> Vec<(&'static str, String, Vec<u8>, Fate)> {
    let mut all = Vec::new();
    let host = "host: web.shop\r\n";
    let mut post = |name, fields: &str, body: &str, fate| {
        let head = format!("POST /x HTTP/1.1\r\n{host}{fields}\r\n");
        all.push((name, head, body.as_bytes().to_vec(), fate));
    };
    let smuggled = format!("0\r\n\r\n{HIDDEN}");
    post("a length", "content-length: 3\r\n", "abc", Taken(3));
    post(
        "chunks",
        "transfer-encoding: chunked\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        Taken(3),
    );
    post(
        "chunks, spelt otherwise",
        "Transfer-Encoding: Chunked\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        Taken(3),
    );
    post(
        "chunks with extensions",
        "transfer-encoding: chunked\r\n",
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        Unambiguous,
    );
    post(
        "chunks and a trailer",
        "transfer-encoding: chunked\r\n",
        "3\r\nabc\r\n0\r\ncontent-length: 9\r\n\r\n",
        Unambiguous,
    );
    for fields in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
    ] {
        post("both lengths", fields, &smuggled, Unambiguous);
    }
    for fields in [
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunkedx\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: gzip\r\ncontent-length: 4\r\n",
        "transfer-encoding:\x0bchunked\r\n",
        "transfer-encoding: \x00chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        "transfer-encoding\x0b: chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer_encoding: chunked\r\ncontent-length: 4\r\n",
    ] {
        post("codings", fields, &smuggled, Unambiguous);
    }
    for fields in [
        "content-length: 3\r\ncontent-length: 4\r\n",
        "content-length: 3, 4\r\n",
        "content-length: +3\r\n",
        "content-length: -3\r\n",
        "content-length: 0x3\r\n",
        "content-length: 3 3\r\n",
        "content-length: 3.0\r\n",
        "content-length: a\r\n",
        "content-length: 18446744073709551616\r\n",
        "content-length : 3\r\n",
        "content-length\x00: 3\r\n",
    ] {
        post("lengths", fields, &format!("abc{HIDDEN}"), Refused);
    }
    for chunk in [
        "0x3",
        "+3",
        "-3",
        "3 3",
        "3;\n",
        "3\n",
        "g",
        "",
        "ffffffffffffffff1",
        "3\r\nabcd",
        "3\nabc",
    ] {
        let body = format!("{chunk}\r\nabc\r\n{smuggled}");
        post(
            "sizes of chunks",
            "transfer-encoding: chunked\r\n",
            &body,
            Unambiguous,
        );
    }
    let mut line = |name, head: String, fate| all.push((name, head, Vec::new(), fate));
    line(
        "nothing else",
        format!("GET /x HTTP/1.1\r\n{host}\r\n"),
        Taken(0),
    );
    for head in [
        "GET /x HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.1\r\n{host}{host}\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}host: other.shop\r\n\r\n"),
        format!("GET http://other.shop/x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /x HTTP/1.1\r\nhost: a@web.shop\r\n{HIDDEN}"),
        format!("GET /x HTTP/1.1\r\nhost: web.shop/x\r\n{HIDDEN}"),
        format!("GET /x HTTP/1.0\r\n{host}\r\n"),
        format!("GET /x HTTP/1.0\r\n{host}transfer-encoding: chunked\r\n\r\n{smuggled}"),
        "GET /x\r\n\r\n".to_owned(),
        format!("GET /x HTTP/1.2\r\n{host}\r\n"),
        format!("GET /x HTTP/2.0\r\n{host}\r\n"),
        format!("GET /x  HTTP/1.1\r\n{host}\r\n"),
        format!("GET /x /y HTTP/1.1\r\n{host}\r\n"),
        format!("GET\t/x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /x\x00 HTTP/1.1\r\n{host}\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}a: b\x00c\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}a: b\rc\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}a b: c\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}a\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\n{host}: a\r\n\r\n"),
        format!(" GET /x HTTP/1.1\r\n{host}\r\n"),
        format!("CONNECT web.shop:80 HTTP/1.1\r\n{host}\r\n{HIDDEN}"),
        format!("GET /%zz/x HTTP/1.1\r\n{host}\r\n"),
        format!("GET /%00/x HTTP/1.1\r\n{host}\r\n"),
    ] {
        line("lines", head, Refused);
    }
    // Of one meaning, and not forbidden (RFC 9112 §2.2).
    line(
        "line feeds alone",
        format!("GET /x HTTP/1.1\n{}\n", host.replace("\r\n", "\n")),
        Unambiguous,
    );
    line(
        "an empty line before",
        format!("\r\nGET /x HTTP/1.1\r\n{host}\r\n"),
        Unambiguous,
    );
    line(
        "a value over two lines",
        format!("GET /x HTTP/1.1\r\n{host}a: b\r\n c: d\r\n\r\n"),
        Unambiguous,
    );
    all
}

/// How long an answer to what may not be whole is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: web.shop\r\n\r\n";
const DENIED: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: hidden, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: [/hidden]}}]}]
";
