//! Where the usage was not seen, or cannot be true: every attempt has its row, and the row says what it is. Each case runs
//! at deployments of its own, once under a Hard budget and once under a Soft one, so that a row names its case.

use std::collections::BTreeMap;

use tollgate_harness::{
    Action, Call, Cut, CutHow, Gateway, Mock, Object, Options, Redirect, Reply, SpendRow, Stage, Starter, Step, Tokens,
    ToolCall, UsageAt, UsageScript, Value, json, objects,
};
use tollgate_money_tests::books::{Books, Mode, deployment_of};
use tollgate_money_tests::gauges::{budget, wait_until_idle};
use tollgate_money_tests::setup::{caller, chat, hard, key, soft, streamed, tries_once};

/// What a client does with its call.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// Reads all there is.
    Stays,
    /// Hangs up when the provider has the request, before any header.
    LeavesBeforeHeaders,
    /// Hangs up after two events.
    LeavesMidStream,
}

struct Case {
    name: &'static str,
    stream: bool,
    anthropic: bool,
    step: Step,
    client: Client,
    hard: &'static [&'static str],
    soft: &'static [&'static str],
}

const UNKNOWN: &[&str] = &["charged"];
const COUNTED: &[&str] = &["estimated"];
const EXACT: &[&str] = &["exact"];
const FREE: &[&str] = &["released"];

fn case(
    name: &'static str,
    step: impl Into<Step>,
    hard: &'static [&'static str],
    soft: &'static [&'static str],
) -> Case {
    Case { name, stream: false, anthropic: false, step: step.into(), client: Client::Stays, hard, soft }
}

impl Case {
    fn stream(self) -> Case {
        Case { stream: true, ..self }
    }

    fn anthropic(self) -> Case {
        Case { anthropic: true, ..self }
    }

    fn client(self, client: Client) -> Case {
        Case { client, ..self }
    }

    fn deployment(&self, mode: Mode) -> String {
        format!("{}-{}", self.name, if mode == Mode::Hard { "hard" } else { "soft" })
    }

    fn call(&self, gateway: &Gateway, mode: Mode) -> Call {
        let name = self.deployment(mode);
        let body = json!({"model": name, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]});
        let body = if self.stream { streamed(body) } else { body };
        let key = objects::key_text(if mode == Mode::Hard { "hard" } else { "soft" });
        let path = if self.anthropic { "/v1/messages" } else { "/v1/chat/completions" };
        gateway.post(path).key(&key).header("anthropic-version", "2023-06-01").json(&body)
    }
}

fn reply() -> Reply {
    Reply { chunks: Some(6), ..Reply::default() }
}

fn cut(after_events: usize, how: CutHow) -> Option<Cut> {
    Some(Cut { after_events: Some(after_events), how, ..Cut::default() })
}

fn torn(after_bytes: usize, how: CutHow) -> Step {
    Reply { cut: Some(Cut { after_bytes: Some(after_bytes), how, ..Cut::default() }), ..Reply::default() }.into()
}

fn usage(value: Value) -> Reply {
    Reply { usage: UsageScript::Raw(value), ..reply() }
}

fn openai_usage(input: Value, output: Value) -> Reply {
    usage(json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": 10}))
}

/// Usages that cannot be true, by name.
fn absurd() -> Vec<(&'static str, Reply)> {
    vec![
        ("negative-input", openai_usage(json!(-5), json!(5))),
        ("negative-output", openai_usage(json!(5), json!(-5))),
        ("huge", openai_usage(json!(9_000_000_000_000_000_000_u64), json!(5))),
        ("beyond", openai_usage(json!(1e300), json!(5))),
        ("fraction", openai_usage(json!(1.5), json!(5))),
        ("text", openai_usage(json!("12"), json!("5"))),
        (
            "more-cached",
            usage(json!({"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 50}})),
        ),
        (
            "more-thought",
            usage(
                json!({"prompt_tokens": 5, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 50}}),
            ),
        ),
        ("zeros", openai_usage(json!(0), json!(0))),
        ("no-input", openai_usage(json!(0), json!(5))),
        ("no-output", openai_usage(json!(5), json!(0))),
        ("untold-output", usage(json!({"prompt_tokens": 5, "total_tokens": 5}))),
        ("null", usage(Value::Null)),
        ("list", usage(json!([1, 2]))),
        ("empty", usage(json!({}))),
    ]
}

fn named(prefix: &str, name: &str) -> &'static str {
    format!("{prefix}-{name}").leak()
}

/// Answers of a tool's call and nothing else, with a usage that leaves out their output.
fn calls_a_tool(usage: Value) -> Reply {
    let call = ToolCall { name: "now".into(), ..ToolCall::default() };
    Reply { text: Some(String::new()), tool_calls: vec![call], usage: UsageScript::Raw(usage), ..Reply::default() }
}

/// Zeros that are true.
fn zero_cases() -> Vec<Case> {
    let cached = Tokens { cache_read: 50, ..Tokens::new(50, 5) };
    let empty = Step::usage("", Tokens::new(5, 0));
    vec![
        case("z-empty", empty.clone(), EXACT, EXACT),
        case("z-empty-stream", empty.clone(), EXACT, EXACT).stream(),
        case("z-a-empty", empty, EXACT, EXACT).anthropic(),
        case("z-a-cached", Step::usage("x", cached), EXACT, EXACT).anthropic(),
        case("z-a-cached-stream", Step::usage("x", cached), EXACT, EXACT).anthropic().stream(),
    ]
}

fn usage_cases() -> Vec<Case> {
    let anthropic_zeros = usage(json!({"input_tokens": 0, "output_tokens": 0}));
    let anthropic_input = usage(json!({"input_tokens": 5, "output_tokens": 0}));
    let anthropic_untold = usage(json!({"input_tokens": 5}));
    let mut cases = vec![
        case("tool", calls_a_tool(json!({"prompt_tokens": 5, "completion_tokens": 0})), UNKNOWN, COUNTED),
        case("tool-stream", calls_a_tool(json!({"prompt_tokens": 5, "completion_tokens": 0})), UNKNOWN, COUNTED)
            .stream(),
        case("a-tool", calls_a_tool(json!({"input_tokens": 5, "output_tokens": 0})), UNKNOWN, COUNTED).anthropic(),
        case("a-tool-stream", calls_a_tool(json!({"input_tokens": 5, "output_tokens": 0})), UNKNOWN, COUNTED)
            .anthropic()
            .stream(),
        case("a-zeros", anthropic_zeros.clone(), UNKNOWN, COUNTED).anthropic(),
        case("a-zeros-stream", anthropic_zeros, UNKNOWN, COUNTED).anthropic().stream(),
        case("a-no-output", anthropic_input.clone(), UNKNOWN, COUNTED).anthropic(),
        case("a-no-output-stream", anthropic_input, UNKNOWN, COUNTED).anthropic().stream(),
        case("a-untold", anthropic_untold.clone(), UNKNOWN, COUNTED).anthropic(),
        case("a-untold-stream", anthropic_untold, UNKNOWN, COUNTED).anthropic().stream(),
        case("missing", Reply { usage: UsageScript::Missing, ..reply() }, UNKNOWN, COUNTED),
        case("missing-stream", Reply { usage: UsageScript::Missing, ..reply() }, UNKNOWN, COUNTED).stream(),
        // The whole usage, once: believed only where nothing contradicts that it is the last word.
        case("first", Reply { usage_at: UsageAt::First, ..reply() }, &["exact", "charged"], &["exact", "estimated"])
            .stream(),
        case("every", Reply { usage_at: UsageAt::Every, ..reply() }, EXACT, EXACT).stream(),
        case("twice", Reply { usage_at: UsageAt::Twice, ..reply() }, EXACT, EXACT).stream(),
        case("two-done", Reply { done: Some(2), ..reply() }, EXACT, EXACT).stream(),
        case("no-done", Reply { done: Some(0), ..reply() }, EXACT, EXACT).stream(),
        case("after-done", Reply { after_done: Some("{\"x\":1}".into()), ..reply() }, EXACT, EXACT).stream(),
        case("a-missing", Reply { usage: UsageScript::Missing, ..reply() }, UNKNOWN, COUNTED).anthropic(),
        case("a-missing-stream", Reply { usage: UsageScript::Missing, ..reply() }, UNKNOWN, COUNTED)
            .anthropic()
            .stream(),
        case("a-every", Reply { usage_at: UsageAt::Every, ..reply() }, EXACT, EXACT).anthropic().stream(),
        case("a-twice", Reply { usage_at: UsageAt::Twice, ..reply() }, EXACT, EXACT).anthropic().stream(),
        case("a-negative", usage(json!({"input_tokens": -1, "output_tokens": 3})), UNKNOWN, COUNTED).anthropic(),
        case("a-text", usage(json!({"input_tokens": "1", "output_tokens": 3})), UNKNOWN, COUNTED).anthropic(),
        case(
            "a-huge",
            usage(json!({"input_tokens": 1, "output_tokens": 9_000_000_000_000_000_000_u64})),
            UNKNOWN,
            COUNTED,
        )
        .anthropic()
        .stream(),
    ];
    for (name, reply) in absurd() {
        cases.push(case(named("u", name), reply.clone(), UNKNOWN, COUNTED));
        cases.push(case(named("s", name), reply, UNKNOWN, COUNTED).stream());
    }
    cases
}

fn broken_cases() -> Vec<Case> {
    let raw = |text: &str| Step::raw(text.to_owned());
    let body = |text: &'static str| Reply { body: Some(text.into()), ..Reply::default() };
    let html = Reply { content_type: Some("text/html".into()), ..body("<html>Sorry</html>") };
    let redirect = Redirect { location: "http://127.0.0.1:9/elsewhere".into(), status: None };
    vec![
        case("close", Step::close(), UNKNOWN, COUNTED),
        case("reset", Step::reset(), UNKNOWN, COUNTED),
        case("close-stream", Step::close(), UNKNOWN, COUNTED).stream(),
        case("torn-close", torn(20, CutHow::Close), UNKNOWN, COUNTED),
        case("torn-reset", torn(20, CutHow::Reset), UNKNOWN, COUNTED),
        case("torn-headers", torn(0, CutHow::Close), UNKNOWN, COUNTED),
        case("shorter", Reply { content_length: Some(9000), ..reply() }, UNKNOWN, COUNTED),
        case("garbage", body("this is not JSON"), UNKNOWN, COUNTED),
        case("half-json", body("{\"choices\": ["), UNKNOWN, COUNTED),
        case("list", body("[1]"), UNKNOWN, COUNTED),
        case("html", html.clone(), UNKNOWN, COUNTED),
        case("html-stream", html, UNKNOWN, COUNTED).stream(),
        case("no-http", raw("HELO there\r\n\r\n"), UNKNOWN, COUNTED),
        case("half-head", raw("HTTP/1.1 200 OK\r\ncontent-ty"), UNKNOWN, COUNTED),
        case("half-error", raw("HTTP/1.1 500 Oh\r\ncontent-length: 100\r\n\r\n{\"err"), UNKNOWN, COUNTED),
        case("zipped", Reply { gzip: true, ..reply() }, UNKNOWN, COUNTED),
        case("redirect", Step::from(Action::Redirect(redirect)), UNKNOWN, COUNTED),
        case("bad-request", Step::error(400), FREE, FREE),
        case("limited", Step::error(429), FREE, FREE),
        case("server-error", Step::error(500), FREE, FREE),
        case("server-error-stream", Step::error(503), FREE, FREE).stream(),
        case("overloaded", Step::error(529), FREE, FREE).anthropic().stream(),
        case("s-close", Reply { cut: cut(3, CutHow::Close), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-reset", Reply { cut: cut(3, CutHow::Reset), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-finish", Reply { cut: cut(3, CutHow::Finish), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-error", Reply { cut: cut(3, CutHow::Error), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-error-first", Reply { cut: cut(0, CutHow::Error), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-nothing", Reply { cut: cut(0, CutHow::Finish), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("s-silent", Reply { cut: cut(2, CutHow::Hang), ..reply() }, UNKNOWN, COUNTED).stream(),
        case("hang", Step::hang(), UNKNOWN, COUNTED),
        case("hang-stream", Step::hang(), UNKNOWN, COUNTED).stream(),
        case("hang-headers", Reply { cut: cut(0, CutHow::Hang), ..reply() }, UNKNOWN, COUNTED).stream(),
        // Its first event tells the input and one token of output: half a truth.
        case("a-close", Reply { cut: cut(4, CutHow::Close), ..reply() }, UNKNOWN, COUNTED).anthropic().stream(),
        case("a-finish", Reply { cut: cut(4, CutHow::Finish), ..reply() }, UNKNOWN, COUNTED).anthropic().stream(),
        case("a-error", Reply { cut: cut(4, CutHow::Error), ..reply() }, UNKNOWN, COUNTED).anthropic().stream(),
        case("a-silent", Reply { cut: cut(4, CutHow::Hang), ..reply() }, UNKNOWN, COUNTED).anthropic().stream(),
        // A usage in every chunk, and cut: what was said last is not all.
        case(
            "every-close",
            Reply { usage_at: UsageAt::First, cut: cut(3, CutHow::Close), ..reply() },
            UNKNOWN,
            COUNTED,
        )
        .stream(),
    ]
}

fn leaving_cases() -> Vec<Case> {
    let gate = |name: &str| Step::usual().gate(name);
    let paused = |name: &str| Reply { cut: cut(3, CutHow::Gate(name.into())), ..reply() };
    let left = Client::LeavesMidStream;
    let early = Client::LeavesBeforeHeaders;
    vec![
        case("early", gate("go"), EXACT, EXACT).client(early),
        case("early-stream", gate("go"), EXACT, &["exact", "estimated"]).stream().client(early),
        case("early-close", Step::close().gate("go"), UNKNOWN, COUNTED).client(early),
        case("early-error", Step::error(500).gate("go"), FREE, FREE).client(early),
        case("mid", paused("go"), EXACT, COUNTED).stream().client(left),
        case("mid-missing", Reply { usage: UsageScript::Missing, ..paused("go") }, UNKNOWN, COUNTED)
            .stream()
            .client(left),
        case("mid-anthropic", paused("go"), EXACT, COUNTED).anthropic().stream().client(left),
        case("mid-no-done", Reply { done: Some(0), ..paused("go") }, &["exact", "charged"], COUNTED)
            .stream()
            .client(left),
    ]
}

fn deployments(mock: &Mock, cases: &[Case]) -> Vec<Object> {
    let both = |case: &Case| {
        [Mode::Hard, Mode::Soft].map(|mode| {
            let name = case.deployment(mode);
            if case.anthropic { objects::anthropic(&name, mock) } else { objects::deployment(&name, mock) }
        })
    };
    cases.iter().flat_map(both).collect()
}

/// Short clocks for what hangs, and enough of everything else.
fn gateway() -> Object {
    tries_once().set("spec.defaults.timeouts", json!({"idle": "400ms", "total": "1500ms"}))
}

/// Runs every case under both budgets and compares the outcome of each attempt, all at once at the end.
async fn run(cases: Vec<Case>, gateway: Object) {
    let mut stage = Stage::start_with(Starter::default(), Options::default(), |mock| {
        let keys = [key("hard", hard("10")), key("soft", soft("10")), gateway];
        deployments(mock, &cases).into_iter().chain(keys).collect()
    })
    .await;
    for case in &cases {
        for mode in [Mode::Hard, Mode::Soft] {
            stage.mock.script(format!("up-{}", case.deployment(mode)), [case.step.clone()]);
        }
    }
    let calls = cases.iter().flat_map(|case| [(case, Mode::Hard), (case, Mode::Soft)]).map(|(case, mode)| {
        let call = case.call(&stage.gateway, mode);
        (call, case.client)
    });
    let mut left = Vec::new();
    let mut staying = Vec::new();
    for (call, client) in calls {
        match client {
            Client::Stays => staying.push(tokio::spawn(call.try_send())),
            Client::LeavesBeforeHeaders => left.push(tokio::spawn(async move { drop(call.try_send().await) })),
            Client::LeavesMidStream => {
                let mut stream = call.stream().await;
                stream.next().await.expect("a first event");
                stream.next().await.expect("a second event");
                drop(stream);
            }
        }
    }
    if !left.is_empty() {
        stage.mock.wait_at_gate("go", left.len()).await;
        left.iter().for_each(tokio::task::JoinHandle::abort);
        for leaving in left {
            let _ = leaving.await;
        }
    }
    // Every client that leaves is seen to have left before the provider goes on.
    let leaving = 2 * cases.iter().filter(|case| case.client != Client::Stays).count();
    tollgate_money_tests::gauges::wait_for(&stage.gateway, "the gateway sees that clients left", |text| {
        tollgate_money_tests::gauges::sum(text, "tollgate_client_gone_total") >= leaving as f64
    })
    .await;
    stage.mock.open_gate("go");
    for staying in staying {
        // Whatever it gets, it is one whole answer or a broken connection, and within bounds.
        let _ = staying.await.expect("no client panics");
    }
    wait_until_idle(&stage.gateway).await;
    let (hard_gauge, soft_gauge) = (budget(&stage.gateway, "/hard").await, budget(&stage.gateway, "/soft").await);
    stage.gateway.stop().await;
    let rows = tollgate_harness::ledger_rows(stage.gateway.data());
    let mode = |name: &str| if name.ends_with("-hard") { Mode::Hard } else { Mode::Soft };
    let mut faults = Books::default().faults(&rows, &stage.mock.invoice(), mode);
    let mut by_deployment: BTreeMap<&str, Vec<&SpendRow>> = BTreeMap::new();
    for row in &rows {
        by_deployment.entry(deployment_of(row)).or_default().push(row);
    }
    for case in &cases {
        for (mode, expected) in [(Mode::Hard, case.hard), (Mode::Soft, case.soft)] {
            let name = case.deployment(mode);
            match by_deployment.get(&*name).map(Vec::as_slice) {
                Some([row]) if !expected.contains(&&*row.outcome) => {
                    faults.push(format!("{name}: expected {expected:?}, seen `{}`: {row:?}", row.outcome));
                }
                Some([row]) if row.outcome == "charged" && row.cost_nano_usd != row.held_nano_usd => {
                    faults.push(format!("{name}: charged, but not the hold: {row:?}"));
                }
                Some([_]) => {}
                rows => faults.push(format!("{name}: one row expected, seen {rows:?}")),
            }
        }
    }
    let spent = |key: &str| rows.iter().filter(|row| row.key.ends_with(key)).map(|row| row.cost_nano_usd).sum::<i64>();
    if (hard_gauge.spent, soft_gauge.spent) != (spent("hard"), spent("soft")) {
        faults.push(format!(
            "gauges {hard_gauge:?} {soft_gauge:?} are not the sums {} {}",
            spent("hard"),
            spent("soft")
        ));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[tokio::test]
async fn usage_that_is_missing_or_cannot_be_true() {
    run(usage_cases().into_iter().chain(zero_cases()).collect(), gateway()).await;
}

#[tokio::test]
async fn providers_that_break_off_hang_or_talk_nonsense() {
    run(broken_cases(), gateway()).await;
}

#[tokio::test]
async fn clients_that_leave() {
    run(leaving_cases(), tries_once()).await;
}

#[tokio::test]
async fn a_provider_that_stops_billing_is_cancelled_and_the_hold_is_charged() {
    let mut stage = Stage::start(|mock| {
        let vllm = objects::deployment("v", mock).set("spec.provider", "vllm");
        vec![vllm, tollgate_money_tests::setup::caller(hard("1"))]
    })
    .await;
    stage.mock.script("up-v", [Reply { cut: cut(3, CutHow::Hang), ..reply() }]);
    let mut stream = stage.gateway.chat_stream("v").stream().await;
    stream.next().await.expect("an event");
    drop(stream);
    let rows = tollgate_harness::patiently("the cancel", stage.mock.wait_for_invoice(1)).await;
    assert!(rows[0].client_gone, "{rows:?}");
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "charged"));
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_nothing() {
    let mut stage = Stage::start(|mock| {
        let gone = objects::deployment("gone", mock).set("spec.endpoint.baseURL", "http://127.0.0.1:9/v1");
        vec![gone, tries_once(), tollgate_money_tests::setup::caller(hard("1"))]
    })
    .await;
    stage.gateway.chat("gone").send().await.expect(502);
    wait_until_idle(&stage.gateway).await;
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Hard).await;
    assert_eq!((rows.len(), rows[0].outcome.as_str(), rows[0].cost_nano_usd), (1, "released", 0));
}

#[tokio::test]
async fn what_a_client_is_told_is_what_was_booked_also_where_it_is_the_hold() {
    for terms in [hard("1"), soft("1")] {
        let mut stage =
            Stage::start(|mock| vec![objects::deployment("m", mock), tollgate_money_tests::setup::caller(terms)]).await;
        stage.mock.script("up-m", [Reply { usage: UsageScript::Missing, ..reply() }]);
        let answer = stage.gateway.chat("m").send().await.expect(200);
        let told = answer.header("x-litellm-response-cost").map(tollgate_money_tests::gauges::nano);
        let spend = answer.header("x-litellm-key-spend").map(tollgate_money_tests::gauges::nano);
        stage.gateway.stop().await;
        let rows = tollgate_harness::ledger_rows(stage.gateway.data());
        assert_eq!((told, spend), (Some(rows[0].cost_nano_usd), Some(rows[0].cost_nano_usd)), "{rows:?}");
    }
}

/// A provider that says twenty words and more.
fn words(reply: Reply) -> Reply {
    Reply { text: Some("word ".repeat(60)), chunks: Some(60), ..reply }
}

#[tokio::test]
async fn what_is_counted_is_what_was_said_and_not_what_is_around_it() {
    let mut stage = Stage::start(|mock| {
        vec![objects::deployment("o", mock), objects::anthropic("a", mock), tries_once(), caller(soft("1"))]
    })
    .await;
    let ask = |stage: &Stage, path: &str, body: &Value| {
        stage.gateway.post(path).key(tollgate_harness::KEY).header("anthropic-version", "2023-06-01").json(body)
    };
    let paths = ["/v1/chat/completions", "/v1/messages"];
    for model in ["o", "a"] {
        for path in paths {
            stage.mock.script(format!("up-{model}"), [words(Reply { cut: cut(26, CutHow::Hang), ..reply() })]);
            let mut stream = ask(&stage, path, &streamed(chat(model, "Hello", 80))).stream().await;
            let mut seen = 0;
            while seen < 20 {
                let event = stream.next().await.expect("another word");
                seen += usize::from(event.data.contains("word"));
            }
            drop(stream);
            wait_until_idle(&stage.gateway).await;
        }
    }
    let missing = || words(Reply { usage: UsageScript::Missing, ..reply() });
    for (path, model) in [(paths[0], "o"), (paths[1], "a")] {
        for body in [chat(model, "Hello", 200), chat(model, "Hello", 30)] {
            stage.mock.script(format!("up-{model}"), [missing(), missing()]);
            ask(&stage, path, &body).send().await.expect(200);
            ask(&stage, path, &streamed(body)).stream().await.rest().await;
            wait_until_idle(&stage.gateway).await;
        }
    }
    let rows = Books::default().assert_flagged(&mut stage.gateway, &stage.mock, |_| Mode::Soft).await;
    let is_counted = |row: &SpendRow| row.outcome == "estimated" && row.cost_nano_usd <= row.held_nano_usd;
    assert!(rows.iter().all(is_counted), "{rows:?}");
    let counted: Vec<_> = rows.iter().map(|row| row.output_tokens).collect();
    // Five bytes a word; of words on their way when the client left some were seen.
    assert!(counted[..4].iter().all(|tokens| (25..=33).contains(tokens)), "{counted:?}");
    assert_eq!(counted[4..], [75, 75, 30, 30, 75, 75, 30, 30]);
}

#[tokio::test]
async fn what_is_counted_costs_what_the_tier_that_was_asked_for_does() {
    let mut stage = Stage::start(|mock| {
        let large = objects::openai("m", mock).set("spec.pricing", json!({"like": "openai/gpt-5.5"}));
        vec![large, caller(soft("1"))]
    })
    .await;
    stage.mock.script("up-m", [words(Reply { usage: UsageScript::Missing, ..reply() })]);
    let mut body = chat("m", "Hello", 200);
    body["service_tier"] = json!("priority");
    stage.gateway.chat("m").json(&body).send().await.expect(200);
    stage.gateway.stop().await;
    let [row] = &*tollgate_harness::ledger_rows(stage.gateway.data()) else { panic!("one row is expected") };
    let SpendRow { input_tokens, output_tokens, .. } = row;
    assert_eq!((&*row.outcome, *output_tokens), ("estimated", 75));
    assert_eq!(row.cost_nano_usd, input_tokens * 12_500 + output_tokens * 75_000);
}
