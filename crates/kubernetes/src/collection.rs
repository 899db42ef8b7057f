//! One kind of object, listed as a whole and then watched.
//!
//! ```text
//!        ┌── expired (410) ──────────────────────────────┐
//!        ▼                                               │
//!  list, page by page ──▶ All ──▶ watch from there ──▶ Put, Gone, …
//!                                      ▲                 │
//!                                      └── ended, cut ◀──┘
//! ```
//!
//! A watch that ends goes on where it was. A list is told of as a whole, so that nothing seems gone while it is read again.

use std::{borrow::Cow, convert::Infallible, marker::PhantomData, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{
    Client,
    backoff::Outage,
    call::{CallError, JSON},
    lines::Lines,
    pages::{Pages, escape},
};

/// What was seen of a collection.
#[derive(Debug)]
pub enum Seen<T> {
    /// These are all.
    All(Vec<T>),
    /// One that was made, or changed.
    Put(T),
    /// One that is gone: its namespace, empty if it is in none, and its name.
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Which objects.
#[derive(Debug)]
pub struct Selection {
    /// What they are, for the log.
    pub what: &'static str,
    /// Where they are.
    pub path: Cow<'static, str>,
    /// Where they are if the definition of their kind does not serve that version: the same objects in another one.
    pub also: Option<&'static str>,
    /// Which of them: parameters, each with `&` behind it; empty for all.
    pub only: String,
    /// The definition of their kind (`PLURAL.GROUP`) if it is none of the API server's own: it may come later, and go.
    pub definition: Option<&'static str>,
    /// Whether their metadata suffices.
    pub metadata_only: bool,
    /// How many are asked for at a time, or fewer where they are large: it is what memory is needed for.
    pub page: usize,
}

/// The objects of a selection.
pub struct Collection<T> {
    client: Client,
    selection: Selection,
    /// Where they were looked for last: at one of the two places of the selection.
    at: Cow<'static, str>,
    outage: Outage,
    /// How many objects are asked for at a time.
    page: usize,
    objects: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Collection<T> {
    /// The objects of `selection`. Nothing is sent yet.
    pub fn new(client: &Client, selection: Selection) -> Self {
        Self {
            client: client.clone(),
            outage: Outage::of(selection.what),
            page: selection.page.max(1),
            at: selection.path.clone(),
            selection,
            objects: PhantomData,
        }
    }

    /// All objects, and the version they are of; none if the kind is not defined. Tried again for as long as it takes.
    pub async fn list(&mut self) -> (Vec<T>, Option<String>) {
        loop {
            let listed = match self.pages().await {
                Ok((all, version)) => {
                    self.page = self.selection.page;
                    Ok((all, Some(version)))
                }
                // Large objects: smaller pages of them fit an answer.
                Err(CallError::TooLong | CallError::Timeout(_)) if self.page > 1 => {
                    self.page /= 2;
                    continue;
                }
                Err(error) => match self.unless_undefined(error).await {
                    Err(CallError::NotServed { .. }) if self.turns_to_other() => continue,
                    listed => listed,
                },
            };
            match listed {
                Ok(listed) => {
                    self.outage.over();
                    return listed;
                }
                Err(error) => self.outage.failed(&error).await,
            }
        }
    }

    /// Looks at the other version from now on, if there is one; says whether that is to be done at once. It is not after both, of
    /// which one may be served in a moment: a definition is there before its objects can be listed.
    fn turns_to_other(&mut self) -> bool {
        let Some(also) = self.selection.also else {
            return false;
        };
        let at_once = self.at != also;
        self.at = match at_once {
            true => Cow::Borrowed(also),
            false => self.selection.path.clone(),
        };
        at_once
    }

    /// No objects, if that is why there was an error. That something is not found is not proof enough: it may not be served yet.
    async fn unless_undefined(
        &self,
        error: CallError,
    ) -> Result<(Vec<T>, Option<String>), CallError> {
        let (Some(name), Some(StatusCode::NOT_FOUND)) = (self.selection.definition, error.code())
        else {
            return Err(error);
        };
        let path = format!("{DEFINITIONS}/{name}");
        let defined = self.client.call(Method::GET, &path, METADATA, Vec::new());
        match defined.await {
            Err(undefined) if undefined.code() == Some(StatusCode::NOT_FOUND) => {
                Ok((Vec::new(), None))
            }
            // To go on without would be to go on without what is written in another version.
            Ok(_) => Err(CallError::NotServed {
                name: name.to_owned(),
                path: self.at.clone().into_owned(),
            }),
            Err(error) => Err(error),
        }
    }

    /// Tells of what changes after `version`, for as long as it is polled; without one, waits until the kind is defined.
    pub async fn follow(
        mut self,
        mut version: Option<String>,
        mut tell: impl FnMut(Seen<T>),
    ) -> Infallible {
        loop {
            let Some(from) = &mut version else {
                sleep(UNDEFINED).await;
                let (all, listed) = self.list().await;
                if listed.is_some() {
                    info!(what = self.selection.what, "now defined");
                    tell(Seen::All(all));
                }
                version = listed;
                continue;
            };
            let started = Instant::now();
            let ended = self.watch(from, &mut tell).await;
            let again = ended.as_ref().is_err_and(|error| {
                error.is_expired() || error.code() == Some(StatusCode::NOT_FOUND)
            });
            match ended {
                Err(error) if !again => self.outage.failed(&error).await,
                // Asked in a tight loop, a confused server would only be more so.
                Ok(()) | Err(_) if started.elapsed() < SHORTEST => {
                    self.outage.pause(SHORTEST).await;
                }
                Ok(()) | Err(_) => {}
            }
            if again {
                info!(
                    what = self.selection.what,
                    "too much was missed: listed again"
                );
                let all;
                (all, version) = self.list().await;
                tell(Seen::All(all));
            }
        }
    }

    async fn pages(&self) -> Result<(Vec<T>, String), CallError> {
        let mut all = Vec::new();
        let pages = Pages {
            path: &self.at,
            only: &self.selection.only,
            accept: self.kind(METADATA_LIST),
            page: self.page,
        };
        let version = pages
            .read(&self.client, |item| {
                all.extend(self.read(item));
                Ok(())
            })
            .await?;
        Ok((all, version))
    }

    /// Tells of what changes after `version`, and takes it there, until the watch is over: in order if it can go on where it
    /// was.
    async fn watch(
        &mut self,
        version: &mut String,
        tell: &mut impl FnMut(Seen<T>),
    ) -> Result<(), CallError> {
        let seconds = fastrand::u64(SECONDS..SECONDS * 2);
        let path = format!(
            "{}?{}watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.at,
            self.selection.only,
            escape(version)
        );
        let kind = self.kind(METADATA);
        let opened = self.client.open(Method::GET, &path, kind, Vec::new());
        let opened = tokio::time::timeout(OPEN, opened).await;
        let mut lines = Lines::of(opened.unwrap_or(Err(CallError::Timeout(OPEN)))?);
        while let Some(line) = lines.next(SILENCE).await? {
            let event: Event<'_> = serde_json::from_slice(&line)?;
            if event.kind == "ERROR" {
                let status = event.object.get().as_bytes();
                return Err(CallError::refused(StatusCode::BAD_GATEWAY, status));
            }
            let tag: Tag = serde_json::from_str(event.object.get())?;
            let seen = match event.kind {
                "ADDED" | "MODIFIED" => self.read(event.object).map(Seen::Put),
                // Also of one that cannot be understood: it may have been, before it was changed.
                "DELETED" => Some(Seen::Gone {
                    namespace: tag.metadata.namespace,
                    name: tag.metadata.name,
                }),
                // Bookmarks, and what is not known yet: they only tell how far we are.
                _ => None,
            };
            if let Some(seen) = seen {
                tell(seen);
            }
            if !tag.metadata.resource_version.is_empty() {
                *version = tag.metadata.resource_version;
            }
            self.outage.over();
        }
        Ok(())
    }

    /// An object that cannot be understood is as good as none: no other suffers from it.
    fn read(&self, object: &RawValue) -> Option<T> {
        let read = serde_json::from_str(object.get());
        read.map_err(|error| {
            let tag = serde_json::from_str(object.get()).ok();
            let TagMetadata {
                namespace, name, ..
            } = tag.map(|tag: Tag| tag.metadata).unwrap_or_default();
            let what = self.selection.what;
            warn!(what, namespace, name, %error, "object cannot be understood");
        })
        .ok()
    }

    fn kind(&self, metadata: &'static str) -> &'static str {
        match self.selection.metadata_only {
            true => metadata,
            false => JSON,
        }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What every object says of itself.
#[derive(Deserialize)]
struct Tag {
    metadata: TagMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TagMetadata {
    namespace: String,
    name: String,
    resource_version: String,
}

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How often it is looked whether a kind is defined by now.
const UNDEFINED: Duration = Duration::from_secs(5);
/// The least that a watch is asked to last; twice that is the most, so that they do not all end at once.
const SECONDS: u64 = 300;
const OPEN: Duration = Duration::from_secs(20);
/// A bookmark comes about once a minute.
const SILENCE: Duration = Duration::from_secs(150);
const SHORTEST: Duration = Duration::from_secs(1);
