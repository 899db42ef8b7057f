//! CPU profiles on demand.

use std::time::Duration;

use http::StatusCode;
use pprof::protos::Message;
use tulle_runtime::http::{Request, Response, text, typed};

/// Samples the whole process for some seconds and answers in pprof format.
pub async fn cpu(request: &Request) -> Response {
    let seconds = match number(request, "seconds", 10, 1..=300) {
        Ok(seconds) => seconds,
        Err(usage) => return text(StatusCode::BAD_REQUEST, usage),
    };
    let frequency = match number(request, "frequency", 100, 1..=1000) {
        Ok(frequency) => frequency,
        Err(usage) => return text(StatusCode::BAD_REQUEST, usage),
    };
    match sample(Duration::from_secs(seconds), frequency).await {
        Ok(profile) => typed(StatusCode::OK, "application/octet-stream", profile),
        Err(error) => {
            let body = format!("profile failed: {error}\n");
            text(StatusCode::INTERNAL_SERVER_ERROR, body)
        }
    }
}

async fn sample(lasting: Duration, frequency: u64) -> anyhow::Result<Vec<u8>> {
    let frequency = i32::try_from(frequency)?;
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(frequency)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()?;
    tokio::time::sleep(lasting).await;
    let profile = guard.report().build()?.pprof()?;
    Ok(profile.encode_to_vec())
}

fn number(
    request: &Request,
    name: &'static str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let Some(given) = request.query.get(name) else {
        return Ok(default);
    };
    match given.parse() {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ => {
            let (low, high) = (allowed.start(), allowed.end());
            Err(format!("{name} is a number from {low} to {high}\n"))
        }
    }
}
