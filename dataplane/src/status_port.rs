//! I/O: the port for those who run the proxy: probes of the kubelet, Prometheus, the operator. A thread, a runtime and a
//! journal of its own, so that it answers while the cores that serve are busy. Plain HTTP; what only the operator may
//! ask needs its token.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tollgate_dialects::Dialect;
use tollgate_ledger::rates::{Telling, Told};
use tollgate_ledger::tallies::Ask;
use tollgate_ledger::{Answers, Exchange, Exchanged};
use tollgate_snapshot::model::KeyHash;

use crate::answer::{self, json_reply};
use crate::core::{Core, Shared};
use crate::places::{Place, Places};
use crate::probe;
use crate::reply::{self, ReplyBody};
use crate::tls::{self, Certificate};
use crate::used::{Speeds, used};

/// Largest request body.
const MAX_BODY_BYTES: usize = 16 << 10;

/// Largest body with answers about budgets, or with shares of rates: some ten thousand.
const MAX_ANSWERS_BYTES: usize = 8 << 20;

/// The operator asks at least every second; after this without it, calls do not wait for allowance.
const AWAY: Duration = Duration::from_secs(3);

/// The longest that a question of the operator is left open.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// Connections at once; for what comes above, those without a request leave.
const MAX_CONNECTIONS: usize = 256;

/// Probes at once; the others wait.
const MAX_PROBES: usize = 16;

/// Until the head and the body of a request must be complete, and that a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);

/// What answers.
struct Port {
    core: Rc<Core>,
    speeds: std::cell::RefCell<Speeds>,
    probes: Semaphore,
    /// When the operator asked last for what budgets need.
    asked_at: std::cell::Cell<Instant>,
}

/// Serves until `stop` comes or is dropped. Blocks the calling thread. Also follows the certificates of the listeners.
///
/// # Errors
/// A runtime could not be made.
pub fn run(
    shared: &Arc<Shared>,
    listener: StdListener,
    writer: tollgate_ledger::Writer,
    certificates: &[Arc<Certificate>],
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let core = Rc::new(Core::new(shared.clone(), writer));
        let port = Rc::new(Port {
            core,
            speeds: Speeds::new(Instant::now()).into(),
            probes: Semaphore::new(MAX_PROBES),
            asked_at: Instant::now().into(),
        });
        tokio::select! {
            never = accept(&port, &listener) => match never {},
            never = port.core.tend() => match never {},
            never = tls::follow(certificates) => match never {},
            never = port.notice_absence() => match never {},
            // Asked to stop, or nobody is left who could ask.
            _ = stop => Ok(()),
        }
    })
}

/// What a body says; `None`: nothing of the kind, or not in time, or too much.
async fn read_json<T: DeserializeOwned>(body: Incoming, most_bytes: usize) -> Option<T> {
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, most_bytes).collect()).await;
    serde_json::from_slice(&read.ok()?.ok()?.to_bytes()).ok()
}

async fn accept(port: &Rc<Port>, listener: &TcpListener) -> Infallible {
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection(port, stream, places.take().await),
            Err(error) => {
                tracing::error!(%error, "cannot accept connections of the status port: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn connection(port: &Rc<Port>, stream: TcpStream, place: Place) {
    let _ = stream.set_nodelay(true);
    let port = port.clone();
    tokio::task::spawn_local(async move {
        let place = Rc::new(place);
        let service = service_fn(|request| {
            let (port, place) = (port.clone(), place.clone());
            place.work();
            async move {
                let response = whole(port.answer(request).await);
                place.wait();
                Ok::<_, Infallible>(response)
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_BODY_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            served = served => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection of the status port ended");
                }
            }
            () = place.wanted() => {}
        }
    });
}

/// Nothing here is a stream.
fn whole(response: Response<ReplyBody>) -> Response<Full<Bytes>> {
    response.map(|body| match body {
        ReplyBody::Full(pieces) => Full::new(pieces.into_bytes()),
        ReplyBody::Stream(_) => Full::default(),
    })
}

/// Body of a request for a probe.
#[derive(Deserialize)]
struct ProbeRequest {
    /// `namespace/name`
    deployment: String,
}

impl Port {
    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (parts, body) = request.into_parts();
        let is_get = parts.method == Method::GET || parts.method == Method::HEAD;
        let path = parts.uri.path();
        let allowed = match path {
            "/operator/probe" | "/operator/allowance" | "/operator/rates" | "/operator/tally" => {
                parts.method == Method::POST
            }
            _ => is_get,
        };
        if !allowed {
            let mut response = json_reply(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "method not allowed"}));
            let verb = if path.starts_with("/operator/") && path != "/operator/used" { "POST" } else { "GET" };
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(verb));
            return response;
        }
        match path {
            // Also while it drains: a process that finishes its streams must not be killed for it.
            "/health/liveliness" | "/health/liveness" | "/livez" => json_reply(StatusCode::OK, &json!("I'm alive!")),
            "/health/readiness" | "/readyz" => answer::readiness(&self.core),
            "/metrics" => answer::metrics(&self.core, &parts.headers)
                .unwrap_or_else(|error| reply::error(&error, Dialect::OpenAi, &HeaderValue::from_static("metrics"))),
            "/snapshot" => self.snapshot(),
            "/operator/used" | "/operator/probe" | "/operator/allowance" | "/operator/rates" | "/operator/tally"
                if !self.is_operator(&parts.headers) =>
            {
                json_reply(StatusCode::UNAUTHORIZED, &json!({"error": "the operator's token is needed"}))
            }
            "/operator/used" => self.used(parts.uri.query().unwrap_or_default()),
            "/operator/probe" => self.probe(body).await,
            "/operator/allowance" => self.allowance(body).await,
            "/operator/rates" => self.rates(body).await,
            "/operator/tally" => self.tally(body).await,
            _ => json_reply(StatusCode::NOT_FOUND, &json!({"error": "there is nothing here"})),
        }
    }

    fn snapshot(&self) -> Response<ReplyBody> {
        let shared = &self.core.shared;
        let generation = self.core.tables().generation;
        let ready = generation > 0 && shared.listening.load(Relaxed) && !shared.draining.load(Relaxed);
        let (sha256, error) = shared.status.with(|loaded| (loaded.manifest_sha256.clone(), loaded.error.clone()));
        let mut body = json!({
            "generation": generation,
            "manifestSha256": sha256.unwrap_or_default(),
            "version": env!("CARGO_PKG_VERSION"),
            "ready": ready,
        });
        if let Some(error) = error {
            body["error"] = error.into();
        }
        json_reply(StatusCode::OK, &body)
    }

    /// Whether the request shows the operator's token. Nobody is the operator while there is none.
    fn is_operator(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let token = self.core.shared.status.with(|loaded| loaded.operator_token);
        let (Some(shown), Some(token)) = (shown, token) else { return false };
        // Digests have one length, and comparing them tells nothing of the token.
        KeyHash::of(shown).0.ct_eq(&token.0).into()
    }

    fn used(&self, query: &str) -> Response<ReplyBody> {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
        let Ok(after) = after.map_or(Ok(0), str::parse) else {
            return json_reply(StatusCode::BAD_REQUEST, &json!({"error": "`after` is no number"}));
        };
        let used = used(&self.core, &mut self.speeds.borrow_mut(), after);
        let body = serde_json::to_string(&used).expect("names and numbers are JSON");
        reply::full(StatusCode::OK, "application/json", body)
    }

    /// Answers about budgets in, reports of budgets out: as soon as there are any, else after a while.
    async fn allowance(&self, body: Incoming) -> Response<ReplyBody> {
        let exchange = read_json::<Exchange>(body, MAX_ANSWERS_BYTES).await;
        let Some(Exchange { answers, wait_ms }) = exchange else {
            return json_reply(StatusCode::BAD_REQUEST, &json!({"error": "the body is no exchange about budgets"}));
        };
        let wait = Duration::from_millis(wait_ms).min(MOST_WAIT);
        if self.core.shared.builder.persistent.redis.in_use() {
            // An operator that does not know yet: nothing is told to two allocators.
            tokio::time::sleep(wait).await;
            return json_reply(StatusCode::OK, &json!({"batches": []}));
        }
        self.asked_at.set(Instant::now());
        let ledger = &self.core.shared.builder.ledger;
        for Answers { replica, answers } in &answers {
            ledger.answered(replica, answers);
        }
        let mut batches = ledger.due();
        if batches.iter().all(|batch| batch.reports.is_empty()) {
            // A call that waits shortens it; one that asked before is told of by the first look.
            let _ = tokio::time::timeout(wait, ledger.urgent()).await;
            batches = ledger.due();
        }
        self.asked_at.set(Instant::now());
        let body = serde_json::to_string(&Exchanged { batches }).expect("names and numbers are JSON");
        reply::full(StatusCode::OK, "application/json", body)
    }

    /// Shares of rate limits in, what the leader should know of them out: at once where shares changed, as soon as a limit
    /// is near, else after a while.
    async fn rates(&self, body: Incoming) -> Response<ReplyBody> {
        let told = read_json::<Told>(body, MAX_ANSWERS_BYTES).await;
        let Some(told) = told else {
            return json_reply(StatusCode::BAD_REQUEST, &json!({"error": "the body is nothing about rates"}));
        };
        let persistent = &self.core.shared.builder.persistent;
        let Some(hub) = &persistent.hub else {
            return json_reply(StatusCode::NOT_FOUND, &json!({"error": "this proxy shares no limits"}));
        };
        let now = || self.core.uptime_seconds(Instant::now());
        if !hub.hear(&told, Instant::now(), |name| persistent.find(name, now())) {
            let wait = Duration::from_millis(told.wait_ms).min(MOST_WAIT);
            let _ = tokio::time::timeout(wait, hub.urgent.notified()).await;
        }
        let telling = Telling { reports: hub.reports(now()) };
        let body = serde_json::to_string(&telling).expect("names and numbers are JSON");
        reply::full(StatusCode::OK, "application/json", body)
    }

    /// What was taken of the sums of keys, teams and deployments in, what is left of them out.
    async fn tally(&self, body: Incoming) -> Response<ReplyBody> {
        let ask = read_json::<Ask>(body, MAX_BODY_BYTES).await;
        let Some(ask) = ask else {
            return json_reply(StatusCode::BAD_REQUEST, &json!({"error": "the body is nothing about sums"}));
        };
        match self.core.shared.builder.ledger.tally(ask).await {
            Ok(told) => {
                let body = serde_json::to_string(&told).expect("names and numbers are JSON");
                reply::full(StatusCode::OK, "application/json", body)
            }
            Err(error) => json_reply(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": error.to_string()})),
        }
    }

    /// Tells calls that wait when the operator does not ask any more, and gives up shares that nobody confirms.
    async fn notice_absence(&self) -> Infallible {
        loop {
            tokio::time::sleep(AWAY / 6).await;
            let is_its = !self.core.shared.builder.persistent.redis.in_use();
            if is_its && self.asked_at.get().elapsed() > AWAY {
                self.core.shared.builder.ledger.unanswered();
            }
            if let Some(hub) = &self.core.shared.builder.persistent.hub {
                hub.notice_absence(Instant::now());
            }
        }
    }

    async fn probe(&self, body: Incoming) -> Response<ReplyBody> {
        let read = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await;
        let request = match read {
            Ok(Ok(body)) => serde_json::from_slice::<ProbeRequest>(&body.to_bytes()).ok(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(ProbeRequest { deployment }) = request else {
            let text = "the body must be {\"deployment\": \"namespace/name\"}";
            return json_reply(StatusCode::BAD_REQUEST, &json!({"error": text}));
        };
        let _place = self.probes.acquire().await.expect("the semaphore is never closed");
        match probe::probe(&self.core, &deployment).await {
            Some(verdict) => {
                let body = serde_json::to_string(&verdict).expect("texts and numbers are JSON");
                reply::full(StatusCode::OK, "application/json", body)
            }
            None => json_reply(StatusCode::NOT_FOUND, &json!({"error": "this proxy knows no such deployment"})),
        }
    }
}
