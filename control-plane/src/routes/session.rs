//! What keeps requests of one client with one endpoint: `sessionPersistence` of routes, and labels of services.
//!
//! Spec: GEP-1619; `waypoint-l7.md` §2.11.

use tulle_manifest::{Labels, route::SessionPersistence};
use tulle_model::http::{Alternative, MatchKind, Persistence, PersistsBy, Rule};
use twox_hash::XxHash64;

use crate::validate;

/// Of a rule, and of what it takes.
pub(super) fn of_rule(
    written: Option<&SessionPersistence>,
    rule: &Rule,
    taken: &[Alternative],
) -> Option<Persistence> {
    let written = written?;
    let name = written.session_name.clone().unwrap_or_else(|| {
        let hash = XxHash64::oneshot(0, rule.name.as_bytes());
        format!("tulle-session-{hash:016x}")
    });
    let duration = |text: &Option<String>| {
        let duration = validate::gateway_duration(text.as_deref()?)?;
        (!duration.is_zero()).then_some(duration)
    };
    let lifetime = written.cookie_config.as_ref();
    let lifetime = lifetime.and_then(|cookie| cookie.lifetime_type.as_deref());
    Some(Persistence {
        by: match written.r#type.as_deref() {
            Some("Header") => PersistsBy::Header(name.to_ascii_lowercase()),
            _ => PersistsBy::Cookie {
                name,
                path: path(taken),
                permanent: lifetime == Some("Permanent"),
            },
        },
        lasts: duration(&written.absolute_timeout),
        idle: duration(&written.idle_timeout),
    })
}

/// Of a service, for requests of which routes say nothing.
pub fn of_service(labels: &Labels) -> Option<Persistence> {
    let by = match (labels.get(COOKIE), labels.get(HEADER)) {
        (Some(cookie), _) => {
            let (name, path) = cookie.split_once(':').unwrap_or((cookie, ""));
            PersistsBy::Cookie {
                name: name.to_owned(),
                path: Some(path.to_owned()).filter(|path| is_of_cookies(path)),
                permanent: false,
            }
        }
        (None, Some(header)) => PersistsBy::Header(header.to_ascii_lowercase()),
        (None, None) => return None,
    };
    Some(Persistence {
        by,
        lasts: None,
        idle: None,
    })
}

/// Where a cookie counts: as far as the rule does, if it is for one path.
fn path(taken: &[Alternative]) -> Option<String> {
    let path = |one: &Alternative| match &one.path.as_ref()?.kind {
        MatchKind::Exact(path) => Some(path.clone()),
        // A cookie for a path with a slash at its end is not sent with the path without it.
        MatchKind::Elements(path) => match path.trim_end_matches('/') {
            "" => Some("/".to_owned()),
            path => Some(path.to_owned()),
        },
        MatchKind::Prefix(_) | MatchKind::Regex(_) | MatchKind::Present => None,
    };
    let first = path(taken.first()?)?;
    let is_the_only = taken.iter().all(|one| path(one).as_ref() == Some(&first));
    (is_the_only && is_of_cookies(&first)).then_some(first)
}

/// RFC 6265 §4.1.1.
fn is_of_cookies(path: &str) -> bool {
    let is_plain = |byte: u8| byte != b';' && (byte == b' ' || byte.is_ascii_graphic());
    path.starts_with('/') && path.bytes().all(is_plain)
}

const COOKIE: &str = "istio.io/persistent-session";
const HEADER: &str = "istio.io/persistent-session-header";
