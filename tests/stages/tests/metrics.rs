//! `/metrics`: names that LiteLLM's dashboards know, our own, and labels that stay bounded (issue part 11).

use std::collections::{BTreeMap, BTreeSet};

use tollgate_harness::{KEY, Stage, Step, Tokens, json, objects};

/// One sample.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The text format, read as strictly as promtool does.
struct Exposition {
    kinds: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

fn name_is_valid(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_' || first == ':')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {text}"));
        assert!(name_is_valid(name) && !name.contains(':') && !name.starts_with("__"), "{name}");
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("a value without an end: {text}")) {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, letter @ ('\\' | '"'))) => value.push(letter),
                    other => panic!("a bad escape {other:?}: {text}"),
                },
                (_, letter) => value.push(letter),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} twice: {text}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

fn read(text: &str) -> Exposition {
    assert!(text.ends_with('\n'), "the last line must end");
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples: Vec<Sample> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut closed: BTreeSet<String> = BTreeSet::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap_or_default();
            assert!(helped.insert(name.to_owned()), "two helps of {name}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "two types of {name}");
            assert!(closed.insert(name.to_owned()), "{name} is in two places");
            family = name.to_owned();
            continue;
        }
        assert!(!line.is_empty() && !line.starts_with('#'), "{line:?}");
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
        assert!(value.is_finite(), "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))),
            None => (series, BTreeMap::new()),
        };
        assert!(name_is_valid(name), "{name}");
        let kind = kinds.get(&family).unwrap_or_else(|| panic!("no type before {line}"));
        let base = if kind == "histogram" {
            name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count")
        } else {
            name
        };
        assert_eq!(base, family, "a sample outside its family: {line}");
        if kind == "counter" {
            assert!(name.ends_with("_total"), "a counter's name ends with _total: {name}");
            assert!(value >= 0.0, "{line}");
        }
        assert!(seen.insert(series.to_owned()), "the same series twice: {line}");
        samples.push(Sample { name: name.to_owned(), labels, value });
    }
    for name in kinds.keys() {
        assert!(helped.contains(name), "{name} has no help");
    }
    let exposition = Exposition { kinds, samples };
    exposition.check_histograms();
    exposition
}

impl Exposition {
    fn check_histograms(&self) {
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for sample in self.samples.iter().filter(|sample| sample.name == format!("{name}_bucket")) {
                let mut labels = sample.labels.clone();
                let bound = match labels.remove("le").expect("buckets have a bound").as_str() {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().expect("a bound is a number"),
                };
                series.entry(format!("{labels:?}")).or_default().push((bound, sample.value));
            }
            for buckets in series.values() {
                assert!(
                    buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1),
                    "{name}: {buckets:?}"
                );
                assert_eq!(buckets.last().map(|bucket| bucket.0), Some(f64::INFINITY), "{name}");
            }
        }
    }

    fn sum(&self, name: &str, only: &[(&str, &str)]) -> f64 {
        let wanted = |sample: &&Sample| {
            sample.name == name
                && only.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|known| known == value))
        };
        self.samples.iter().filter(wanted).map(|sample| sample.value).sum()
    }

    fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

#[tokio::test]
async fn the_text_is_valid_before_and_after_calls_whatever_names_are() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock).set("spec.modelNames", json!(["m", "quote\"back\\slash"])),
            objects::team("squad"),
            objects::key("member", &objects::key_text("member"))
                .set("spec.teamRef", json!({"name": "squad"}))
                .set("spec.budget", json!({"limit": "5", "period": {"calendar": "Day"}})),
        ]
    })
    .await;
    let reply = stage.gateway.get("/metrics").send().await.expect(200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    read(&reply.text());
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.chat("quote\"back\\slash").send().await;
    stage.gateway.chat("m").key(&objects::key_text("member")).send().await.expect(200);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    stage.mock.script("up-m", [Step::error(400)]);
    stage.gateway.chat("m").send().await.expect(400);
    read(&stage.gateway.metrics().await);
    stage.finish().await;
}

#[tokio::test]
async fn names_that_litellms_dashboards_know_are_there() {
    let stage = Stage::one().await;
    stage.mock.script(
        "up-m",
        [Step::usage("x", Tokens { input: 100, output: 20, cache_read: 30, ..Tokens::default() }).repeat(2)],
    );
    stage.gateway.chat("m").send().await.expect(200);
    stage.gateway.chat_stream("m").stream().await.rest().await;
    stage.mock.script("up-m", [Step::error(400)]);
    stage.gateway.chat("m").send().await.expect(400);
    let metrics = read(&stage.gateway.metrics().await);
    let of_model = [("requested_model", "m")];
    assert_eq!(metrics.sum("litellm_proxy_total_requests_metric_total", &of_model), 3.0);
    assert_eq!(metrics.sum("litellm_proxy_failed_requests_metric_total", &of_model), 1.0);
    assert_eq!(metrics.sum("litellm_input_tokens_metric_total", &of_model), 200.0);
    assert_eq!(metrics.sum("litellm_output_tokens_metric_total", &of_model), 40.0);
    assert_eq!(metrics.sum("litellm_total_tokens_metric_total", &of_model), 240.0);
    let each = (70 * 2_500 + 30 * 250 + 20 * 10_000) as f64 / 1e9;
    assert!((metrics.sum("litellm_spend_metric_total", &of_model) - 2.0 * each).abs() < 1e-12);
    for name in [
        "litellm_request_total_latency_metric",
        "litellm_llm_api_latency_metric",
        "litellm_llm_api_time_to_first_token_metric",
        "litellm_overhead_latency_metric",
    ] {
        assert!(
            metrics.has(&format!("{name}_bucket"))
                && metrics.has(&format!("{name}_sum"))
                && metrics.has(&format!("{name}_count")),
            "{name}"
        );
    }
    for name in [
        "litellm_deployment_state",
        "litellm_in_flight_requests",
        "tollgate_requests_total",
        "tollgate_spend_usd_total",
        "tollgate_config_generation",
        "tollgate_build_info",
    ] {
        assert!(metrics.has(name), "{name}");
    }
    assert_eq!(metrics.sum("litellm_in_flight_requests", &[]), 0.0);
    stage.finish().await;
}

#[tokio::test]
async fn what_clients_write_never_becomes_a_label() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::deployment("any", mock).set("spec.modelNames", json!(["wild/*"])).set("spec.model", "up-any~*"),
        ]
    })
    .await;
    for round in 0..30 {
        stage.gateway.chat(&format!("unknown-{round}")).send().await.expect(400);
        stage
            .gateway
            .chat(&format!("wild/matched-{round}"))
            .header("x-litellm-end-user-id", &format!("enduser-{round}"))
            .send()
            .await
            .expect(200);
        stage.gateway.post(&format!("/v1/nowhere-{round}")).key(KEY).send().await.expect(404);
        stage
            .gateway
            .chat("m")
            .key(&format!("sk-nokey-{round}-0123456789abcdef"))
            .header("x-litellm-tags", &format!("tag-{round}"))
            .send()
            .await
            .expect(401);
    }
    let text = stage.gateway.metrics().await;
    for word in ["unknown-", "matched-", "nowhere-", "enduser-", "nokey-", "tag-"] {
        assert!(!text.contains(word), "{word} became a label");
    }
    let before = read(&text).samples.len();
    for round in 30..60 {
        stage.gateway.chat(&format!("unknown-{round}")).send().await.expect(400);
        stage.gateway.chat(&format!("wild/matched-{round}")).send().await.expect(200);
    }
    assert_eq!(read(&stage.gateway.metrics().await).samples.len(), before, "no series more");
    stage.finish().await;
}

#[tokio::test]
async fn budgets_show_what_is_spent_and_held() {
    let stage = Stage::start(|mock| {
        vec![
            objects::deployment("m", mock),
            objects::caller().set("spec.budget", json!({"limit": "5", "period": {"calendar": "Day"}})),
        ]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(100, 20)), Step::usual().gate("open")]);
    stage.gateway.chat("m").send().await.expect(200);
    let metrics = read(&stage.gateway.metrics().await);
    assert!((metrics.sum("tollgate_budget_spent", &[]) - 0.00045).abs() < 1e-12);
    assert_eq!((metrics.sum("tollgate_budget_limit", &[]), metrics.sum("tollgate_budget_held", &[])), (5.0, 0.0));
    let call = tokio::spawn(stage.gateway.chat("m").send());
    stage.mock.wait_at_gate("open", 1).await;
    let metrics = read(&stage.gateway.metrics().await);
    assert!(metrics.sum("tollgate_budget_held", &[]) > 0.0);
    assert_eq!(metrics.sum("tollgate_in_flight_requests", &[]), 1.0);
    stage.mock.open_gate("open");
    call.await.expect("it ends").expect(200);
    assert_eq!(read(&stage.gateway.metrics().await).sum("tollgate_budget_held", &[]), 0.0);
    stage.finish().await;
}
