//! What a client can write into an ordinary call never makes it cost more than what is held for it: the provider's
//! invoice stays within a Hard budget, however the call is worded.

use tollgate_harness::{
    Call, KEY, Mock, Object, Reply, Stage, Step, Tokens, UsageScript, Value, json, ledger_rows, objects,
};
use tollgate_money_tests::books::Books;
use tollgate_money_tests::gauges::{nano, sum, wait_until_idle};
use tollgate_money_tests::setup::{caller, hard, soft, tries_once};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const MESSAGES: &str = "/v1/messages";

/// Nano-USD of a token of output, and of input at its dearest.
const OUTPUT: i64 = 10_000;
const INPUT: i64 = 3_125;

/// Sends a body twenty times at once; the statuses, sorted.
async fn twenty(stage: &Stage, path: &str, body: &str) -> Vec<u16> {
    let address = stage.gateway.address();
    let send =
        || Call::new(address, "POST", path).header("content-type", "application/json").key(KEY).body(body.to_owned());
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(send().send())).collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.expect("a call ends well").status);
    }
    statuses.sort_unstable();
    statuses
}

/// Nothing was billed above the limit, nothing cost more than was held for it, and the ledger is the invoice.
async fn assert_within(mut stage: Stage, limit: &str) {
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 0.0);
    let billed = Books::default().invoice_total(&stage.mock);
    assert!(billed <= nano(limit), "billed {billed} above the limit of {limit}");
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

/// A provider that reads `max_tokens` alone.
fn older(name: &str, mock: &Mock) -> Object {
    objects::deployment(name, mock).set("spec.provider", "poe")
}

#[tokio::test]
async fn a_second_name_for_the_cap_does_not_make_the_hold_smaller() {
    let body = |content: &str| {
        format!(
            r#"{{"model":"m","{content}":[{{"role":"user","content":"Hi"}}],"max_completion_tokens":1,"max_tokens":2000}}"#
        )
    };
    let completion = body("prompt").replace(r#"[{"role":"user","content":"Hi"}]"#, r#""Hi""#);
    for (path, body) in [(COMPLETIONS, completion), (MESSAGES, body("messages"))] {
        let stage = Stage::start(|mock| {
            let deployment =
                if path == MESSAGES { objects::anthropic("m", mock) } else { objects::deployment("m", mock) };
            vec![deployment, caller(hard("0.03")), tries_once().set("spec.defaults.reservedWait", "10ms")]
        })
        .await;
        // A model that talks as long as it may.
        stage.mock.script("up-m", vec![Reply { chunks: Some(3_000), ..Reply::default() }; 20]);
        let statuses = twenty(&stage, path, &body).await;
        assert!(statuses.contains(&200) && statuses.contains(&429), "{path}: {statuses:?}");
        let used = stage.mock.invoice().iter().map(|row| row.output_tokens).max();
        assert_eq!(used, Some(2_000), "the provider knows one name");
        assert_within(stage, "0.03").await;
    }
}

#[tokio::test]
async fn a_cap_reaches_the_provider_under_the_name_that_it_reads() {
    let mut stage = Stage::start(|mock| {
        vec![
            older("old", mock),
            objects::openai("new", mock),
            objects::anthropic("a", mock),
            caller(hard("1")),
            tries_once(),
        ]
    })
    .await;
    let said = |model: &str, fields: Value| {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
        body
    };
    let newer = json!({"max_completion_tokens": 16});
    let beside_null = json!({"max_tokens": null, "max_completion_tokens": 16});
    let both = json!({"max_tokens": 40, "max_completion_tokens": 16});
    let nulls = json!({"max_tokens": null, "max_completion_tokens": null});
    let mut holds = Vec::new();
    for (path, body, sent, held) in [
        (CHAT, said("old", newer.clone()), json!([16, null]), 16),
        (CHAT, said("old", beside_null), json!([16, null]), 16),
        (CHAT, said("old", both.clone()), json!([40, 16]), 40),
        (CHAT, said("old", nulls.clone()), json!([4_096, null]), 4_096),
        (CHAT, said("new", newer.clone()), json!([null, 16]), 16),
        (CHAT, said("new", both.clone()), json!([40, 16]), 40),
        (CHAT, said("new", nulls), json!([null, 4_096]), 4_096),
        // What is told in another dialect is told from the newer name.
        (CHAT, said("a", both), json!([16, null]), 40),
        (MESSAGES, said("a", newer), json!([4_096, 16]), 4_096),
    ] {
        stage.gateway.post(path).key(KEY).json(&body).send().await.expect(200);
        let seen = stage.last_seen();
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(text.matches("\"max_tokens\"").count() <= 1, "it is given once: {text}");
        let fields = seen.json();
        assert_eq!(json!([fields["max_tokens"], fields["max_completion_tokens"]]), sent, "{body}");
        holds.push((body.to_string().len() as i64 + 256) * INPUT + held * OUTPUT);
    }
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    let mut held: Vec<i64> = rows.iter().map(|row| row.held_nano_usd).collect();
    held.sort_unstable();
    holds.sort_unstable();
    assert_eq!(held, holds);
}

/// A chat or message with this content part, as text.
fn with_part(model: &str, part: &str) -> String {
    format!(r#"{{"model":"{model}","max_tokens":16,"messages":[{{"role":"user","content":[{part}]}}]}}"#)
}

/// A message with these fields beside.
fn with_fields(model: &str, fields: &str) -> String {
    format!(r#"{{"model":"{model}","max_tokens":16,"messages":[{{"role":"user","content":"Hi"}}],{fields}}}"#)
}

#[tokio::test]
async fn words_behind_escapes_are_held_for_like_any_others() {
    let mut stage = Stage::start(|mock| {
        let like = json!({"like": "anthropic/claude-sonnet-4-5"});
        let claude = objects::anthropic("a", mock).unset("spec.pricing").set("spec.pricing", like);
        vec![objects::openai("m", mock), claude, caller(hard("10")), tries_once()]
    })
    .await;
    let image = r#"{"type":"image_url","image_url":{"url":"https://example.com/1.png"}}"#;
    let cached = r#"{"type":"text","text":"Hi","cache_control":{"type":"ephemeral","ttl":"1h"}}"#;
    let search = r#""tools":[{"type":"web_search_20250305","name":"web_search","max_uses":50}]"#;
    let mut pairs = 0;
    for (path, plain, words) in [
        (CHAT, with_part("m", image), [("image_url", r"image\u005furl"), ("\"type\"", r#""typ\u0065""#)]),
        (MESSAGES, with_part("a", cached), [("\"1h\"", r#""\u0031h""#), ("\"1h\"", r#""1\u0068""#)]),
        (MESSAGES, with_fields("a", search), [("web_search", r"web\u005Fsearch"), ("max_uses", r"max\u005fuses")]),
        (CHAT, with_fields("m", r#""n":3"#), [("\"n\"", r#""\u006e""#), ("max_tokens", r"max\u005ftokens")]),
    ] {
        for body in [plain.clone(), plain.replace(words[0].0, words[0].1), plain.replace(words[1].0, words[1].1)] {
            let call = stage.gateway.post(path).key(KEY).header("content-type", "application/json").body(body.clone());
            call.send().await.expect(200);
            let said: Value = plain.parse().expect("JSON");
            assert_eq!(stage.last_seen().json()["messages"], said["messages"], "{body}");
        }
        pairs += 1;
    }
    let document = r#"{"type":"docum\u0065nt","source":{"type":"url","url":"https://example.com/1.pdf"}}"#;
    for (path, body) in [
        (MESSAGES, with_part("a", document)),
        (CHAT, with_part("m", r#"{"type":"fil\u0065","file":{"file_id":"file-1"}}"#)),
    ] {
        let refused = stage.gateway.post(path).key(KEY).body(body.clone()).send().await.expect(403);
        assert_eq!(refused.header("x-tollgate-error"), Some("cost_unbounded"), "{body}");
    }
    stage.gateway.stop().await;
    let mut held: Vec<i64> = ledger_rows(stage.gateway.data()).iter().map(|row| row.held_nano_usd).collect();
    held.sort_unstable();
    assert_eq!(held.len(), 3 * pairs);
    for each in held.chunks(3) {
        assert!(each.iter().all(|held| *held == each[0]), "the same call holds the same: {held:?}");
    }
}

#[tokio::test]
async fn an_image_behind_an_escape_does_not_pass_the_limit() {
    let stage = Stage::start(|mock| {
        let gateway = tries_once().set("spec.defaults.reservedWait", "10ms");
        vec![objects::openai("m", mock), caller(hard("0.4")), gateway]
    })
    .await;
    stage.mock.script("up-m", [Step::usage("x", Tokens::new(48_000, 5)).repeat(100)]);
    let part = r#"{"type":"image\u005furl","image_url":{"url":"https://example.com/1.png"}}"#;
    let statuses = twenty(&stage, CHAT, &with_part("m", part)).await;
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    assert_within(stage, "0.4").await;
}

/// A deployment of this provider that is priced like a model of the list.
fn like(name: &str, provider: &str, model: &str, mock: &Mock) -> Object {
    let deployment = objects::deployment(name, mock).set("spec.provider", provider).unset("spec.pricing");
    deployment.set("spec.pricing", json!({"like": model}))
}

/// An answer that tells this usage.
fn used(usage: Value) -> Reply {
    Reply { usage: UsageScript::Raw(usage), ..Reply::default() }
}

#[tokio::test]
async fn output_as_audio_or_images_is_held_at_its_own_rate() {
    let audio =
        json!({"prompt_tokens": 10, "completion_tokens": 900, "completion_tokens_details": {"audio_tokens": 850}});
    let image =
        json!({"prompt_tokens": 10, "completion_tokens": 1290, "completion_tokens_details": {"image_tokens": 1290}});
    let asked = |fields: &str| format!(r#"{fields},"max_completion_tokens":1400"#);
    for (model, fields, usage, nano_usd) in [
        ("openai/gpt-audio", r#""modalities":["text","audio"]"#, audio.clone(), 25_000 + 500_000 + 850 * 64_000),
        ("openai/gpt-audio", r#""audio":{"voice":"alloy"}"#, audio, 25_000 + 500_000 + 850 * 64_000),
        ("gemini/gemini-2.5-flash-image", r#""user":"unasked""#, image, 3_000 + 1_290 * 30_000),
    ] {
        let stage = Stage::start(|mock| {
            let gateway = tries_once().set("spec.defaults.reservedWait", "10ms");
            vec![like("m", "openai", model, mock), caller(hard("0.2")), gateway]
        })
        .await;
        stage.mock.script("up-m", vec![used(usage); 20]);
        let body = with_fields("m", &asked(fields)).replace(r#""max_tokens":16,"#, "");
        let statuses = twenty(&stage, CHAT, &body).await;
        assert!(statuses.contains(&200) && statuses.contains(&429), "{model}: {statuses:?}");
        assert_priced(stage, &vec![nano_usd; statuses.iter().filter(|status| **status == 200).count()], "0.2").await;
    }
}

/// What was booked is that, within what was held and within the limit.
async fn assert_priced(mut stage: Stage, nano_usd: &[i64], limit: &str) {
    wait_until_idle(&stage.gateway).await;
    assert_eq!(sum(&stage.gateway.metrics().await, "tollgate_bound_violation_total"), 0.0);
    stage.gateway.stop().await;
    let rows: Vec<_> = ledger_rows(stage.gateway.data()).into_iter().filter(|row| row.outcome != "released").collect();
    assert_eq!(rows.iter().map(|row| row.cost_nano_usd).collect::<Vec<_>>(), nano_usd);
    assert!(rows.iter().all(|row| row.outcome == "exact" && row.cost_nano_usd <= row.held_nano_usd), "{rows:?}");
    assert!(rows.iter().map(|row| row.cost_nano_usd).sum::<i64>() <= nano(limit));
}

#[tokio::test]
async fn what_the_body_does_not_hold_has_no_bound_and_a_hard_budget_refuses_it() {
    let mut stage =
        Stage::start(|mock| vec![objects::openai("m", mock), objects::anthropic("a", mock), caller(hard("9"))]).await;
    let audio_url = r#"{"type":"audio_url","audio_url":{"url":"https://example.com/1h.mp3"}}"#;
    let by_address = r#"{"type":"input_audio","input_audio":{"data":"https://example.com/1h.mp3","format":"mp3"}}"#;
    let said = with_fields("m", r#""user":"x""#);
    let said = said.replace(r#"[{"role""#, r#"[{"role":"assistant","audio":{"id":"audio_1"}},{"role""#);
    let tool = |kind: &str| with_fields("a", &format!(r#""tools":[{{"type":"{kind}","name":"x","max_uses":5}}]"#));
    let refused = [
        (CHAT, with_part("m", audio_url)),
        (CHAT, with_part("m", by_address)),
        (CHAT, with_part("m", r#"{"file":{"file_id":"file-1"}}"#)),
        (CHAT, said),
        (MESSAGES, tool("web_fetch_20250910")),
        (MESSAGES, tool("code_execution_20250825")),
        (MESSAGES, tool("something_20290101")),
        (MESSAGES, with_fields("a", r#""mcp_servers":[{"type":"url","url":"https://example.com","name":"x"}]"#)),
        (MESSAGES, with_fields("a", r#""container":"container_1""#)),
    ];
    for (path, body) in &refused {
        let answer = stage.gateway.post(path).key(KEY).body(body.clone()).send().await.expect(403);
        assert_eq!(answer.header("x-tollgate-error"), Some("cost_unbounded"), "{body}");
    }
    assert_eq!(stage.mock.requests().len(), 0);
    let inline = r#"{"type":"input_audio","input_audio":{"data":"SUQz","format":"mp3"}}"#;
    let echoed = with_fields("m", r#""user":"x""#);
    let echoed = echoed.replace(r#"[{"role""#, r#"[{"role":"assistant","content":"Hi","audio":null},{"role""#);
    let taken = [
        (CHAT, with_part("m", inline)),
        (CHAT, echoed),
        (CHAT, with_part("m", r#"{"image_url":{"url":"https://example.com/1.png"}}"#)),
        (MESSAGES, with_fields("a", r#""tools":[{"type":"bash_20250124","name":"bash"}],"mcp_servers":[]"#)),
    ];
    for (path, body) in taken {
        stage.gateway.post(path).key(KEY).body(body.clone()).send().await.expect(200);
    }
    stage.edit(|objects| *objects.last_mut().expect("the key") = caller(soft("9"))).await;
    for (path, body) in refused {
        stage.gateway.post(path).key(KEY).body(body.clone()).send().await.expect(200);
    }
    let rows = Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
    // The image without a type is held as one with it: a token of OpenAI's dearest image is one of input.
    assert!(rows.iter().any(|row| row.held_nano_usd > 48_169 * 2_500), "{rows:?}");
}

#[tokio::test]
async fn a_search_that_nobody_asks_for_is_held_at_its_dearest() {
    for (provider, model, search) in [
        ("openai", "perplexity/sonar-pro", 14_000_000),
        ("openai-compatible", "openai/gpt-4o-search-preview", 25_000_000),
    ] {
        let mut stage =
            Stage::start(|mock| vec![like("m", provider, model, mock), caller(hard("9")), tries_once()]).await;
        stage.gateway.post(CHAT).key(KEY).body(with_fields("m", r#""user":"x""#)).send().await.expect(200);
        stage.gateway.stop().await;
        let rows = ledger_rows(stage.gateway.data());
        assert!(
            rows[0].held_nano_usd > search && rows[0].held_nano_usd < search + 10_000_000,
            "{model}: {:?}",
            rows[0]
        );
    }
}

#[tokio::test]
async fn fields_that_make_another_call_of_it_are_refused() {
    let some = || objects::caller().set("spec.models", json!(["m", "other"]));
    let mut stage = Stage::start(|mock| {
        let router = objects::deployment("m", mock).set("spec.provider", "openrouter");
        vec![router, objects::deployment("other", mock), caller(hard("9")), tries_once()]
    })
    .await;
    let fields = [
        r#""models":["openai/o1-pro"]"#,
        r#""plugins":[{"id":"web"}]"#,
        r#""route":"fallback","provider":{"sort":"price"}"#,
    ];
    let send = |stage: &Stage, model: &str, fields: &str| {
        stage.gateway.post(CHAT).key(KEY).body(with_fields(model, fields)).send()
    };
    for fields in fields {
        let refused = send(&stage, "m", fields).await.expect(403);
        assert_eq!(refused.header("x-tollgate-error"), Some("cost_unbounded"), "{fields}");
        // Elsewhere they mean nothing.
        send(&stage, "other", fields).await.expect(200);
    }
    send(&stage, "m", r#""models":[],"provider":null"#).await.expect(200);
    stage.edit(|objects| *objects.iter_mut().find(|object| object.name() == "caller").expect("the key") = some()).await;
    let asked = stage.mock.requests().len();
    let refused = send(&stage, "m", fields[0]).await.expect(400);
    assert_eq!(refused.header("x-tollgate-error"), Some("parameter_refused"), "{}", refused.text());
    assert_eq!(stage.mock.requests().len(), asked);
    send(&stage, "m", fields[1]).await.expect(200);
    stage
        .edit(|objects| {
            *objects.iter_mut().find(|object| object.name() == "caller").expect("the key") = objects::caller()
        })
        .await;
    send(&stage, "m", fields[0]).await.expect(200);
    Books::default().assert_exact(&mut stage.gateway, &stage.mock).await;
}

/// An answer of a chat that cites a page, or none.
fn citing(cites: bool) -> Reply {
    let annotations = if cites {
        json!([{"type": "url_citation", "url_citation": {"url": "https://example.com"}}])
    } else {
        json!([])
    };
    let message = json!({"role": "assistant", "content": "Hi", "annotations": annotations});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
    let body = json!({"id": "c", "object": "chat.completion", "model": "m", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
    Reply { body: Some(body.to_string().into()), ..Reply::default() }
}

/// The same as a stream.
fn streaming(cites: bool) -> Reply {
    let Reply { body, .. } = citing(cites);
    let whole: Value = String::from_utf8(body.expect("a body").0.to_vec()).expect("text").parse().expect("JSON");
    let delta = json!({"model": "m", "choices": [{"index": 0, "delta": whole["choices"][0]["message"], "finish_reason": "stop"}]});
    let usage = json!({"model": "m", "choices": [], "usage": whole["usage"]});
    let text = format!("data: {delta}\n\ndata: {usage}\n\ndata: [DONE]\n\n");
    Reply { body: Some(text.into()), content_type: Some("text/event-stream".into()), ..Reply::default() }
}

#[tokio::test]
async fn a_search_that_only_its_citations_tell_of_is_booked() {
    // Of gpt-4o-mini: 10 tokens at 0.15 and 5 at 0.60 USD for a million; a search is 0.025 USD. Of sonar-pro: 3 and 15 USD.
    let (mini, pro) = (1_500 + 3_000, 30_000 + 75_000);
    let asked = r#""web_search_options":{}"#;
    let own_tool = r#""tools":[{"type":"function","function":{"name":"web_search"}}]"#;
    let sized = |size: &str| format!(r#""web_search_options":{{"search_context_size":"{size}"}}"#);
    for (model, fields, is_hard, cites, nano_usd) in [
        ("openai/gpt-4o-mini", asked.to_owned(), false, true, mini + 25_000_000),
        ("openai/gpt-4o-mini", asked.to_owned(), false, false, mini),
        ("openai/gpt-4o-mini", asked.to_owned(), true, false, mini + 25_000_000),
        ("openai/gpt-4o-mini", r#""user":"x""#.to_owned(), true, true, mini),
        // A tool of the client's own that has that name.
        ("openai/gpt-4o-mini", own_tool.to_owned(), true, false, mini),
        ("perplexity/sonar-pro", r#""user":"x""#.to_owned(), false, false, pro + 10_000_000),
        ("perplexity/sonar-pro", sized("low"), true, true, pro + 6_000_000),
        ("perplexity/sonar-pro", sized("high"), false, true, pro + 14_000_000),
    ] {
        let budget = if is_hard { hard("9") } else { soft("9") };
        let stage = Stage::start(|mock| vec![like("m", "openai", model, mock), caller(budget), tries_once()]).await;
        stage.mock.script("up-m", [citing(cites), streaming(cites)]);
        let body = with_fields("m", &fields);
        for body in [body.clone(), body.replace(r#""max_tokens""#, r#""stream":true,"max_tokens""#)] {
            let answer = stage.gateway.post(CHAT).key(KEY).body(body).send().await.expect(200);
            assert_eq!(answer.text().contains("url_citation"), cites, "{}", answer.text());
        }
        assert_priced(stage, &[nano_usd; 2], "9").await;
    }
}
