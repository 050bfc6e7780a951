//! Limits that several gateways count together in a real Redis: exactly the limit over all of them, all of it for a client
//! of one, while one dies, and while Redis is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tollgate_harness::{
    Call, Gateway, KEY, Mock, Object, Options, RedisServer, Response, Starter, Step, Tokens, Value, documents, json,
    objects, patiently,
};

/// Gateways before one provider, with one configuration and one Redis.
struct Fleet {
    mock: Mock,
    gateways: Vec<Gateway>,
}

impl Fleet {
    async fn start(redis: &RedisServer, count: usize, more: impl FnOnce(&Mock) -> Vec<Object>) -> Fleet {
        let mock = Mock::start(Options::default()).await.expect("the mock listens");
        let gateway =
            objects::gateway().set("spec.stores", json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}}));
        let more = more(&mock);
        let mut all = vec![gateway, objects::secret(), objects::secret_of("redis", &redis.url())];
        all.push(objects::caller());
        all.retain(|object| more.iter().all(|other| other.id() != object.id()));
        all.extend(more);
        let text = documents(&all);
        let mut gateways = Vec::new();
        for _ in 0..count {
            gateways.push(Starter::default().file("config.yaml", text.clone()).start().await);
        }
        let fleet = Fleet { mock, gateways };
        for gateway in &fleet.gateways {
            wait_for(gateway, "tollgate_rates_exact 1").await;
            wait_for(gateway, &format!("tollgate_rates_replicas {count}")).await;
        }
        fleet
    }

    fn call(&self, at: usize) -> Call {
        chat(&self.gateways[at])
    }

    /// Many clients of all gateways in turn, each with several calls. How many were let in.
    async fn crowd(&self, clients: usize, calls: usize) -> usize {
        let all: Vec<usize> = (0..self.gateways.len()).collect();
        self.crowd_with(KEY, &all, clients, calls).await
    }

    /// The same with a key, of some gateways.
    async fn crowd_with(&self, key: &str, gateways: &[usize], clients: usize, calls: usize) -> usize {
        let served = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..clients)
            .map(|client| {
                let served = served.clone();
                let address = self.gateways[gateways[client % gateways.len()]].address();
                let key = key.to_owned();
                tokio::spawn(async move {
                    for _ in 0..calls {
                        match Call::new(address, "POST", "/v1/chat/completions")
                            .key(&key)
                            .json(&body())
                            .send()
                            .await
                            .status
                        {
                            200 => _ = served.fetch_add(1, Relaxed),
                            429 => {}
                            other => panic!("status {other}"),
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            patiently("a client", client).await.expect("it ends");
        }
        served.load(Relaxed)
    }

    async fn stop(mut self) {
        for gateway in &mut self.gateways {
            gateway.stop().await;
        }
    }
}

fn body() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10})
}

fn chat(gateway: &Gateway) -> Call {
    gateway.post("/v1/chat/completions").key(KEY).json(&body())
}

async fn number(gateway: &Gateway, name: &str) -> Option<f64> {
    let metrics = gateway.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn wait_for(gateway: &Gateway, line: &str) {
    let wait = async {
        while !gateway.metrics().await.lines().any(|one| one == line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently(line, wait).await;
}

fn limited(limits: Value) -> impl FnOnce(&Mock) -> Vec<Object> {
    |mock| vec![objects::deployment("m", mock), objects::caller().set("spec.limits", limits)]
}

fn left(response: &Response, kind: &str) -> u64 {
    let name = format!("x-ratelimit-api_key-remaining-{kind}");
    response.header(&name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

#[tokio::test]
async fn many_clients_of_three_gateways_get_exactly_the_limit() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 3, limited(json!({"requestsPerMinute": 100}))).await;
    let began = Instant::now();
    assert_eq!(fleet.crowd(30, 10).await, 100, "of 300 calls");
    assert_eq!(fleet.crowd(6, 2).await, 0);
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    let refused = fleet.call(1).send().await.expect(429);
    assert_eq!(refused.header("x-tollgate-error"), Some("rate_limited"));
    assert!(refused.text().contains("Limit type: requests. Current limit: 100, Remaining: 0."), "{}", refused.text());
    assert_eq!(refused.header("x-ratelimit-api_key-limit-requests"), Some("100"));
    let resets_in: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&resets_in), "{resets_in}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_client_of_one_gateway_gets_all_of_the_limit_without_asking_redis_for_each_call() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 3, limited(json!({"requestsPerMinute": 400}))).await;
    // The others have some of it, which they do not use.
    for at in [1, 2] {
        fleet.call(at).send().await.expect(200);
    }
    let before = number(&fleet.gateways[0], "tollgate_rates_seconds_count").await.expect("a number");
    let began = Instant::now();
    for used in 1..=300 {
        let reply = fleet.call(0).send().await.expect(200);
        assert!(left(&reply, "requests") <= 400 - used, "{} after {used}", left(&reply, "requests"));
    }
    let asked = number(&fleet.gateways[0], "tollgate_rates_seconds_count").await.expect("a number") - before;
    // Where nothing is asked it looks every 50 ms whether somebody waits.
    let looks = began.elapsed().as_millis() as f64 / 50.0 + 2.0;
    assert!(asked < looks + 60.0, "{asked} in {looks} looks");
    for _ in 0..98 {
        fleet.call(0).send().await.expect(200);
    }
    for at in [0, 1, 2] {
        let refused = fleet.call(at).send().await.expect(429);
        assert_eq!(left(&refused, "requests"), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn tokens_are_reserved_and_corrected_over_all_gateways() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet =
        Fleet::start(&redis, 2, limited(json!({"tokensPerMinute": 10_000, "outputTokensPerMinute": 9_000}))).await;
    let ask = async |at: usize, most: u64| {
        let mut body = body();
        body["max_tokens"] = json!(most);
        fleet.gateways[at].post("/v1/chat/completions").key(KEY).json(&body).send().await
    };
    // What was reserved of a small answer and not used comes free again, at the other gateway too, in a moment.
    let mut took = Vec::new();
    for _ in 0..4 {
        for at in [0, 1] {
            let served = async {
                while ask(at, 8_000).await.status == 429 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let began = Instant::now();
            patiently("what came free", served).await;
            took.push(began.elapsed());
        }
    }
    took.sort();
    // Of the eight only the first has nothing to wait for.
    assert!(took[4] < Duration::from_millis(900), "before it would be told anyway: {took:?}");
    let refused = ask(0, 9_500).await.expect(429);
    assert_eq!(refused.header("rate_limit_type"), Some("output_tokens"));
    fleet.stop().await;
}

#[tokio::test]
async fn places_are_counted_over_all_gateways_and_those_of_one_that_died_come_free() {
    let Some(redis) = RedisServer::start([]) else { return };
    let mut fleet = Fleet::start(&redis, 2, limited(json!({"parallelRequests": 4}))).await;
    fleet.mock.script("up-m", [Step::usual().gate("open").repeat(4)]);
    let calls: Vec<_> = [0, 0, 1, 1].into_iter().map(|at| tokio::spawn(fleet.call(at).try_send())).collect();
    fleet.mock.wait_at_gate("open", 4).await;
    for at in [0, 1] {
        let refused = fleet.call(at).send().await.expect(429);
        assert_eq!(refused.header("rate_limit_type"), Some("max_parallel_requests"));
        assert_eq!(left(&refused, "max_parallel_requests"), 0);
    }
    fleet.gateways[1].kill().await;
    let began = Instant::now();
    let free = async {
        while fleet.call(0).send().await.status == 429 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("a place of the one that died", free).await;
    assert!(began.elapsed() > Duration::from_secs(10), "not before its lease has ended: {:?}", began.elapsed());
    fleet.mock.open_gate("open");
    let mut ended = Vec::new();
    for call in calls {
        ended.push(call.await.expect("it ends").map(|reply| reply.status).ok());
    }
    assert_eq!(ended, [Some(200), Some(200), None, None]);
    fleet.gateways[0].stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_takes_no_more_with_it_than_it_held() {
    let Some(redis) = RedisServer::start([]) else { return };
    let mut fleet = Fleet::start(&redis, 3, limited(json!({"requestsPerMinute": 120}))).await;
    let began = Instant::now();
    let first = fleet.crowd(9, 4).await;
    assert_eq!(first, 36);
    fleet.gateways[2].kill().await;
    let dead = fleet.gateways.pop();
    let rest = async {
        let mut rest = 0;
        // What it held counts as used soon, and nobody waits for it any more.
        loop {
            let more = fleet.crowd(4, 10).await;
            rest += more;
            if more == 0 && began.elapsed() > Duration::from_secs(5) {
                return rest;
            }
        }
    };
    let rest = patiently("the rest of the limit", rest).await;
    let all = first + rest;
    assert!(all <= 120, "{all}");
    assert!(all >= 120 - 60, "{all}: it held half of the limit at most");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    let mut took = Vec::new();
    for _ in 0..9 {
        let refused = Instant::now();
        fleet.call(0).send().await.expect(429);
        took.push(refused.elapsed());
    }
    took.sort();
    assert!(took[4] < Duration::from_secs(1), "nobody waits for what is lost: {took:?}");
    drop(dead);
    fleet.stop().await;
}

#[tokio::test]
async fn one_that_stops_in_good_order_gives_back_what_it_did_not_use() {
    let Some(redis) = RedisServer::start([]) else { return };
    let mut fleet = Fleet::start(&redis, 2, limited(json!({"requestsPerMinute": 50}))).await;
    let began = Instant::now();
    fleet.call(1).send().await.expect(200);
    fleet.gateways[1].stop().await;
    fleet.gateways.pop();
    assert_eq!(fleet.crowd(6, 10).await, 49);
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn without_redis_each_gateway_lets_its_part_through_and_nothing_fails() {
    let Some(mut redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, limited(json!({"requestsPerMinute": 40}))).await;
    redis.kill();
    let began = Instant::now();
    let first = fleet.call(0).send().await.expect(200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(first.header("x-ratelimit-api_key-limit-requests"), Some("40"));
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_exact 0").await;
        assert!(gateway.log().contains("does not answer about rate limits"), "{}", gateway.log());
    }
    assert_eq!(fleet.crowd(8, 10).await + 1, 40, "half of the limit each");
    redis.restart();
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_exact 1").await;
    }
    // What was let through alone counts.
    assert_eq!(fleet.crowd(4, 3).await, 0);
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn a_redis_that_has_lost_everything_is_told_again() {
    let Some(mut redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, limited(json!({"requestsPerMinute": 40}))).await;
    let began = Instant::now();
    assert_eq!(fleet.crowd(4, 5).await, 20);
    redis.restart();
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_lost_total 1").await;
        wait_for(gateway, "tollgate_rates_exact 1").await;
    }
    assert_eq!(fleet.crowd(6, 10).await, 20, "twenty were used before");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn a_redis_that_hangs_keeps_nobody_waiting_for_long() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, limited(json!({"requestsPerMinute": 40}))).await;
    redis.pause();
    let began = Instant::now();
    let served = fleet.crowd(8, 10).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(served, 40);
    redis.resume();
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_exact 1").await;
        assert!(gateway.log().contains("answers about rate limits again"), "{}", gateway.log());
    }
    fleet.stop().await;
}

#[tokio::test]
async fn a_deployment_has_one_limit_and_is_passed_over_when_it_is_used_up() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, |mock| {
        let small = objects::deployment("small", mock).set("spec.limits", json!({"requestsPerMinute": 10}));
        let large = objects::deployment("large", mock).set("spec.priority", 1);
        vec![small.set("spec.modelNames", json!(["m"])), large.set("spec.modelNames", json!(["m"]))]
    })
    .await;
    for at in 0..20 {
        fleet.call(at % 2).send().await.expect(200);
    }
    let asked = |name: &str| fleet.mock.requests().iter().filter(|seen| seen.json()["model"] == name).count();
    assert_eq!([asked("up-small"), asked("up-large")], [10, 10]);
    fleet.stop().await;
}

/// One deployment with limits, and keys of two classes (`shop`, `nightly`) and of none (`toy`): 70, 5 and 25 %.
fn classes(limits: Value) -> impl FnOnce(&Mock) -> Vec<Object> {
    |mock| {
        let stores = json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}});
        let classes = json!([{"name": "production", "sharePercent": 70}, {"name": "batch", "sharePercent": 5}]);
        let key = |name: &str| objects::key(name, &objects::key_text(name));
        vec![
            objects::deployment("m", mock).set("spec.limits", limits),
            objects::gateway().set("spec.stores", stores).set("spec.priorities", classes),
            key("shop").set("spec.priority", "production"),
            key("nightly").set("spec.priority", "batch"),
            key("toy"),
        ]
    }
}

/// How many of `count` calls with a key are let in, by these gateways in turn.
async fn let_in(fleet: &Fleet, gateways: &[usize], key: &str, count: usize) -> usize {
    let mut served = 0;
    for call in 0..count {
        let call = fleet.call(gateways[call % gateways.len()]).key(&objects::key_text(key));
        match call.send().await.status {
            200 => served += 1,
            429 => {}
            other => panic!("status {other}"),
        }
    }
    served
}

#[tokio::test]
async fn classes_have_their_shares_of_the_limit_whichever_gateway_they_call() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, classes(json!({"requestsPerMinute": 20}))).await;
    let began = Instant::now();
    assert_eq!(let_in(&fleet, &[0, 1], "shop", 30).await, 16, "more than its share while it is not scarce");
    assert_eq!(let_in(&fleet, &[0, 1], "nightly", 6).await, 1, "one in all, not one of each gateway");
    assert_eq!(let_in(&fleet, &[1], "toy", 4).await, 3, "of its five what is left, by one gateway");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn a_class_of_one_gateway_has_its_whole_share_of_tokens() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, classes(json!({"tokensPerMinute": 10_000}))).await;
    fleet.mock.script("up-m", [Step::usage("x", Tokens::new(10, 490)).repeat(30)]);
    let began = Instant::now();
    let ask = async |at: usize, key: &str| {
        let mut body = body();
        body["max_tokens"] = json!(490);
        let call = fleet.gateways[at].post("/v1/chat/completions").key(&objects::key_text(key)).json(&body);
        call.send().await.status
    };
    let mut served = [0, 0];
    for call in 0..24 {
        served[0] += usize::from(ask(call % 2, "nightly").await == 200);
    }
    for _ in 0..6 {
        served[1] += usize::from(ask(1, "toy").await == 200);
    }
    assert_eq!(served, [16, 3], "500 tokens each; a call reserves some more");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn a_class_of_one_gateway_has_its_whole_share_of_places() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, classes(json!({"parallelRequests": 20}))).await;
    fleet.mock.script("up-m", [Step::usual().gate("open").repeat(20)]);
    // Whether the call has got the place.
    let fill = async |calls: &mut Vec<_>, at: usize, key: &str, gate: &str, places: usize| {
        let mut call = tokio::spawn(fleet.call(at).key(&objects::key_text(key)).try_send());
        tokio::select! {
            () = fleet.mock.wait_at_gate(gate, places) => {
                calls.push(call);
                true
            }
            ended = &mut call => {
                ended.expect("it ends").expect("an answer").expect(429);
                false
            }
        }
    };
    let mut calls = Vec::new();
    for places in 1..=16 {
        assert!(fill(&mut calls, places % 2, "nightly", "open", places).await, "{places}");
    }
    assert_eq!(let_in(&fleet, &[0, 1], "nightly", 2).await, 0, "it has borrowed what it may");
    for places in 17..=20 {
        assert!(fill(&mut calls, 1, "toy", "open", places).await, "{places}");
    }
    assert_eq!(let_in(&fleet, &[0, 1], "shop", 2).await, 0, "nothing is left");
    fleet.mock.open_gate("open");
    for call in calls {
        assert_eq!(call.await.expect("it ends").expect("an answer").status, 200);
    }
    fleet.mock.script("up-m", [Step::usual().gate("again").repeat(16)]);
    let mut calls = Vec::new();
    for places in 1..=16 {
        // For a tenth of a second a gateway may believe that places are taken which came free at the other one.
        let place = async { while !fill(&mut calls, places % 2, "shop", "again", places).await {} };
        patiently("a place that came free", place).await;
    }
    let place = async {
        while let_in(&fleet, &[1], "nightly", 1).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("a place of its share, since all that it had borrowed came free", place).await;
    fleet.mock.open_gate("again");
    for call in calls {
        assert_eq!(call.await.expect("it ends").expect("an answer").status, 200);
    }
    fleet.stop().await;
}

#[tokio::test]
async fn many_clients_of_a_class_leave_the_others_theirs() {
    let Some(redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, classes(json!({"requestsPerMinute": 400}))).await;
    let began = Instant::now();
    assert_eq!(fleet.crowd_with(&objects::key_text("nightly"), &[0, 1], 20, 30).await, 320, "what is not scarce");
    assert_eq!(fleet.crowd_with(&objects::key_text("toy"), &[1], 20, 10).await, 80, "what is left, within its share");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn without_redis_a_class_has_its_share_of_what_a_gateway_lets_through() {
    let Some(mut redis) = RedisServer::start([]) else { return };
    let fleet = Fleet::start(&redis, 2, classes(json!({"requestsPerMinute": 40}))).await;
    redis.kill();
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_exact 0").await;
    }
    let began = Instant::now();
    assert_eq!(let_in(&fleet, &[0, 1], "nightly", 40).await, 32, "four fifths of twenty each");
    assert_eq!(let_in(&fleet, &[1], "toy", 10).await, 4, "what is left of twenty");
    redis.restart();
    for gateway in &fleet.gateways {
        wait_for(gateway, "tollgate_rates_exact 1").await;
    }
    assert_eq!(let_in(&fleet, &[0, 1], "nightly", 4).await, 0, "what it got meanwhile counts");
    assert_eq!(let_in(&fleet, &[1], "toy", 10).await, 4, "the rest of the limit is within its share");
    assert!(began.elapsed() < Duration::from_secs(60), "all of it was one window");
    fleet.stop().await;
}

#[tokio::test]
async fn an_end_user_has_one_limit_over_all_gateways() {
    let Some(redis) = RedisServer::start([]) else { return };
    let rules = json!([{"name": "customers", "per": "EndUser", "requestsPerMinute": 10}]);
    let stores = json!({"redis": {"secretRef": {"name": "redis", "key": "api-key"}}});
    let fleet = Fleet::start(&redis, 2, |mock| {
        let gateway = objects::gateway().set("spec.stores", stores).set("spec.rateLimits", rules);
        vec![objects::deployment("m", mock), gateway]
    })
    .await;
    let ask = async |at: usize, user: &str| fleet.call(at).header("x-litellm-end-user-id", user).send().await.status;
    let mut served = 0;
    for at in 0..24 {
        served += usize::from(ask(at % 2, "customer #1").await == 200);
    }
    assert_eq!(served, 10);
    assert_eq!([ask(0, "customer #2").await, ask(1, "customer #2").await], [200, 200]);
    fleet.stop().await;
}
