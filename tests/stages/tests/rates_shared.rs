//! Limits over two data planes of one gateway, with a leader that moves their shares as the operator does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tollgate_allocator::ReplicaId;
use tollgate_allocator::rates::{Sharing, Telling, Told};
use tollgate_harness::{Cluster, Proxy, json, objects, patiently};

/// What the operator's leader does for one gateway.
struct Leader {
    sharing: Mutex<Sharing>,
    began: Instant,
}

impl Leader {
    fn new() -> Leader {
        let mut sharing = Sharing::new("leader".to_owned(), 0);
        sharing.present([0, 1].map(replica), 0);
        Leader { sharing: sharing.into(), began: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// One question and its answer. `wait`: how long the proxy may take.
    async fn ask(&self, proxies: &[Proxy; 2], at: usize, wait: Duration) -> Telling {
        let told: Told = self.sharing.lock().expect("nobody panics").tell(&replica(at), wait.as_millis() as u64);
        let call = proxies[at].operator("POST", "/operator/rates").await;
        let body = serde_json::to_string(&told).expect("JSON");
        let reply = call.header("content-type", "application/json").body(body).send().await.expect(200);
        let telling: Telling = serde_json::from_str(&reply.text()).expect("reports");
        let mut sharing = self.sharing.lock().expect("nobody panics");
        sharing.hear(&replica(at), &telling, self.now_ms());
        sharing.look(self.now_ms());
        drop(sharing);
        telling
    }

    /// Until nobody has anything to be told.
    async fn settle(&self, proxies: &[Proxy; 2]) {
        for at in [0, 1, 0, 1, 0, 1] {
            self.ask(proxies, at, Duration::ZERO).await;
        }
    }
}

fn replica(at: usize) -> ReplicaId {
    ReplicaId(format!("proxy-{at}"))
}

async fn start(limits: tollgate_harness::Value) -> (Cluster, [Proxy; 2]) {
    let mut cluster = Cluster::start(|mock| vec![objects::deployment("m", mock)]).await;
    cluster.set(objects::caller().set("spec.limits", limits));
    cluster.publish();
    let proxies = [Proxy::start(&cluster.api).await, Proxy::start(&cluster.api).await];
    (cluster, proxies)
}

async fn admitted(proxy: &Proxy, calls: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..calls {
        match proxy.chat("m").await.send().await.status {
            200 => admitted += 1,
            429 => {}
            other => panic!("status {other}"),
        }
    }
    admitted
}

#[tokio::test]
async fn a_client_of_one_proxy_gets_the_whole_limit_and_the_sum_stays_at_it() {
    let (_cluster, mut proxies) = start(json!({"requestsPerMinute": 40})).await;
    let leader = Leader::new();
    leader.settle(&proxies).await;
    // All calls go to the first; the leader is asked as it is in a cluster: whenever a proxy has something to tell.
    let mut first = 0;
    for _ in 0..40 {
        first += admitted(&proxies[0], 1).await;
        leader.settle(&proxies).await;
    }
    assert_eq!(first, 40, "no call was refused at half of the limit");
    assert_eq!(admitted(&proxies[1], 5).await, 0, "the minute is used up");
    let reply = proxies[1].chat("m").await.send().await.expect(429);
    assert_eq!(reply.header("x-ratelimit-api_key-limit-requests"), Some("40"), "the limit, not the share");
    for proxy in &mut proxies {
        proxy.stop().await;
    }
}

#[tokio::test]
async fn an_end_user_has_one_limit_over_all_proxies() {
    let mut cluster = Cluster::start(|mock| vec![objects::deployment("m", mock)]).await;
    let rules = json!([{"name": "customers", "per": "EndUser", "requestsPerMinute": 10}]);
    cluster.set(objects::gateway().set("spec.rateLimits", rules));
    cluster.publish();
    let mut proxies = [Proxy::start(&cluster.api).await, Proxy::start(&cluster.api).await];
    let leader = Leader::new();
    leader.settle(&proxies).await;
    let ask = async |at: usize, user: &str| {
        let call: tollgate_harness::Call = proxies[at].chat("m").await;
        call.header("x-litellm-end-user-id", user).send().await.status
    };
    for _ in 0..10 {
        assert_eq!(ask(0, "customer #1").await, 200);
        leader.settle(&proxies).await;
    }
    assert_eq!([ask(0, "customer #1").await, ask(1, "customer #1").await], [429, 429]);
    assert_eq!([ask(0, "customer #2").await, ask(1, "customer #2").await], [200, 200]);
    for proxy in &mut proxies {
        proxy.stop().await;
    }
}

#[tokio::test]
async fn without_a_word_each_proxy_has_its_part() {
    let (_cluster, mut proxies) = start(json!({"requestsPerMinute": 10})).await;
    let leader = Leader::new();
    leader.settle(&proxies).await;
    // From here on nobody leads.
    assert_eq!([admitted(&proxies[0], 8).await, admitted(&proxies[1], 8).await], [5, 5]);
    for proxy in &mut proxies {
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_proxy_that_nears_its_share_says_so_at_once() {
    let (_cluster, mut proxies) = start(json!({"requestsPerMinute": 40})).await;
    let leader = Leader::new();
    leader.settle(&proxies).await;
    let long = Duration::from_secs(5);
    let begun = Instant::now();
    let asked = leader.ask(&proxies, 0, long);
    let (telling, calls) = patiently("an answer", async { tokio::join!(asked, admitted(&proxies[0], 12)) }).await;
    assert_eq!(calls, 12);
    assert!(begun.elapsed() < long, "the question was answered before its time");
    let report = &telling.reports[0];
    assert_eq!((report.limit.as_str(), report.most, report.share), ("key default/caller requests", 40, 20));
    assert!(report.used > 10 && report.is_usual, "{report:?}");
    for proxy in &mut proxies {
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_burst_at_one_proxy_finds_the_whole_limit_and_no_more() {
    let (_cluster, proxies) = start(json!({"requestsPerMinute": 40})).await;
    let (proxies, leader) = (Arc::new(proxies), Leader::new());
    leader.settle(&proxies).await;
    let leading = {
        let proxies = proxies.clone();
        tokio::spawn(async move {
            loop {
                for at in [0, 1] {
                    leader.ask(&proxies, at, Duration::from_millis(10)).await;
                }
            }
        })
    };
    let burst: Vec<_> = (0..40)
        .map(|_| {
            let proxies = proxies.clone();
            tokio::spawn(async move { proxies[0].chat("m").await.send().await.status })
        })
        .collect();
    let mut served = 0;
    for call in burst {
        served += usize::from(call.await.expect("it ends") == 200);
    }
    // A machine that is too busy to move shares in time refuses some, which come again.
    let rest = async {
        while served < 40 {
            served += admitted(&proxies[0], 1).await;
        }
    };
    patiently("the whole limit", rest).await;
    assert_eq!([admitted(&proxies[0], 3).await, admitted(&proxies[1], 3).await], [0, 0]);
    leading.abort();
}

#[tokio::test]
async fn only_the_operator_moves_shares() {
    let (_cluster, mut proxies) = start(json!({"requestsPerMinute": 10})).await;
    let told = json!({"leader": "x", "replicas": 9, "shares": [], "waitMs": 0});
    let call = proxies[0].operator("POST", "/operator/rates").await;
    call.key("sk-somebody-else").json(&told).send().await.expect(401);
    let call = proxies[0].operator("POST", "/operator/rates").await;
    call.json(&json!("nonsense")).send().await.expect(400);
    let call = proxies[0].operator("GET", "/operator/rates").await;
    call.send().await.expect(405);
    assert_eq!(admitted(&proxies[0], 12).await, 10);
    for proxy in &mut proxies {
        proxy.stop().await;
    }
}
