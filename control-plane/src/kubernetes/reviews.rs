//! Tokens of service accounts, as the API server judges them.
//!
//! Spec: `control-plane.md` §5.2.

mod turns;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;
use tulle_kubernetes::{Client, JSON};
use tulle_manifest::ObjectKey;

use self::turns::Turns;
use crate::token::{self, AUDIENCE, Caller, Claimed, InvalidToken};

/// Asks the API server about tokens, and remembers what it said for a minute.
pub struct Reviews {
    client: Client,
    asking: Semaphore,
    /// Of those that claim one pod, by its UID.
    of_pods: Turns,
    said: Mutex<Said>,
}

impl Reviews {
    /// Reviews by the API server of `client`.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            asking: Semaphore::new(ASKING),
            of_pods: Turns::default(),
            said: Mutex::default(),
        }
    }

    /// Verifies a token that claims this of itself. Of those that claim one pod, one is asked about at a time: whoever makes up tokens for
    /// a pod whose UID it knows keeps nobody waiting who is of another.
    ///
    /// # Errors
    /// [`InvalidToken`]; [`InvalidToken::Unanswered`] if the API server does not say.
    pub(crate) async fn verify(
        &self,
        token: &str,
        claimed: Claimed,
    ) -> Result<Caller, InvalidToken> {
        let left = claimed
            .expiry
            .duration_since(SystemTime::now())
            .map_err(|_| InvalidToken::Expired)?;
        if let Some(said) = self.said.lock().get(token) {
            return said;
        }
        let Some(place) = self.of_pods.place(claimed.uid) else {
            return Err(InvalidToken::Unanswered);
        };
        let asking = tokio::time::timeout(PATIENCE, async {
            let turn = place.turn.acquire().await;
            // Somebody may have asked the same meanwhile.
            if let Some(said) = self.said.lock().get(token) {
                return Some(Err(said));
            }
            Some(Ok((turn.ok()?, self.asking.acquire().await.ok()?)))
        });
        let _permits = match asking.await {
            Ok(Some(Ok(permits))) => permits,
            Ok(Some(Err(said))) => return said,
            Ok(None) | Err(_) => return Err(InvalidToken::Unanswered),
        };
        let said = self.ask(token).await;
        let keep = match said {
            Ok(_) => KEPT.min(left),
            Err(InvalidToken::Unanswered) => return said,
            // A service account or pod that is made a moment later makes a token good.
            Err(_) => KEPT_REFUSAL,
        };
        self.said.lock().put(token, said.clone(), keep);
        said
    }

    async fn ask(&self, token: &str) -> Result<Caller, InvalidToken> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        });
        let body = review.to_string().into_bytes();
        let answer = self.client.call(Method::POST, PATH, JSON, body).await;
        let review = answer.and_then(|answer| Ok(serde_json::from_slice::<Review>(&answer)?));
        match review {
            Ok(review) => review.status.caller(),
            Err(error) => {
                warn!(%error, "token cannot be reviewed");
                Err(InvalidToken::Unanswered)
            }
        }
    }
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl ReviewStatus {
    fn caller(self) -> Result<Caller, InvalidToken> {
        if !self.authenticated {
            return Err(InvalidToken::Signature);
        }
        // A server that knows nothing of audiences says none.
        if !self.audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(InvalidToken::Audience);
        }
        self.user.caller().ok_or(InvalidToken::Unbound)
    }
}

impl User {
    fn caller(mut self) -> Option<Caller> {
        let (namespace, account) = self
            .username
            .strip_prefix(token::SUBJECT)?
            .split_once(':')?;
        let account = ObjectKey::new(namespace, account);
        let is_account = self.groups.iter().any(|group| group == GROUP);
        let mut only = |key: &str| match self.extra.remove(key)?.as_mut_slice() {
            [value] if !value.is_empty() => Some(std::mem::take(value)),
            _ => None,
        };
        let node = only(NODE_NAME);
        let caller = Caller {
            account,
            pod: only(POD_NAME)?,
            pod_uid: only(POD_UID)?,
            node,
        };
        is_account.then_some(caller)
    }
}

/// What was said of tokens, by their hashes: what is in memory for long is no token.
#[derive(Default)]
struct Said(HashMap<Hash, (Instant, Result<Caller, InvalidToken>)>);

type Hash = [u8; 32];

impl Said {
    fn get(&self, token: &str) -> Option<Result<Caller, InvalidToken>> {
        let (until, said) = self.0.get(&hash(token))?;
        (Instant::now() < *until).then(|| said.clone())
    }

    fn put(&mut self, token: &str, said: Result<Caller, InvalidToken>, keep: Duration) {
        let now = Instant::now();
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (until, _)| now < *until);
        }
        // Whoever has that many tokens has them reviewed each time.
        if self.0.len() < REMEMBERED {
            self.0.insert(hash(token), (now + keep, said));
        }
    }
}

fn hash(token: &str) -> Hash {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut hash = Hash::default();
    hash.copy_from_slice(digest.as_ref());
    hash
}

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const GROUP: &str = "system:serviceaccounts";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// How many are asked about at a time.
const ASKING: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
const KEPT: Duration = Duration::from_secs(60);
const KEPT_REFUSAL: Duration = Duration::from_secs(5);
const REMEMBERED: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    fn status(edit: impl Fn(&mut serde_json::Value)) -> Result<Caller, InvalidToken> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["istio-ca"],
            "user": {
                "username": "system:serviceaccount:istio-system:ztunnel",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {POD_NAME: ["zt1"], POD_UID: ["u1"], NODE_NAME: ["n1"]},
            },
        });
        edit(&mut status);
        serde_json::from_value::<ReviewStatus>(status)
            .unwrap()
            .caller()
    }

    #[test]
    fn caller_is_what_the_review_says() {
        let caller = status(|_| ()).unwrap();
        assert_eq!(caller.account, ObjectKey::new("istio-system", "ztunnel"));
        assert_eq!((&*caller.pod, &*caller.pod_uid), ("zt1", "u1"));
        assert_eq!(caller.node.as_deref(), Some("n1"));
        let old = status(|status| {
            status["user"]["extra"]
                .as_object_mut()
                .unwrap()
                .remove(NODE_NAME);
        });
        assert_eq!(old.unwrap().node, None);
    }

    #[test]
    fn what_is_not_said_in_so_many_words_is_refused() {
        let refused = |edit: &dyn Fn(&mut serde_json::Value)| status(edit).unwrap_err();
        assert_eq!(
            refused(&|s| s["authenticated"] = json!(false)),
            InvalidToken::Signature
        );
        assert_eq!(
            refused(&|s| s["audiences"] = json!([])),
            InvalidToken::Audience
        );
        assert_eq!(
            refused(&|s| s["audiences"] = json!(["api"])),
            InvalidToken::Audience
        );
        for (pointer, value) in [
            ("/user/username", json!("admin")),
            ("/user/username", json!("system:node:n1")),
            ("/user/groups", json!(["system:authenticated"])),
            ("/user/extra", json!({})),
            ("/user/extra", json!({POD_NAME: ["zt1"]})),
            ("/user/extra", json!({POD_NAME: ["zt1"], POD_UID: [""]})),
            (
                "/user/extra",
                json!({POD_NAME: ["zt1", "zt2"], POD_UID: ["u1"]}),
            ),
        ] {
            let edit = |s: &mut serde_json::Value| *s.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(refused(&edit), InvalidToken::Unbound, "{pointer} {value}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_forgotten_in_time() {
        let mut said = Said::default();
        let caller = status(|_| ());
        said.put("a", caller.clone(), Duration::from_secs(60));
        said.put("b", Err(InvalidToken::Signature), Duration::from_secs(5));
        assert_eq!(said.get("a"), Some(caller));
        assert_eq!(said.get("b"), Some(Err(InvalidToken::Signature)));
        assert_eq!(said.get("c"), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(said.get("b"), None);
        assert!(said.get("a").is_some());
        tokio::time::advance(Duration::from_secs(55)).await;
        assert_eq!(said.get("a"), None);
    }
}
