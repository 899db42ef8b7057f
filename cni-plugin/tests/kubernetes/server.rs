//! A small API server: pods and namespaces in memory, lists in pages, watches, merge patches of pods' status, events. It can
//! be away, cut its watches, and forget what happened.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A running server; it ends when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Its own certificate, if it speaks TLS.
    pub(crate) certificate: Option<String>,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    world: Mutex<World>,
    /// Counts what watches may have to tell.
    news: watch::Sender<u64>,
}

/// What there is.
#[derive(Default)]
pub(crate) struct World {
    version: u64,
    /// By collection and `namespace/name`.
    objects: BTreeMap<(&'static str, String), Value>,
    /// What happened: when, to which collection, how, and the object after it.
    history: Vec<(u64, &'static str, &'static str, Value)>,
    /// What happened before is forgotten.
    oldest: u64,
    /// Watches of another generation are cut, in the middle of a line.
    generation: u64,
    /// Watches of before the last of these end in order.
    ends: u64,
    /// Requests that begin so are not answered.
    pub(crate) away: Option<&'static str>,
    /// Patches and events are refused with this.
    pub(crate) refuse: Option<StatusCode>,
    /// All requests: method, path and query.
    pub(crate) requests: Vec<String>,
    /// Who asked last, as told by its token.
    pub(crate) caller: Option<String>,
    /// The events that were made.
    pub(crate) events: Vec<Value>,
    /// The bodies of patches that were taken.
    pub(crate) patches: Vec<Value>,
    /// How many requests were answered at a time, at most.
    pub(crate) busiest: usize,
    busy: usize,
}

pub(crate) const PODS: &str = "pods";
pub(crate) const NAMESPACES: &str = "namespaces";

impl Server {
    pub(crate) async fn start() -> Self {
        Self::bind(None, None).await
    }

    /// A server that speaks TLS, by a certificate for its address.
    pub(crate) async fn secure() -> Self {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        Self::bind(Some(acceptor), Some(own.cert.pem())).await
    }

    async fn bind(acceptor: Option<TlsAcceptor>, certificate: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            world: Mutex::default(),
            news: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, acceptor, Arc::clone(&state)));
        Self {
            address,
            certificate,
            state,
            _tasks: tasks,
        }
    }

    /// What there is, to be looked at and changed.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.state.world.lock().unwrap()
    }

    /// Waits until something holds of what there is.
    pub(crate) async fn until(&self, holds: impl Fn(&World) -> bool) {
        let mut news = self.state.news.subscribe();
        news.wait_for(|_| holds(&self.world())).await.unwrap();
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, collection: &'static str, object: Value) {
        self.world().put(collection, object);
        self.news();
    }

    /// Removes an object.
    pub(crate) fn remove(&self, collection: &'static str, namespace: &str, name: &str) {
        let mut world = self.world();
        let key = (collection, format!("{namespace}/{name}"));
        let mut object = world.objects.remove(&key).unwrap();
        world.version += 1;
        let version = world.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        world.history.push((version, collection, "DELETED", object));
        drop(world);
        self.news();
    }

    /// Tells all watches how far they are. Returns it.
    pub(crate) fn bookmark(&self) -> u64 {
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        for collection in [PODS, NAMESPACES] {
            let object = json!({"metadata": {"resourceVersion": version.to_string()}});
            world
                .history
                .push((version, collection, "BOOKMARK", object));
        }
        drop(world);
        self.news();
        version
    }

    /// Breaks the connections of all watches, in the middle of a line.
    pub(crate) fn cut(&self) {
        self.world().generation += 1;
        self.news();
    }

    /// Ends all watches in order, once they have told everything.
    pub(crate) fn end(&self) {
        self.world().ends += 1;
        self.news();
    }

    /// Forgets what happened before a version: watches from there have to begin anew.
    pub(crate) fn forget_before(&self, version: u64) {
        self.world().oldest = version;
    }

    /// The redirection annotation of a pod.
    pub(crate) fn annotation(&self, namespace: &str, name: &str) -> Option<String> {
        self.world().annotation(namespace, name)
    }

    fn news(&self) {
        self.state.news.send_modify(|count| *count += 1);
    }
}

impl World {
    fn put(&mut self, collection: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let key = format!("{namespace}/{}", metadata["name"].as_str().unwrap());
        let known = self.objects.insert((collection, key), object.clone());
        let how = known.map_or("ADDED", |_| "MODIFIED");
        self.history.push((self.version, collection, how, object));
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn annotation(&self, namespace: &str, name: &str) -> Option<String> {
        let pod = self.objects.get(&(PODS, format!("{namespace}/{name}")))?;
        let value = &pod["metadata"]["annotations"]["ambient.istio.io/redirection"];
        value.as_str().map(str::to_owned)
    }

    /// Whether no request is being answered.
    pub(crate) fn idle(&self) -> bool {
        self.busy == 0
    }

    /// How many requests began so.
    pub(crate) fn asked(&self, beginning: &str) -> usize {
        let asked = |request: &&String| request.starts_with(beginning);
        self.requests.iter().filter(asked).count()
    }
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        connections.spawn(async move {
            match acceptor {
                None => converse(stream, &state).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, &state).await;
                    }
                }
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, state: &Arc<State>) {
    let service = service_fn(|request| answer(request, Arc::clone(state)));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = served.await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let (away, came) = {
        let mut world = state.world.lock().unwrap();
        let request = format!("{} {}", parts.method, parts.uri);
        let caller = parts.headers.get("authorization");
        world.caller = caller.map(|caller| caller.to_str().unwrap().to_owned());
        world.busy += 1;
        world.busiest = world.busiest.max(world.busy);
        let begins = |with| request.starts_with(with);
        let away = world.away.is_some_and(begins);
        world.requests.push(request);
        (away, (world.generation, world.ends))
    };
    // Others get a chance to come at the same time.
    tokio::task::yield_now().await;
    let parameters: HashMap<&str, &str> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let kind = parts.headers.get("content-type");
    let answer = match (&parts.method, segments.as_slice()) {
        _ if away => Err(io::Error::other("away")),
        (&Method::GET, ["api", "v1", collection @ ("pods" | "namespaces")]) => {
            let collection = if *collection == PODS {
                PODS
            } else {
                NAMESPACES
            };
            match parameters.contains_key("watch") {
                true => Ok(follow(&state, came, collection, &parameters)),
                false => Ok(list(&state, collection, &parameters)),
            }
        }
        (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
            let world = state.world.lock().unwrap();
            let pod = world.objects.get(&(PODS, format!("{namespace}/{name}")));
            Ok(pod.map_or_else(|| refuse(404, "not found"), |pod| good(pod.clone())))
        }
        (&Method::PATCH, ["api", "v1", "namespaces", namespace, "pods", name, "status"]) => {
            assert_eq!(kind.unwrap(), "application/merge-patch+json");
            let mut world = state.world.lock().unwrap();
            Ok(patch(&mut world, namespace, name, &body))
        }
        (&Method::POST, ["apis", "events.k8s.io", "v1", "namespaces", _, "events"]) => {
            assert_eq!(kind.unwrap(), "application/json");
            let mut world = state.world.lock().unwrap();
            Ok(match world.refuse {
                Some(code) => refuse(code.as_u16(), "told to"),
                None => {
                    let event: Value = serde_json::from_slice(&body).unwrap();
                    world.events.push(event.clone());
                    good(event)
                }
            })
        }
        (method, _) => panic!("nobody should ask for {method} {path}"),
    };
    state.world.lock().unwrap().busy -= 1;
    state.news.send_modify(|count| *count += 1);
    answer
}

fn list(
    state: &State,
    collection: &'static str,
    parameters: &HashMap<&str, &str>,
) -> Response<Body> {
    let world = state.world.lock().unwrap();
    let limit: usize = parameters["limit"].parse().unwrap();
    let from = parameters.get("continue").map_or(0, |token| {
        let token = token.strip_prefix("from%3D").unwrap();
        token.parse().unwrap()
    });
    let selected = world
        .objects
        .iter()
        .filter(|((kind, _), object)| *kind == collection && selected(object, parameters));
    let rest: Vec<Value> = selected
        .skip(from)
        .map(|(_, object)| object.clone())
        .collect();
    let mut metadata = json!({"resourceVersion": world.version.to_string()});
    if rest.len() > limit {
        metadata["continue"] = format!("from={}", from + limit).into();
    }
    let items: Vec<Value> = rest.into_iter().take(limit).collect();
    good(json!({"kind": "List", "metadata": metadata, "items": items}))
}

fn selected(object: &Value, parameters: &HashMap<&str, &str>) -> bool {
    let selector = parameters.get("fieldSelector");
    let node = selector.map(|selector| selector.strip_prefix("spec.nodeName%3D").unwrap());
    node.is_none_or(|node| object["spec"]["nodeName"] == node)
}

/// A watch: what happened since, then what happens. It is of the generation in which it came.
fn follow(
    state: &Arc<State>,
    came: (u64, u64),
    collection: &'static str,
    parameters: &HashMap<&str, &str>,
) -> Response<Body> {
    assert_eq!(parameters["allowWatchBookmarks"], "true");
    let since: u64 = parameters["resourceVersion"].parse().unwrap();
    let node = parameters
        .get("fieldSelector")
        .map(|only| (*only).to_owned());
    let world = state.world.lock().unwrap();
    if since < world.oldest {
        let status = json!({"kind": "Status", "code": 410, "message": "too old"});
        let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
        return Response::new(full(line));
    }
    let (generation, ends) = came;
    drop(world);
    let (state, news) = (Arc::clone(state), state.news.subscribe());
    let lines = stream::unfold((since, news, true), move |(mut since, mut news, alive)| {
        let (state, node) = (Arc::clone(&state), node.clone());
        async move {
            if !alive {
                return None;
            }
            let only = node.iter().map(|only| ("fieldSelector", only.as_str()));
            let only: HashMap<&str, &str> = only.collect();
            loop {
                news.borrow_and_update();
                {
                    let world = state.world.lock().unwrap();
                    if world.generation != generation {
                        let half = Bytes::from_static(b"{\"type\":\"DELETED\",\"obj");
                        let cut = vec![Ok(Frame::data(half)), Err(io::Error::other("cut"))];
                        return Some((stream::iter(cut), (since, news, false)));
                    }
                    let next = world.history.iter().find(|(version, kind, how, object)| {
                        let told = *how == "BOOKMARK" || selected(object, &only);
                        *version > since && *kind == collection && told
                    });
                    if let Some((version, _, how, object)) = next {
                        since = *version;
                        let line = format!("{}\n", json!({"type": how, "object": object}));
                        // In two pieces, as it may well arrive.
                        let (first, second) = line.split_at(line.len() / 2);
                        let pieces: [io::Result<_>; 2] = [first, second]
                            .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))));
                        return Some((stream::iter(Vec::from(pieces)), (since, news, true)));
                    }
                    if world.ends != ends {
                        return None;
                    }
                }
                news.changed().await.ok()?;
            }
        }
    });
    Response::new(StreamBody::new(lines.flatten()).boxed_unsync())
}

fn patch(world: &mut World, namespace: &str, name: &str, body: &[u8]) -> Response<Body> {
    if let Some(code) = world.refuse {
        return refuse(code.as_u16(), "told to");
    }
    let key = (PODS, format!("{namespace}/{name}"));
    let Some(mut pod) = world.objects.get(&key).cloned() else {
        return refuse(404, "not found");
    };
    let patch: Value = serde_json::from_slice(body).unwrap();
    if patch["metadata"]["uid"] != pod["metadata"]["uid"] {
        return refuse(422, "metadata.uid: Invalid value: field is immutable");
    }
    world.patches.push(patch.clone());
    for (name, value) in patch["metadata"]["annotations"].as_object().unwrap() {
        let metadata = pod["metadata"].as_object_mut().unwrap();
        let annotations = metadata.entry("annotations").or_insert(json!({}));
        let annotations = annotations.as_object_mut().unwrap();
        match value {
            Value::Null => drop(annotations.remove(name)),
            value => drop(annotations.insert(name.clone(), value.clone())),
        }
    }
    if world.objects[&key] != pod {
        world.put(PODS, pod.clone());
    }
    good(pod)
}

fn good(value: Value) -> Response<Body> {
    Response::new(full(value.to_string()))
}

fn refuse(code: u16, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": message});
    let mut response = Response::new(full(status.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn full(text: String) -> Body {
    let infallible = |never: Infallible| match never {};
    Full::new(Bytes::from(text))
        .map_err(infallible)
        .boxed_unsync()
}
