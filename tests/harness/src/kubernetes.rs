//! A Kubernetes API server for tests of the data plane, in this process and over HTTP: ConfigMaps that are listed (in
//! pages) and watched, Secrets that are read and watched by name, and what goes wrong with real ones: watches that end,
//! histories that are forgotten (410), a server that is away. Anything that the proxies' Role does not allow is 403 and
//! remembered. I/O.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::{Value, json};

/// Where the gateway is.
pub const NAMESPACE: &str = "default";

/// The server. Ends when it is dropped.
pub struct FakeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    world: Mutex<World>,
    /// Counts everything that watches should look at.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// By resource (`configmaps`, `secrets`) and name.
    objects: BTreeMap<(&'static str, String), Value>,
    history: Vec<(u64, &'static str, &'static str, Value)>,
    /// Watches from before this version are told 410.
    forgotten: u64,
    /// Watches of an older epoch end.
    epoch: u64,
    is_away: bool,
    /// Watches of this epoch that go on.
    watches: usize,
    requests: Vec<String>,
    forbidden: Vec<String>,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let changed = change(&mut self.world());
        self.changed.send_modify(|count| *count += 1);
        changed
    }
}

impl World {
    fn end_watches(&mut self) {
        self.epoch += 1;
        self.watches = 0;
    }

    fn record(&mut self, resource: &'static str, kind: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().expect("objects have names").to_owned();
        match kind {
            "DELETED" => self.objects.remove(&(resource, name)),
            _ => self.objects.insert((resource, name), object.clone()),
        };
        self.history.push((self.version, resource, kind, object));
    }

    fn put(&mut self, resource: &'static str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("objects have names").to_owned();
        let kind = if self.objects.contains_key(&(resource, name)) { "MODIFIED" } else { "ADDED" };
        self.record(resource, kind, object);
    }
}

impl FakeApi {
    pub async fn start() -> FakeApi {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { world: Mutex::default(), changed: watch::Sender::new(0) });
        let accepting = {
            let shared = shared.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("connections come");
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let service = hyper::service::service_fn(move |request| answer(shared.clone(), request));
                        // A server that is away ends connections without an answer.
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            })
        };
        FakeApi { address, shared, accepting }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "proxy", "namespace": NAMESPACE}}],
            "current-context": "fake",
        })
        .to_string()
    }

    /// Creates or changes a ConfigMap with one entry.
    pub fn put_config_map(&self, name: &str, labels: Value, entry: &str, text: &str) {
        let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": labels});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {entry: text}});
        self.shared.change(|world| world.put("configmaps", object));
    }

    /// Creates or changes a Secret with one entry.
    pub fn put_secret(&self, name: &str, entry: &str, text: &str) {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {entry: encoded}});
        self.shared.change(|world| world.put("secrets", object));
    }

    /// An entry of a ConfigMap.
    pub fn config_map(&self, name: &str, entry: &str) -> Option<String> {
        let world = self.shared.world();
        let object = world.objects.get(&("configmaps", name.to_owned()))?;
        object["data"][entry].as_str().map(str::to_owned)
    }

    /// Deletes a ConfigMap.
    pub fn delete_config_map(&self, name: &str) {
        self.shared.change(|world| {
            let object = world.objects.get(&("configmaps", name.to_owned())).expect("it is there").clone();
            world.record("configmaps", "DELETED", object);
        });
    }

    /// Ends every watch, as a load balancer does.
    pub fn cut_watches(&self) {
        self.shared.change(World::end_watches);
    }

    /// Forgets what happened so far, and ends every watch: the next ones are told 410.
    pub fn forget_history(&self) {
        self.shared.change(|world| {
            world.version += 1;
            world.forgotten = world.version;
            world.history.clear();
            world.end_watches();
        });
    }

    /// Tells every watch how far it is, and no more.
    pub fn bookmark(&self) {
        self.shared.change(|world| {
            for (resource, kind) in [("configmaps", "ConfigMap"), ("secrets", "Secret")] {
                let version = world.version.to_string();
                let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": version}});
                world.history.push((world.version, resource, "BOOKMARK", object));
            }
        });
    }

    /// Ends every connection without an answer until [`FakeApi::come_back`].
    pub fn go_away(&self) {
        self.shared.change(|world| {
            world.is_away = true;
            world.end_watches();
        });
    }

    pub fn come_back(&self) {
        self.shared.change(|world| world.is_away = false);
    }

    /// Waits until so many watches go on after the last that were ended.
    pub async fn wait_for_watches(&self, count: usize) {
        let watched = async {
            while self.shared.world().watches < count {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        crate::patiently("a watch", watched).await;
    }

    /// Method and target of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.world().requests.clone()
    }

    /// Requests that the proxies' Role does not allow.
    pub fn forbidden(&self) -> Vec<String> {
        self.shared.world().forbidden.clone()
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What a request asks for.
struct Asked {
    resource: &'static str,
    name: Option<String>,
    is_watch: bool,
    field_name: Option<String>,
    labels: Vec<(String, Option<String>)>,
    version: String,
    limit: usize,
    from: usize,
}

impl Asked {
    fn read(target: &str) -> Option<Asked> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let rest = path.strip_prefix(&format!("/api/v1/namespaces/{NAMESPACE}/"))?;
        let (resource, name) = match rest.split_once('/') {
            Some((resource, name)) => (resource, Some(name.to_owned())),
            None => (rest, None),
        };
        let resource = ["configmaps", "secrets"].into_iter().find(|known| *known == resource)?;
        let mut asked = Asked {
            resource,
            name,
            is_watch: false,
            field_name: None,
            labels: Vec::new(),
            version: String::new(),
            limit: usize::MAX,
            from: 0,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
            match key {
                "watch" => asked.is_watch = value == "true" || value == "1",
                "fieldSelector" => asked.field_name = value.strip_prefix("metadata.name=").map(str::to_owned),
                "labelSelector" => {
                    asked.labels = value
                        .split(',')
                        .map(|one| match one.split_once('=') {
                            Some((label, value)) => (label.to_owned(), Some(value.to_owned())),
                            None => (one.to_owned(), None),
                        })
                        .collect();
                }
                "resourceVersion" => asked.version = value,
                "limit" => asked.limit = value.parse().unwrap_or(usize::MAX),
                "continue" => asked.from = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        Some(asked)
    }

    /// What the Role of the proxies says.
    fn is_allowed(&self) -> bool {
        match self.resource {
            "secrets" => {
                let name = self.name.as_deref().or(self.field_name.as_deref().filter(|_| self.is_watch));
                name.is_some_and(|name| name.contains("-credentials-"))
            }
            _ => true,
        }
    }

    fn wants(&self, resource: &str, object: &Value) -> bool {
        let metadata = &object["metadata"];
        resource == self.resource
            && self.field_name.as_ref().is_none_or(|name| metadata["name"] == **name)
            && self.labels.iter().all(|(label, value)| {
                let found = &metadata["labels"][label];
                value.as_ref().map_or(!found.is_null(), |value| found == value)
            })
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Lines>, std::io::Error> {
    let target = request.uri().path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default();
    let asked = Asked::read(&target);
    let mut world = shared.world();
    if world.is_away {
        return Err(std::io::Error::other("away"));
    }
    world.requests.push(format!("{} {target}", request.method()));
    let Some(asked) = asked.filter(|asked| request.method() == http::Method::GET && asked.is_allowed()) else {
        world.forbidden.push(format!("{} {target}", request.method()));
        return Ok(status(StatusCode::FORBIDDEN, "Forbidden"));
    };
    if let Some(name) = asked.name {
        return Ok(match world.objects.get(&(asked.resource, name)) {
            Some(object) => whole(StatusCode::OK, object),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        });
    }
    let current: Vec<Value> = world
        .objects
        .iter()
        .filter(|((resource, _), object)| asked.wants(resource, object))
        .map(|(_, object)| object.clone())
        .collect();
    if !asked.is_watch {
        let end = asked.from.saturating_add(asked.limit).min(current.len());
        let more = if end < current.len() { end.to_string() } else { String::new() };
        let list = json!({
            "apiVersion": "v1",
            "kind": "List",
            "metadata": {"resourceVersion": world.version.to_string(), "continue": more},
            "items": current[asked.from.min(end)..end],
        });
        return Ok(whole(StatusCode::OK, &list));
    }
    let (sender, lines) = mpsc::channel(16);
    let from: u64 = asked.version.parse().unwrap_or(0);
    let epoch = world.epoch;
    let first: Vec<Value> = if from == 0 {
        current.into_iter().map(|object| json!({"type": "ADDED", "object": object})).collect()
    } else if from < world.forgotten {
        let gone =
            json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"});
        vec![json!({"type": "ERROR", "object": gone})]
    } else {
        Vec::new()
    };
    let is_over = from != 0 && from < world.forgotten;
    let seen = if from == 0 { world.history.len() } else { 0 };
    drop(world);
    tokio::spawn(watch_on(shared, asked, first, is_over, seen, from, epoch, sender));
    Ok(Response::new(Lines(lines)))
}

#[expect(clippy::too_many_arguments, reason = "the state of one watch, given once")]
async fn watch_on(
    shared: Arc<Shared>,
    asked: Asked,
    first: Vec<Value>,
    is_over: bool,
    mut seen: usize,
    from: u64,
    epoch: u64,
    lines: mpsc::Sender<Bytes>,
) {
    let mut changed = shared.changed.subscribe();
    let mut next = first;
    let mut is_counted = false;
    loop {
        for event in next {
            if lines.send(Bytes::from(format!("{event}\n"))).await.is_err() {
                return;
            }
        }
        if is_over {
            return;
        }
        {
            let mut world = shared.world();
            if world.epoch != epoch {
                return;
            }
            if !is_counted {
                world.watches += 1;
                is_counted = true;
            }
            let new = world.history[seen.min(world.history.len())..].iter();
            next = new
                .filter(|(version, resource, kind, object)| {
                    *version > from
                        && (asked.wants(resource, object) || (*kind == "BOOKMARK" && *resource == asked.resource))
                })
                .map(|(_, _, kind, object)| json!({"type": kind, "object": object}))
                .collect();
            seen = world.history.len();
        }
        if next.is_empty() {
            tokio::select! {
                _ = changed.changed() => {}
                () = lines.closed() => return,
            }
        }
    }
}

fn whole(status: StatusCode, body: &Value) -> Response<Lines> {
    let (sender, lines) = mpsc::channel(1);
    sender.try_send(Bytes::from(body.to_string())).expect("there is room for one");
    let mut response = Response::new(Lines(lines));
    *response.status_mut() = status;
    response
}

fn status(code: StatusCode, reason: &str) -> Response<Lines> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason,
    });
    whole(code, &body)
}

/// A body of lines that come one by one.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
