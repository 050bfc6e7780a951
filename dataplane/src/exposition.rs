//! `/metrics` as text: LiteLLM's names, so that its dashboards go on working, and our own. Every series of a call is
//! summed over the cores; budgets are read from the ledger that enforces them.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tollgate_ledger::{CounterValues, PostgresView};
use tollgate_redis::{BUCKETS_US, CounterValues as RedisCounters};
use tollgate_snapshot::Severity;
use tollgate_snapshot::money::NanoUsd;

use crate::core::Core;
use crate::metrics::{BUCKETS, CallSeries, Durations, Histogram, HistogramSum, Label, Registry};

/// Budgets shown, the fullest first; the others are in the ledger.
const MAX_BUDGETS: usize = 2_000;

/// Renders everything.
pub fn render(core: &Core) -> String {
    let mut text = String::with_capacity(64 << 10);
    let registry = &core.shared.registry;
    let names = Names::new(core, registry);
    calls(&mut text, registry, &names);
    durations(&mut text, registry, &names);
    attempts(&mut text, core, registry, &names);
    process(&mut text, core, registry);
    budgets(&mut text, core);
    allocator(&mut text, core);
    rates(&mut text, core);
    thresholds(&mut text, core);
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

/// What the labels of a deployment say.
#[derive(Default)]
struct Described {
    id: String,
    provider: String,
    model: String,
    api_base: String,
}

/// Names behind numbers, looked up once for a whole scrape.
struct Names {
    names: Vec<std::sync::Arc<str>>,
    deployments: HashMap<Label, Described>,
}

impl Names {
    fn new(core: &Core, registry: &Registry) -> Names {
        let tables = core.tables();
        let deployments = tables.snapshot.deployments.iter().zip(&tables.deployments).map(|(deployment, entry)| {
            let described = Described {
                id: quoted(&entry.id),
                provider: quoted(&deployment.provider),
                model: quoted(&deployment.model),
                api_base: quoted(entry.headers.api_base.to_str().unwrap_or_default()),
            };
            (entry.label, described)
        });
        Names { deployments: deployments.collect(), names: registry.names() }
    }

    fn name(&self, label: Label) -> String {
        label.index().and_then(|index| self.names.get(index)).map(|name| quoted(name)).unwrap_or_default()
    }

    /// Of one that is gone only the id is left.
    fn describe(&self, label: Label) -> Described {
        match self.deployments.get(&label) {
            Some(Described { id, provider, model, api_base }) => Described {
                id: id.clone(),
                provider: provider.clone(),
                model: model.clone(),
                api_base: api_base.clone(),
            },
            None => Described { id: self.name(label), ..Described::default() },
        }
    }
}

/// One line of labels, as LiteLLM names them and as we do, with the counters behind it.
struct Row {
    litellm: String,
    own: String,
    status: u16,
    series: Vec<std::sync::Arc<CallSeries>>,
}

impl Row {
    fn sum(&self, read: impl Fn(&CallSeries) -> u64) -> u64 {
        self.series.iter().map(|one| read(one)).sum()
    }
}

fn calls(text: &mut String, registry: &Registry, names: &Names) {
    let by_status: Vec<Row> = registry
        .calls()
        .into_iter()
        .map(|(labels, series)| {
            let Described { id, provider, model, .. } = names.describe(labels.deployment);
            let (requested, team, operation) = (names.name(labels.model), names.name(labels.team), labels.operation);
            Row {
                litellm: format!(
                    r#"requested_model="{requested}",model="{model}",model_group="{requested}",model_id="{id}",api_provider="{provider}",team="{team}",team_alias="{team}",route="{operation}""#
                ),
                own: format!(
                    r#"operation="{operation}",model="{requested}",deployment="{id}",provider="{provider}",team="{team}""#
                ),
                status: labels.status,
                series,
            }
        })
        .collect();
    // A series is shown once: what has no status label is summed over the statuses.
    let mut summed = std::collections::BTreeMap::<&str, Row>::new();
    for row in &by_status {
        let entry = summed.entry(&row.litellm).or_insert_with(|| Row {
            litellm: row.litellm.clone(),
            own: row.own.clone(),
            status: 0,
            series: Vec::new(),
        });
        entry.series.extend(row.series.iter().cloned());
    }
    let requests = |one: &CallSeries| one.requests.get();
    family(text, "litellm_proxy_total_requests_metric_total", "Calls that ended, by status.", &by_status, |row| {
        (format!(r#"{},status_code="{}""#, row.litellm, row.status), row.sum(requests))
    });
    let failed = by_status.iter().filter(|row| row.status >= 400);
    family(text, "litellm_proxy_failed_requests_metric_total", "Calls that ended with an error.", failed, |row| {
        (format!(r#"{},status_code="{}""#, row.litellm, row.status), row.sum(requests))
    });
    family(text, "tollgate_requests_total", "Calls that ended, by status.", &by_status, |row| {
        (format!(r#"{},status="{}""#, row.own, row.status), row.sum(requests))
    });
    for (names, help, read) in COUNTERS {
        for (which, name) in names.into_iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            family(text, name, help, summed.values(), |row| {
                (if which == 0 { row.litellm.clone() } else { row.own.clone() }, row.sum(read))
            });
        }
    }
    for (which, name) in ["litellm_spend_metric_total", "tollgate_spend_usd_total"].into_iter().enumerate() {
        family(text, name, "Cost of calls, USD.", summed.values(), |row| {
            let nano = row.sum(|one| one.spend_nano_usd.get()).min(i64::MAX as u64) as i64;
            (if which == 0 { row.litellm.clone() } else { row.own.clone() }, NanoUsd(nano).to_decimal_text())
        });
    }
}

/// Counters without a status: LiteLLM's name, ours, help, how to read it.
type CounterFamily = ([&'static str; 2], &'static str, fn(&CallSeries) -> u64);

const COUNTERS: [CounterFamily; 6] = [
    (
        ["litellm_input_tokens_metric_total", "tollgate_input_tokens_total"],
        "Input tokens, cached ones included.",
        |one| one.input_tokens.get(),
    ),
    (
        ["litellm_output_tokens_metric_total", "tollgate_output_tokens_total"],
        "Output tokens, reasoning included.",
        |one| one.output_tokens.get(),
    ),
    (["litellm_total_tokens_metric_total", ""], "Input and output tokens.", |one| {
        one.input_tokens.get() + one.output_tokens.get()
    }),
    (
        ["litellm_input_cached_tokens_metric_total", "tollgate_cache_read_tokens_total"],
        "Input tokens read from the provider's cache.",
        |one| one.cache_read_tokens.get(),
    ),
    (
        ["litellm_input_cache_creation_tokens_metric_total", "tollgate_cache_write_tokens_total"],
        "Input tokens written to the provider's cache.",
        |one| one.cache_write_tokens.get(),
    ),
    (
        ["litellm_output_reasoning_tokens_metric_total", "tollgate_reasoning_tokens_total"],
        "Output tokens spent on reasoning.",
        |one| one.reasoning_tokens.get(),
    ),
];

/// A family of counters, whole: its head and all of its samples.
fn family<'a, V: std::fmt::Display>(
    text: &mut String,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = &'a Row>,
    sample: impl Fn(&Row) -> (String, V),
) {
    head(text, name, "counter", help);
    for row in rows {
        let (labels, number) = sample(row);
        value(text, name, &labels, number);
    }
}

/// LiteLLM's name, ours, help, how to read it.
type HistogramFamily = ([&'static str; 2], &'static str, fn(&Durations) -> &Histogram);

/// Durations of good calls, by operation and deployment.
fn durations(text: &mut String, registry: &Registry, names: &Names) {
    let rows: Vec<(String, String, Vec<std::sync::Arc<Durations>>)> = registry
        .durations()
        .into_iter()
        .map(|(labels, series)| {
            let Described { id, provider, model, .. } = names.describe(labels.deployment);
            let operation = labels.operation;
            let litellm = format!(r#"model="{model}",model_id="{id}",api_provider="{provider}",route="{operation}""#);
            (litellm, format!(r#"operation="{operation}",deployment="{id}",provider="{provider}""#), series)
        })
        .collect();
    let families: [HistogramFamily; 4] = [
        (
            ["litellm_request_total_latency_metric", "tollgate_request_duration_seconds"],
            "Whole call, seconds.",
            |one| &one.whole,
        ),
        (
            ["litellm_llm_api_latency_metric", "tollgate_provider_duration_seconds"],
            "Waiting for providers, seconds.",
            |one| &one.provider,
        ),
        (
            ["litellm_llm_api_time_to_first_token_metric", "tollgate_time_to_first_token_seconds"],
            "Streams: until the provider's first bytes, seconds.",
            |one| &one.first_token,
        ),
        (["litellm_overhead_latency_metric", "tollgate_overhead_seconds"], "What the gateway added, seconds.", |one| {
            &one.overhead
        }),
    ];
    for (names, help, read) in families {
        for (which, name) in names.into_iter().enumerate() {
            head(text, name, "histogram", help);
            for (litellm, own, series) in &rows {
                histogram(text, name, if which == 0 { litellm } else { own }, series.iter().map(|one| read(one)));
            }
        }
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

fn attempts(text: &mut String, core: &Core, registry: &Registry, names: &Names) {
    let attempts = registry.attempts();
    let rows: Vec<_> = attempts
        .iter()
        .map(|(labels, count)| {
            let Described { id, provider, model, api_base } = names.describe(labels.deployment);
            let requested = names.name(labels.model);
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
    let mut sums = std::collections::BTreeMap::<&String, u64>::new();
    for (_, count, base, ..) in &rows {
        *sums.entry(base).or_default() += count;
    }
    head(text, "litellm_deployment_total_requests_total", "counter", "Requests to a deployment.");
    for (base, count) in sums {
        value(text, "litellm_deployment_total_requests_total", base, count);
    }
    head(text, "litellm_deployment_success_responses_total", "counter", "Good answers of a deployment.");
    for (_, count, base, ..) in rows.iter().filter(|row| row.0.outcome == "success") {
        value(text, "litellm_deployment_success_responses_total", base, count);
    }
    head(text, "litellm_deployment_failure_responses_total", "counter", "Failures of a deployment.");
    for (labels, count, base, ..) in rows.iter().filter(|row| row.0.outcome != "success") {
        let labels = format!(r#"{base},exception_status="{}",exception_class="{}""#, labels.status, labels.outcome);
        value(text, "litellm_deployment_failure_responses_total", &labels, count);
    }
    let tables = core.tables();
    let now = core.uptime_ms(Instant::now());
    let described = |label| {
        let Described { id, provider, model, api_base } = names.describe(label);
        format!(r#"litellm_model_name="{model}",model_id="{id}",api_base="{api_base}",api_provider="{provider}""#)
    };
    head(text, "litellm_deployment_state", "gauge", "0: in use, 2: benched after failures.");
    for entry in &tables.deployments {
        let state = if entry.state.health.benched_for(now).is_some() { 2 } else { 0 };
        value(text, "litellm_deployment_state", &described(entry.label), state);
    }
    head(text, "tollgate_deployment_in_flight", "gauge", "Requests under way at a deployment.");
    for entry in &tables.deployments {
        let labels = format!(r#"deployment="{}""#, quoted(&entry.id));
        value(text, "tollgate_deployment_in_flight", &labels, entry.state.in_flight.load(Relaxed));
    }
    // One series a deployment; another version comes only with other prices.
    head(text, "tollgate_price_info", "gauge", "Where the price of a deployment comes from; always 1.");
    for (entry, deployment) in tables.deployments.iter().zip(&tables.snapshot.deployments) {
        let version = deployment.price.as_ref().map_or("", |price| &**price.version());
        let labels = format!(r#"deployment="{}",version="{}""#, quoted(&entry.id), quoted(version));
        value(text, "tollgate_price_info", &labels, 1);
    }
    head(text, "litellm_deployment_cooled_down_total", "counter", "Times a deployment was benched.");
    for (label, count) in registry.cooled_down_counts() {
        value(text, "litellm_deployment_cooled_down_total", &described(label), count);
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
        "tollgate_budget_ended_streams_total",
        "counter",
        "Streams that were ended because a hard budget had nothing left for more of them.",
        registry.sum(|one| one.budget_ended.get() as i64),
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
        "Attempts at models without a price, or with one that does not cover all that is used.",
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
        rows_removed,
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
    let removed = "Oldest rows removed from SQLite, because they took more disk than they may.";
    gauge("tollgate_ledger_rows_removed_total", "counter", removed, rows_removed as i64);
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
    postgres(text, core.shared.builder.ledger.postgres());
    head(text, "tollgate_build_info", "gauge", "Version.");
    value(text, "tollgate_build_info", concat!(r#"version=""#, env!("CARGO_PKG_VERSION"), '"'), 1);
}

/// The server in which several proxies count budgets.
fn allocator(text: &mut String, core: &Core) {
    let Some(counters) = core.shared.builder.persistent.redis.counters() else { return };
    let RedisCounters { up, doubt, asked: _, failed, denied, lost_tails, adjusted, sum_us: _, buckets: _ } = counters;
    for (name, kind, help, number) in [
        ("tollgate_allocator_up", "gauge", "Redis answers about budgets.", u64::from(up)),
        (
            "tollgate_allocator_doubt",
            "gauge",
            "Redis may have lost writes; hard budgets get nothing yet.",
            u64::from(doubt),
        ),
        ("tollgate_allocator_failures_total", "counter", "Questions that were not answered in time.", failed),
        ("tollgate_allocator_refused_total", "counter", "Wishes refused because Redis may have lost writes.", denied),
        (
            "tollgate_allocator_lost_tails_total",
            "counter",
            "Times that Redis was found to have lost writes.",
            lost_tails,
        ),
        ("tollgate_allocator_adjusted_total", "counter", "Accounts that turned out to be charged too much.", adjusted),
    ] {
        head(text, name, kind, help);
        value(text, name, "", number);
    }
    answers(text, "tollgate_allocator_seconds", "Until Redis answered about budgets.", &counters);
}

/// The server in which several proxies count rate limits.
fn rates(text: &mut String, core: &Core) {
    let persistent = &core.shared.builder.persistent;
    let (Some(counters), Some(hub)) = (persistent.redis.rate_counters(), &persistent.hub) else { return };
    let (up, failed, lost) = (u64::from(counters.up), counters.failed, counters.lost_tails);
    for (name, kind, help, number) in [
        ("tollgate_rates_exact", "gauge", "Redis counts rate limits over all proxies; 0: each counts its part.", up),
        ("tollgate_rates_replicas", "gauge", "Processes that share rate limits.", hub.replicas()),
        ("tollgate_rates_failures_total", "counter", "Questions about rate limits without an answer in time.", failed),
        ("tollgate_rates_lost_total", "counter", "Times that Redis had lost what was counted of rate limits.", lost),
    ] {
        head(text, name, kind, help);
        value(text, name, "", number);
    }
    answers(text, "tollgate_rates_seconds", "Until Redis answered about rate limits.", &counters);
}

/// How long Redis took to answer.
fn answers(text: &mut String, name: &str, help: &str, counters: &RedisCounters) {
    let RedisCounters { asked, sum_us, buckets, .. } = counters;
    head(text, name, "histogram", help);
    for (bound, count) in BUCKETS_US.iter().zip(buckets) {
        value(text, &format!("{name}_bucket"), &format!(r#"le="{}""#, *bound as f64 / 1e6), count);
    }
    value(text, &format!("{name}_bucket"), r#"le="+Inf""#, asked);
    value(text, &format!("{name}_sum"), "", *sum_us as f64 / 1e6);
    value(text, &format!("{name}_count"), "", asked);
}

/// The way of rows to PostgreSQL. One metric has a label, with three values.
fn postgres(text: &mut String, view: Option<PostgresView>) {
    if let Some(view) = &view {
        let name = "tollgate_ledger_postgres_up";
        head(text, name, "gauge", "Whether rows are written to PostgreSQL now.");
        value(text, name, "", i64::from(view.is_connected));
    }
    let PostgresView { is_connected: _, written, waiting, dropped, expired, refused, errors, lag_ms, error: _ } =
        view.unwrap_or_default();
    let name = "tollgate_ledger_postgres_rows_total";
    head(text, name, "counter", "Rows written to PostgreSQL.");
    value(text, name, "", written);
    let name = "tollgate_ledger_postgres_waiting_rows";
    head(text, name, "gauge", "Rows that wait on disk for PostgreSQL.");
    value(text, name, "", waiting);
    let name = "tollgate_ledger_postgres_lag_seconds";
    head(text, name, "gauge", "Age of the oldest row that waits for PostgreSQL.");
    value(text, name, "", lag_ms as f64 / 1000.0);
    let name = "tollgate_ledger_postgres_errors_total";
    head(text, name, "counter", "Connections and transactions that failed; their rows wait.");
    value(text, name, "", errors);
    let name = "tollgate_ledger_postgres_dropped_rows_total";
    head(text, name, "counter", "Rows that are not in PostgreSQL: no room to wait, too old, not taken.");
    for (reason, rows) in [("full", dropped), ("expired", expired), ("refused", refused)] {
        value(text, name, &format!("reason=\"{reason}\""), rows);
    }
}

fn budgets(text: &mut String, core: &Core) {
    let ledger = &core.shared.builder.ledger;
    let mut views = ledger.views();
    let fullness =
        |view: &tollgate_ledger::BudgetView| if view.limit > 0 { view.spent as f64 / view.limit as f64 } else { 1.0 };
    views.sort_by(|a, b| fullness(b).total_cmp(&fullness(a)));
    views.truncate(MAX_BUDGETS);
    let amount = |view: &tollgate_ledger::BudgetView, units: i64| match view.unit {
        tollgate_ledger::Unit::NanoUsd => NanoUsd(units).to_decimal_text(),
        tollgate_ledger::Unit::Tokens | tollgate_ledger::Unit::Requests => units.to_string(),
    };
    let labels = |view: &tollgate_ledger::BudgetView| {
        let unit = match view.unit {
            tollgate_ledger::Unit::NanoUsd => "USD",
            tollgate_ledger::Unit::Tokens => "tokens",
            tollgate_ledger::Unit::Requests => "requests",
        };
        format!(r#"budget="{}",unit="{unit}",period="{}""#, quoted(&view.id), quoted(&view.period_label))
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
            value(text, name, &labels(view), amount(view, read(view)));
        }
    }
    if ledger.replica().is_none() {
        // Nobody has to grant anything.
        return;
    }
    let seconds = |lasts_ms: i64| lasts_ms as f64 / 1000.0;
    let name = "tollgate_budget_allowance_seconds";
    head(text, name, "gauge", "For how long what this process was granted lasts at the pace of the last minute.");
    for view in &views {
        if let Some(lasts_ms) = view.lasts_ms {
            value(text, name, &labels(view), seconds(lasts_ms));
        }
    }
    let name = "tollgate_allowance_seconds";
    head(text, name, "gauge", "The least of these, over all hard budgets and their members; +Inf: none is in use.");
    match ledger.allowance_lasts_ms() {
        Some(lasts_ms) => value(text, name, "", seconds(lasts_ms)),
        None => value(text, name, "", "+Inf"),
    }
}

/// Where this process tells of them: standalone. As many series as there are thresholds.
fn thresholds(text: &mut String, core: &Core) {
    let passed = core.shared.status.with(|loaded| loaded.passed.clone());
    if passed.is_empty() {
        return;
    }
    let name = "tollgate_budget_thresholds_total";
    head(text, name, "counter", "Times that a budget passed a share of its limit, once in a period.");
    for ((budget, percent), times) in &passed {
        value(text, name, &format!(r#"budget="{}",percent="{percent}""#, quoted(budget)), times);
    }
}
