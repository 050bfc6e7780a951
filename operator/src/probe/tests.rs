//! Probes of proxies that are HTTP servers of this process.

use std::sync::Mutex;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::proxies::tests::{FakeProxy, fleet, named, until};
use crate::proxies::{Published, Told};

type Seen = std::sync::Arc<Mutex<BTreeMap<Named, Candidate>>>;

fn model() -> Named {
    ("team-a".to_owned(), "gpt".to_owned())
}

fn candidate(generation: i64, version: u64) -> BTreeMap<Named, Candidate> {
    let wanted = Wanted { interval: Duration::from_secs(30), version };
    [(model(), Candidate { gateway: named(), generation, wanted })].into()
}

fn start(tasks: &mut JoinSet<()>, fleet: Fleet, facts: &Facts, seen: &Seen) {
    let (facts, seen) = (facts.clone(), seen.clone());
    let prober = Prober::new(fleet, facts);
    tasks.spawn(async move { match prober.run(|| seen.lock().unwrap().clone()).await {} });
}

fn fact(facts: &Facts) -> Option<(i64, bool, &'static str)> {
    let known = facts.read();
    known.probes.get(&model()).map(|fact| (fact.generation, fact.ok, fact.reason))
}

#[tokio::test]
async fn a_deployment_is_probed_once_proxies_run_it_and_again_when_it_changed() {
    let mut tasks = JoinSet::new();
    let proxy = FakeProxy::default();
    let address = proxy.start(&mut tasks).await;
    proxy.says("/operator/probe", 200, r#"{"ok": false, "reason": "Unauthorized", "message": "the provider refuses"}"#);
    let (fleet, facts) = (fleet(&[address]), Facts::default());
    fleet.publish("team-a", "default", Published { generation: 1, token: "t".into() });
    let seen = Seen::new(Mutex::new(candidate(1, 11)));
    start(&mut tasks, fleet.clone(), &facts, &seen);
    // The proxy has not said yet that it runs what is published.
    timeout(LOOK * 3, until(|| fact(&facts).is_some())).await.expect_err("nothing is probed");
    let told = Told { generation: 1, ..Told::default() };
    fleet.lock().get_mut(&named()).unwrap().proxies.get_mut("proxy-0").unwrap().told = Some(told);
    until(|| fact(&facts) == Some((1, false, "Unauthorized"))).await;

    proxy.says("/operator/probe", 200, r#"{"ok": true, "reason": "Reachable"}"#);
    *seen.lock().unwrap() = candidate(2, 12);
    until(|| fact(&facts) == Some((2, true, "Reachable"))).await;
    assert_eq!(proxy.asked(), [r#"/operator/probe Bearer t {"deployment":"team-a/gpt"}"#; 2]);
}
