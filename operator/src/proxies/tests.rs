//! The follower against proxies that are HTTP servers of this process, with pods handed in as a watch would.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A proxy that answers what it is told to, by path, and counts.
#[derive(Clone, Default)]
pub(crate) struct FakeProxy(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    /// Status and body by path.
    answers: BTreeMap<String, (u16, String)>,
    asked: Vec<String>,
}

impl FakeProxy {
    pub(crate) async fn start(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = fake.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let fake = fake.clone();
                        async move { Ok::<_, Infallible>(fake.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        address
    }

    pub(crate) fn says(&self, path: &str, status: u16, body: &str) {
        self.0.lock().unwrap().answers.insert(path.to_owned(), (status, body.to_owned()));
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path_and_query().unwrap().to_string();
        let token = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut state = self.0.lock().unwrap();
        let asked = [path.clone(), token.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap()];
        state.asked.push(asked.join(" ").trim().to_owned());
        let (status, body) = state.answers.get(&path).cloned().unwrap_or((404, "{}".to_owned()));
        Response::builder().status(status).body(Full::new(body.into())).unwrap()
    }
}

pub(crate) fn named() -> Named {
    ("team-a".to_owned(), "default".to_owned())
}

/// A gateway with the proxies, which the follower does not know yet.
pub(crate) fn fleet(addresses: &[SocketAddr]) -> Fleet {
    let fleet = Fleet::default();
    let proxies = addresses.iter().enumerate().map(|(at, address)| {
        let proxy = Proxy { uid: at.to_string(), address: Some(*address), ready: true, deleting: false, told: None };
        (format!("proxy-{at}"), proxy)
    });
    fleet.lock().insert(named(), Gateway { proxies: proxies.collect(), ..Gateway::default() });
    fleet
}

/// Looks again and again: what a question changes nothing of wakes nobody.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let mut again = tokio::time::interval(Duration::from_millis(5));
    let seen = async {
        while !is_so() {
            again.tick().await;
        }
    };
    timeout(DEADLINE, seen).await.expect("it becomes so");
}

#[tokio::test]
async fn a_publication_is_programmed_once_every_proxy_runs_it() {
    let mut tasks = JoinSet::new();
    let (fast, slow) = (FakeProxy::default(), FakeProxy::default());
    let addresses = [fast.start(&mut tasks).await, slow.start(&mut tasks).await];
    fast.says("/snapshot", 200, r#"{"generation": 8, "version": "0.1.0", "ready": true}"#);
    slow.says("/snapshot", 200, r#"{"generation": 7, "version": "0.1.0", "ready": true}"#);
    let (fleet, facts) = (fleet(&addresses), Facts::default());
    let mut follower = Follower::new(fleet.clone(), facts.clone());
    for at in 0..2 {
        follower.changed(vec![Change::Fresh(named(), format!("proxy-{at}"))]);
    }
    tasks.spawn(async move { match follower.run(futures_util::stream::pending().boxed()).await {} });
    until(|| facts.read().proxies.get(&named()).is_some_and(|fact| fact.generation == Some(7))).await;

    fleet.publish("team-a", "default", Published { generation: 8, token: "t".into() });
    let questions = slow.asked().len();
    until(|| slow.asked().len() >= questions + 3).await;
    slow.says("/snapshot", 200, r#"{"generation": 8, "version": "0.1.0", "ready": true}"#);
    until(|| {
        let fact = &facts.read().proxies[&named()];
        (fact.generation, fact.ready, fact.total) == (Some(8), 2, 2)
    })
    .await;
    assert_eq!(fast.asked().iter().filter(|asked| *asked == "/snapshot").count(), fast.asked().len());
}

#[tokio::test]
async fn what_was_used_is_read_on_from_the_cursor_and_thinned() {
    let mut tasks = JoinSet::new();
    let proxy = FakeProxy::default();
    let address = proxy.start(&mut tasks).await;
    proxy.says(
        "/operator/used?after=0",
        200,
        r#"{"cursor": 70, "keys": [{"name": "team-a/ci", "lastUsedAt": 125}], "deployments": [{"name": "team-a/m", "p50Ms": 412}]}"#,
    );
    let (fleet, facts) = (fleet(&[address]), Facts::default());
    fleet.publish("team-a", "default", Published { generation: 1, token: "secret".into() });
    let follower = Follower::new(fleet, facts.clone());
    tasks.spawn(async move { match follower.run(futures_util::stream::pending().boxed()).await {} });
    let key = ("team-a".to_owned(), "ci".to_owned());
    let model = ("team-a".to_owned(), "m".to_owned());
    until(|| {
        let known = facts.read();
        known.last_used.contains_key(&key) && known.p50_ms.contains_key(&model)
    })
    .await;
    let known = facts.read();
    assert_eq!((known.last_used[&key], known.p50_ms[&model]), (120, 412));
    assert!(proxy.asked().contains(&"/operator/used?after=0 Bearer secret".to_owned()), "{:?}", proxy.asked());
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_leaves_the_generation_open() {
    let mut tasks = JoinSet::new();
    let (well, sick) = (FakeProxy::default(), FakeProxy::default());
    let addresses = [well.start(&mut tasks).await, sick.start(&mut tasks).await];
    well.says("/snapshot", 200, r#"{"generation": 3}"#);
    sick.says("/snapshot", 500, "");
    let facts = Facts::default();
    let mut follower = Follower::new(fleet(&addresses), facts.clone());
    for at in 0..2 {
        follower.changed(vec![Change::Fresh(named(), format!("proxy-{at}"))]);
    }
    tasks.spawn(async move { match follower.run(futures_util::stream::pending().boxed()).await {} });
    until(|| !well.asked().is_empty() && !sick.asked().is_empty()).await;
    assert_eq!(facts.read().proxies[&named()].generation, None);
}

#[tokio::test]
async fn a_probe_says_what_the_proxy_found_and_nothing_where_it_cannot_know() {
    let mut tasks = JoinSet::new();
    let proxy = FakeProxy::default();
    let address = proxy.start(&mut tasks).await;
    let asker = Asker::default();
    assert!(matches!(asker.probe(address, "t", "team-a/m").await, Ok(None)), "it does not know the deployment");
    proxy.says(
        "/operator/probe",
        200,
        r#"{"ok": false, "status": 401, "latencyMs": 3, "reason": "Unauthorized", "message": "no"}"#,
    );
    let verdict = Verdict { ok: false, reason: "Unauthorized".to_owned(), message: "no".to_owned() };
    assert_eq!(asker.probe(address, "t", "team-a/m").await.unwrap(), Some(verdict));
    assert_eq!(proxy.asked()[1], r#"/operator/probe Bearer t {"deployment":"team-a/m"}"#);
    proxy.says("/operator/probe", 401, "{}");
    assert!(matches!(asker.probe(address, "t", "team-a/m").await, Err(AskError::Status(status)) if status == 401));
}
