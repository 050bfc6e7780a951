//! `/metrics` as text: LiteLLM's names, so that its dashboards go on working, and our own. Every series of a call is
//! summed over the cores; budgets are read from the ledger that enforces them.

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tollgate_ledger::CounterValues;
use tollgate_snapshot::Severity;
use tollgate_snapshot::money::NanoUsd;

use crate::core::Core;
use crate::metrics::{BUCKETS, CallLabels, CallSeries, Counter, Histogram, HistogramSum, Label, Registry};

/// Budgets shown, the fullest first; the others are in the ledger.
const MAX_BUDGETS: usize = 2_000;

/// Renders everything.
pub fn render(core: &Core) -> String {
    let mut text = String::with_capacity(64 << 10);
    let registry = &core.shared.registry;
    calls(&mut text, core, registry);
    attempts(&mut text, core, registry);
    process(&mut text, core, registry);
    budgets(&mut text, core);
    text
}

/// A family's head.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn value(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    if labels.is_empty() {
        let _ = writeln!(text, "{name} {value}");
    } else {
        let _ = writeln!(text, "{name}{{{labels}}} {value}");
    }
}

/// A label's value with what the format wants escaped.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Deployment id → provider and model of the provider.
struct Described {
    id: String,
    provider: String,
    model: String,
    api_base: String,
}

fn describe(core: &Core, registry: &Registry, label: Label) -> Described {
    let id = registry.name(label);
    let tables = core.tables();
    let index = tables.deployments.iter().position(|entry| entry.label == label);
    let (provider, model, api_base) = match index {
        Some(index) => {
            let deployment = &tables.snapshot.deployments[index];
            let base = tables.deployments[index].headers.api_base.to_str().unwrap_or_default().to_owned();
            (deployment.provider.to_string(), deployment.model.to_string(), base)
        }
        None => Default::default(),
    };
    Described { id: quoted(&id), provider: quoted(&provider), model: quoted(&model), api_base: quoted(&api_base) }
}

type Calls = [(CallLabels, Vec<std::sync::Arc<CallSeries>>)];

fn calls(text: &mut String, core: &Core, registry: &Registry) {
    let calls = registry.calls();
    let labels: Vec<(String, String, u16)> = calls
        .iter()
        .map(|(labels, _)| {
            let Described { id, provider, model, .. } = describe(core, registry, labels.deployment);
            let requested = quoted(&registry.name(labels.model));
            let team = quoted(&registry.name(labels.team));
            let litellm = format!(
                r#"requested_model="{requested}",model="{model}",model_group="{requested}",model_id="{id}",api_provider="{provider}",team="{team}",team_alias="{team}",route="{}""#,
                labels.operation
            );
            let own = format!(
                r#"operation="{}",model="{requested}",deployment="{id}",provider="{provider}",team="{team}""#,
                labels.operation
            );
            (litellm, own, labels.status)
        })
        .collect();
    let mut counter = |names: [&str; 2],
                       help: &str,
                       only: &dyn Fn(u16) -> bool,
                       status: bool,
                       read: &dyn Fn(&CallSeries) -> &Counter,
                       scale: Scale| {
        for (which, name) in names.into_iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            head(text, name, "counter", help);
            for ((_, series), (litellm, own, code)) in calls.iter().zip(&labels) {
                if !only(*code) {
                    continue;
                }
                let sum: u64 = series.iter().map(|one| read(one).get()).sum();
                let base = if which == 0 { litellm } else { own };
                let labels = match (status, which) {
                    (false, _) => base.clone(),
                    (true, 0) => format!(r#"{base},status_code="{code}""#),
                    (true, _) => format!(r#"{base},status="{code}""#),
                };
                match scale {
                    Scale::Units => value(text, name, &labels, sum),
                    Scale::NanoUsd => {
                        value(text, name, &labels, NanoUsd(sum.min(i64::MAX as u64) as i64).to_decimal_text())
                    }
                }
            }
        }
    };
    let all = |_: u16| true;
    counter(
        ["litellm_proxy_total_requests_metric_total", "tollgate_requests_total"],
        "Calls that ended, by status.",
        &all,
        true,
        &|one| &one.requests,
        Scale::Units,
    );
    counter(
        ["litellm_proxy_failed_requests_metric_total", ""],
        "Calls that ended with an error.",
        &|code| code >= 400,
        true,
        &|one| &one.requests,
        Scale::Units,
    );
    counter(
        ["litellm_spend_metric_total", "tollgate_spend_usd_total"],
        "Cost of calls, USD.",
        &all,
        false,
        &|one| &one.spend_nano_usd,
        Scale::NanoUsd,
    );
    counter(
        ["litellm_input_tokens_metric_total", "tollgate_input_tokens_total"],
        "Input tokens, cached ones included.",
        &all,
        false,
        &|one| &one.input_tokens,
        Scale::Units,
    );
    counter(
        ["litellm_output_tokens_metric_total", "tollgate_output_tokens_total"],
        "Output tokens, reasoning included.",
        &all,
        false,
        &|one| &one.output_tokens,
        Scale::Units,
    );
    counter(
        ["litellm_input_cached_tokens_metric_total", "tollgate_cache_read_tokens_total"],
        "Input tokens read from the provider's cache.",
        &all,
        false,
        &|one| &one.cache_read_tokens,
        Scale::Units,
    );
    counter(
        ["litellm_input_cache_creation_tokens_metric_total", "tollgate_cache_write_tokens_total"],
        "Input tokens written to the provider's cache.",
        &all,
        false,
        &|one| &one.cache_write_tokens,
        Scale::Units,
    );
    counter(
        ["litellm_output_reasoning_tokens_metric_total", "tollgate_reasoning_tokens_total"],
        "Output tokens spent on reasoning.",
        &all,
        false,
        &|one| &one.reasoning_tokens,
        Scale::Units,
    );
    total_tokens(text, &calls, &labels);
    for (names, help, read) in [
        (
            ["litellm_request_total_latency_metric", "tollgate_request_duration_seconds"],
            "Whole call, seconds.",
            (|one: &CallSeries| &one.duration) as fn(&CallSeries) -> &Histogram,
        ),
        (
            ["litellm_llm_api_latency_metric", "tollgate_provider_duration_seconds"],
            "Waiting for providers, seconds.",
            |one| &one.provider_duration,
        ),
        (
            ["litellm_llm_api_time_to_first_token_metric", "tollgate_time_to_first_token_seconds"],
            "Streams: until the provider's first bytes, seconds.",
            |one| &one.first_token,
        ),
        (["litellm_overhead_latency_metric", "tollgate_overhead_seconds"], "What the gateway added, seconds.", |one| {
            &one.overhead
        }),
    ] {
        for (which, name) in names.into_iter().enumerate() {
            head(text, name, "histogram", help);
            for ((_, series), (litellm, own, code)) in calls.iter().zip(&labels) {
                if *code == 200 {
                    histogram(text, name, if which == 0 { litellm } else { own }, series.iter().map(|one| read(one)));
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Units,
    NanoUsd,
}

fn total_tokens(text: &mut String, calls: &Calls, labels: &[(String, String, u16)]) {
    let name = "litellm_total_tokens_metric_total";
    head(text, name, "counter", "Input and output tokens.");
    for ((_, series), (litellm, _, _)) in calls.iter().zip(labels) {
        let sum: u64 = series.iter().map(|one| one.input_tokens.get() + one.output_tokens.get()).sum();
        value(text, name, litellm, sum);
    }
}

fn histogram<'a>(text: &mut String, name: &str, labels: &str, histograms: impl Iterator<Item = &'a Histogram>) {
    let sum = HistogramSum::of(histograms);
    if sum.count == 0 {
        return;
    }
    for (bound, count) in BUCKETS.iter().zip(sum.cumulative) {
        let _ = writeln!(text, r#"{name}_bucket{{{labels},le="{bound}"}} {count}"#);
    }
    let _ = writeln!(text, r#"{name}_bucket{{{labels},le="+Inf"}} {}"#, sum.count);
    let _ = writeln!(text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", sum.sum_seconds, sum.count);
}

fn attempts(text: &mut String, core: &Core, registry: &Registry) {
    let attempts = registry.attempts();
    let rows: Vec<_> = attempts
        .iter()
        .map(|(labels, count)| {
            let Described { id, provider, model, api_base } = describe(core, registry, labels.deployment);
            let requested = quoted(&registry.name(labels.model));
            let base = format!(
                r#"requested_model="{requested}",model_group="{requested}",litellm_model_name="{model}",model_id="{id}",api_base="{api_base}",api_provider="{provider}""#
            );
            (labels, *count, base, id, provider, requested)
        })
        .collect();
    head(text, "tollgate_attempts_total", "counter", "Requests to providers, by outcome.");
    for (labels, count, _, id, provider, requested) in &rows {
        let labels = format!(
            r#"model="{requested}",deployment="{id}",provider="{provider}",outcome="{}",status="{}""#,
            labels.outcome, labels.status
        );
        value(text, "tollgate_attempts_total", &labels, count);
    }
    head(text, "litellm_deployment_total_requests_total", "counter", "Requests to a deployment.");
    head(text, "litellm_deployment_success_responses_total", "counter", "Good answers of a deployment.");
    for (labels, count, base, ..) in rows.iter().filter(|row| row.0.outcome == "success") {
        let _ = labels;
        value(text, "litellm_deployment_success_responses_total", base, count);
    }
    head(text, "litellm_deployment_failure_responses_total", "counter", "Failures of a deployment.");
    for (labels, count, base, ..) in rows.iter().filter(|row| row.0.outcome != "success") {
        let labels = format!(r#"{base},exception_status="{}",exception_class="{}""#, labels.status, labels.outcome);
        value(text, "litellm_deployment_failure_responses_total", &labels, count);
    }
    let mut sums = std::collections::BTreeMap::<&String, u64>::new();
    for (_, count, base, ..) in &rows {
        *sums.entry(base).or_default() += count;
    }
    for (base, count) in sums {
        value(text, "litellm_deployment_total_requests_total", base, count);
    }
    let tables = core.tables();
    let now = core.uptime_ms(Instant::now());
    head(text, "litellm_deployment_state", "gauge", "0: in use, 2: benched after failures.");
    head(text, "tollgate_deployment_in_flight", "gauge", "Requests under way at a deployment.");
    for (deployment, entry) in tables.snapshot.deployments.iter().zip(&tables.deployments) {
        let (model, id, provider) = (quoted(&deployment.model), quoted(&entry.id), quoted(&deployment.provider));
        let base = quoted(entry.headers.api_base.to_str().unwrap_or_default());
        let labels =
            format!(r#"litellm_model_name="{model}",model_id="{id}",api_base="{base}",api_provider="{provider}""#);
        let state = if entry.state.health.benched_for(now).is_some() { 2 } else { 0 };
        value(text, "litellm_deployment_state", &labels, state);
        value(
            text,
            "tollgate_deployment_in_flight",
            &format!(r#"deployment="{id}""#),
            entry.state.in_flight.load(Relaxed),
        );
    }
    head(text, "litellm_deployment_cooled_down_total", "counter", "Times a deployment was benched.");
    for (label, count) in registry.cooled_down_counts() {
        let Described { id, provider, model, api_base } = describe(core, registry, label);
        let labels =
            format!(r#"litellm_model_name="{model}",model_id="{id}",api_base="{api_base}",api_provider="{provider}""#);
        value(text, "litellm_deployment_cooled_down_total", &labels, count);
    }
}

fn process(text: &mut String, core: &Core, registry: &Registry) {
    let mut gauge = |name: &str, kind: &str, help: &str, number: i64| {
        head(text, name, kind, help);
        value(text, name, "", number);
    };
    let in_flight = registry.sum(|one| one.in_flight.load(Relaxed));
    gauge("litellm_in_flight_requests", "gauge", "Calls under way.", in_flight);
    gauge("tollgate_in_flight_requests", "gauge", "Calls under way.", in_flight);
    gauge(
        "tollgate_open_connections",
        "gauge",
        "Client connections open.",
        registry.sum(|one| one.open_connections.load(Relaxed)),
    );
    gauge(
        "tollgate_connections_total",
        "counter",
        "Client connections accepted.",
        registry.sum(|one| one.connections.get() as i64),
    );
    gauge(
        "tollgate_request_body_bytes",
        "gauge",
        "Memory that request bodies hold.",
        core.shared.body_bytes.load(Relaxed) as i64,
    );
    gauge(
        "tollgate_shed_total",
        "counter",
        "Calls refused because the gateway was full or stopping.",
        registry.sum(|one| one.shed.get() as i64),
    );
    gauge(
        "tollgate_unauthenticated_total",
        "counter",
        "Calls without a valid key.",
        registry.sum(|one| one.unauthenticated.get() as i64),
    );
    gauge(
        "tollgate_bad_requests_total",
        "counter",
        "Calls whose body could not be read.",
        registry.sum(|one| one.bad_requests.get() as i64),
    );
    gauge(
        "tollgate_client_gone_total",
        "counter",
        "Clients that left before their answer was complete.",
        registry.sum(|one| one.client_gone.get() as i64),
    );
    gauge(
        "tollgate_abandoned_read_total",
        "counter",
        "Abandoned streams that were read to their usage for a hard budget.",
        registry.sum(|one| one.drained.get() as i64),
    );
    gauge(
        "tollgate_usage_unknown_total",
        "counter",
        "Attempts whose usage nobody reported: charged or estimated.",
        registry.sum(|one| one.usage_missing.get() as i64),
    );
    gauge(
        "tollgate_unpriced_total",
        "counter",
        "Attempts at models without a price.",
        registry.sum(|one| one.unpriced.get() as i64),
    );
    let loaded = core.shared.status.read();
    gauge(
        "tollgate_config_generation",
        "gauge",
        "Generation of the configuration that runs.",
        core.tables().generation as i64,
    );
    gauge(
        "tollgate_config_healthy",
        "gauge",
        "1 when the last load of the configuration had no error.",
        i64::from(loaded.healthy),
    );
    gauge("tollgate_config_reloads_total", "counter", "Loads of the configuration.", loaded.reloads as i64);
    gauge("tollgate_config_reload_failures_total", "counter", "Loads that failed as a whole.", loaded.failures as i64);
    let errors = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    gauge(
        "tollgate_config_errors",
        "gauge",
        "Objects or parts of them that are not in use because they are wrong.",
        errors as i64,
    );
    gauge(
        "tollgate_config_warnings",
        "gauge",
        "Warnings about the configuration.",
        (loaded.findings.len() - errors) as i64,
    );
    gauge("tollgate_keys", "gauge", "Virtual keys.", core.tables().snapshot.keys.len() as i64);
    gauge(
        "tollgate_uptime_seconds",
        "gauge",
        "Since the process began.",
        core.shared.started.elapsed().as_secs() as i64,
    );
    let CounterValues {
        rows_copied,
        copy_failures,
        grants,
        grant_failures,
        bound_violations,
        charged,
        dropped,
        unavailable,
        segments,
    } = core.shared.builder.ledger.counters();
    gauge("tollgate_ledger_rows_copied_total", "counter", "Rows written to SQLite.", rows_copied as i64);
    gauge(
        "tollgate_ledger_copy_failures_total",
        "counter",
        "Copies to SQLite that failed; rows wait in the journal.",
        copy_failures as i64,
    );
    gauge("tollgate_ledger_grants_total", "counter", "Grants made durable.", grants as i64);
    gauge("tollgate_ledger_grant_failures_total", "counter", "Grants that the disk refused.", grant_failures as i64);
    gauge("tollgate_ledger_charged_total", "counter", "Attempts whose whole hold was charged.", charged as i64);
    gauge(
        "tollgate_ledger_dropped_total",
        "counter",
        "Attempts that nobody settled; their hold was charged.",
        dropped as i64,
    );
    gauge(
        "tollgate_ledger_unavailable_total",
        "counter",
        "Attempts that the journal could not take.",
        unavailable as i64,
    );
    gauge("tollgate_ledger_segments", "gauge", "Journal segments on disk.", segments as i64);
    gauge(
        "tollgate_bound_violation_total",
        "counter",
        "Attempts that cost more than was held in a hard budget.",
        bound_violations as i64,
    );
    head(text, "tollgate_build_info", "gauge", "Version.");
    value(text, "tollgate_build_info", concat!(r#"version=""#, env!("CARGO_PKG_VERSION"), '"'), 1);
}

fn budgets(text: &mut String, core: &Core) {
    let mut views = core.shared.builder.ledger.views();
    let fullness =
        |view: &tollgate_ledger::BudgetView| if view.limit > 0 { view.spent as f64 / view.limit as f64 } else { 1.0 };
    views.sort_by(|a, b| fullness(b).total_cmp(&fullness(a)));
    views.truncate(MAX_BUDGETS);
    let amount = |view: &tollgate_ledger::BudgetView, units: i64| match view.unit {
        tollgate_ledger::Unit::NanoUsd => NanoUsd(units).to_decimal_text(),
        tollgate_ledger::Unit::Tokens | tollgate_ledger::Unit::Requests => units.to_string(),
    };
    for (name, help, read) in [
        (
            "tollgate_budget_spent",
            "Spent in the period, in the budget's unit.",
            (|view: &tollgate_ledger::BudgetView| view.spent) as fn(&tollgate_ledger::BudgetView) -> i64,
        ),
        ("tollgate_budget_held", "Held by calls in flight.", |view| view.held),
        ("tollgate_budget_limit", "The limit.", |view| view.limit),
    ] {
        head(text, name, "gauge", help);
        for view in &views {
            let unit = match view.unit {
                tollgate_ledger::Unit::NanoUsd => "USD",
                tollgate_ledger::Unit::Tokens => "tokens",
                tollgate_ledger::Unit::Requests => "requests",
            };
            let labels =
                format!(r#"budget="{}",unit="{unit}",period="{}""#, quoted(&view.id), quoted(&view.period_label));
            value(text, name, &labels, amount(view, read(view)));
        }
    }
}
