//! The header fields of an answer that came from a provider, written as the text that is sent: there are some forty of
//! them, and a map of them would cost as much as all the rest of a call.

use std::time::Instant;

use http::{HeaderName, HeaderValue};
use tollgate_dialects::Dialect;
use tollgate_snapshot::money::NanoUsd;
use tollgate_snapshot::price::Cost;

use crate::admit::{Admitted, RequestPermits};
use crate::attempt::Attempting;
use crate::booking::Booking;
use crate::core::Core;
use crate::limits::{Left, LimitScope, LimitType};
use crate::pipeline::client_dialect;
use crate::record::Record;
use crate::reply::{self, COMMON_LINES, names};
use crate::server::push_date;
use crate::upstream::Fields;

/// Limits of a minute, by their places among all.
const WINDOWS: [LimitType; 4] =
    [LimitType::Requests, LimitType::Tokens, LimitType::InputTokens, LimitType::OutputTokens];

/// Room for what is nearly always written.
const ROOM: usize = 2 << 10;

/// A name as it is sent: its length is known where it is written, so that copying it is a few moves.
macro_rules! name {
    ($name:literal) => {
        concat!($name, ": ").as_bytes()
    };
}

/// Fields of the provider that clients do not get: they belong to its connection or to its domain.
const HIDDEN: [&str; 13] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "trailer",
    "upgrade",
    "set-cookie",
    "location",
    "alt-svc",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
];

/// The head of a good answer as it is sent, but for its end. Whoever adds text vouches for it: it comes from validated
/// names and values.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Lines that are complete.
    pub fn raw(&mut self, lines: &[u8]) {
        self.0.extend_from_slice(lines);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[inline(always)]
    fn end(&mut self) {
        self.0.extend_from_slice(b"\r\n");
    }

    /// One field. `name`: with its colon and space, here and below.
    #[inline(always)]
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(value);
        self.end();
    }

    #[inline(always)]
    fn number(&mut self, name: &[u8], value: u64) {
        self.0.extend_from_slice(name);
        match u8::try_from(value) {
            Ok(digit @ 0..10) => self.0.push(b'0' + digit),
            _ => self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        }
        self.end();
    }

    /// As OpenAI writes them: `42s`.
    fn seconds(&mut self, name: &[u8], seconds: u64) {
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
        self.0.extend_from_slice(b"s\r\n");
    }

    #[inline(always)]
    fn amount(&mut self, name: &[u8], amount: NanoUsd) {
        self.0.extend_from_slice(name);
        amount.push_decimal_text(&mut self.0);
        self.end();
    }

    /// What a call cost, in all and by its parts.
    pub fn add_cost(&mut self, cost: &Cost) {
        const ORIGINAL: &[u8] = name!("x-litellm-response-cost-original");
        let value = self.0.len() + ORIGINAL.len();
        self.amount(ORIGINAL, cost.total);
        let value = value..self.0.len();
        self.0.extend_from_slice(name!("x-litellm-response-cost"));
        self.0.extend_from_within(value);
        for (name, amount) in [
            (name!("x-litellm-response-cost-input"), cost.input),
            (name!("x-litellm-response-cost-output"), cost.output),
            (name!("x-litellm-response-cost-cache-read"), cost.cache_read),
            (name!("x-litellm-response-cost-cache-creation"), cost.cache_write),
            (name!("x-litellm-response-cost-reasoning"), cost.reasoning),
            (name!("x-litellm-response-cost-tool-usage"), cost.tools),
        ] {
            if amount != NanoUsd::ZERO {
                self.amount(name, amount);
            }
        }
    }

    /// Spend and limit of a budget that the key has for itself: what others spent is not for its holder.
    fn add_key_budget(&mut self, core: &Core, admitted: &Admitted) {
        let tables = &admitted.caller.tables;
        let mut budgets = admitted.caller.key().into_iter().flat_map(|key| &key.budgets);
        let Some(index) = budgets.find(|index| tables.budget_kinds[**index as usize].keys_own) else { return };
        let live = tables.budget(*index, &core.shared.builder);
        self.amount(name!("x-litellm-key-spend"), NanoUsd(live.spent()));
        self.amount(name!("x-litellm-key-max-budget"), NanoUsd(live.limit()));
    }

    /// OpenAI's names for the tightest limit, LiteLLM's for the tightest of each scope; Anthropic's for its clients, who are
    /// told with the time. Answers which of OpenAI's were written.
    fn add_rate_limits(&mut self, permits: &RequestPermits, model: &str, anthropic: Option<i64>) -> Written {
        let mut tightest: [Option<Left>; WINDOWS.len()] = [None; WINDOWS.len()];
        for (at, (scope, permit)) in permits.iter().enumerate() {
            for limit_type in LimitType::ALL {
                let Some(left) = permit.left(limit_type) else { continue };
                if let Some(tightest) = tightest.get_mut(limit_type as usize)
                    && tightest.is_none_or(|tightest| left.left < tightest.left)
                {
                    *tightest = Some(left);
                }
                if permits.further.is_empty() || is_tightest(permits, at, scope, limit_type, left) {
                    let [limit, remaining] = names_of(scope, limit_type);
                    self.number(limit, left.limit);
                    self.number(remaining, left.left);
                }
            }
        }
        if let Some(now) = anthropic {
            for (limit_type, left) in WINDOWS.into_iter().zip(tightest) {
                self.add_anthropic_limit(limit_type, left, now);
            }
        }
        let [requests, tokens, ..] = tightest;
        if let Some(Left { limit, left, resets_in }) = requests {
            self.number(name!("x-ratelimit-limit-requests"), limit);
            self.number(name!("x-ratelimit-remaining-requests"), left);
            self.seconds(name!("x-ratelimit-reset-requests"), resets_in);
        }
        if let Some(Left { limit, left, resets_in }) = tokens {
            self.number(name!("x-ratelimit-limit-tokens"), limit);
            self.number(name!("x-ratelimit-remaining-tokens"), left);
            self.seconds(name!("x-ratelimit-reset-tokens"), resets_in);
        }
        if let Some(permit) = &permits.per_model {
            for (kind, limit_type) in [("requests", LimitType::Requests), ("tokens", LimitType::Tokens)] {
                let Some(Left { left, .. }) = permit.left(limit_type) else { continue };
                // A model whose name makes no header name goes without.
                if let Some(name) = reply::key_remaining(kind, model) {
                    self.number(&[name.as_str().as_bytes(), b": "].concat(), left);
                }
            }
        }
        Written { requests: requests.is_some(), tokens: tokens.is_some() }
    }

    fn add_anthropic_limit(&mut self, limit_type: LimitType, left: Option<Left>, now: i64) {
        let (Some(Left { limit, left, resets_in }), Some(kind)) = (left, reply::anthropic_kind(limit_type)) else {
            return;
        };
        for (what, value) in [("limit", limit), ("remaining", left)] {
            self.anthropic_name(kind, what);
            self.number(b"", value);
        }
        if let Some(at) = reply::anthropic_time(now, resets_in) {
            self.anthropic_name(kind, "reset");
            self.add(b"", at.as_bytes());
        }
    }

    fn anthropic_name(&mut self, kind: &str, what: &str) {
        for part in [reply::ANTHROPIC_LIMITS, kind, "-", what, ": "] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    /// The provider's fields under its prefix (LiteLLM HDR-6); its limits where none of ours applies.
    fn add_echoed(&mut self, fields: &Fields, written: Written) {
        for (name, value) in fields.iter() {
            if let Some(own) = names::rate_limit(name).filter(|own| !written.has(own)) {
                self.0.extend_from_slice(own.as_str().as_bytes());
                self.add(b": ", value);
            }
            if is_echoed(name) {
                self.0.extend_from_slice(PREFIX);
                let start = self.0.len();
                self.0.extend_from_slice(name);
                self.0[start..].make_ascii_lowercase();
                self.add(b": ", value);
            }
        }
    }
}

/// Whether no other limit of the scope has less left; of equal ones the first.
fn is_tightest(permits: &RequestPermits, at: usize, scope: LimitScope, limit_type: LimitType, left: Left) -> bool {
    permits.iter().enumerate().filter(|(_, (other, _))| *other == scope).all(|(other_at, (_, other))| {
        let Some(other) = other.left(limit_type) else { return true };
        left.left < other.left || left.left == other.left && at <= other_at
    })
}

/// Names of the fields of a limit and of what remains of it (LiteLLM HDR-7), by type.
type NamesOfScope = [[&'static [u8]; 2]; LimitType::ALL.len()];

macro_rules! names_of_scope {
    ($scope:literal) => {
        names_of_scope!($scope, "requests", "tokens", "input_tokens", "output_tokens", "max_parallel_requests")
    };
    ($scope:literal, $($kind:literal),+) => {
        [$([
            concat!("x-ratelimit-", $scope, "-limit-", $kind, ": ").as_bytes(),
            concat!("x-ratelimit-", $scope, "-remaining-", $kind, ": ").as_bytes(),
        ]),+]
    };
}

fn names_of(scope: LimitScope, limit_type: LimitType) -> [&'static [u8]; 2] {
    static MODEL_PER_KEY: NamesOfScope = names_of_scope!("model_per_key");
    static KEY: NamesOfScope = names_of_scope!("api_key");
    static TEAM: NamesOfScope = names_of_scope!("team");
    static TEAM_MEMBER: NamesOfScope = names_of_scope!("team_member");
    static USER: NamesOfScope = names_of_scope!("user");
    static END_USER: NamesOfScope = names_of_scope!("end_user");
    static TAG: NamesOfScope = names_of_scope!("tag");
    static MODEL: NamesOfScope = names_of_scope!("model");
    static NAMESPACE: NamesOfScope = names_of_scope!("namespace");
    static GATEWAY: NamesOfScope = names_of_scope!("gateway");
    let names = match scope {
        LimitScope::ModelPerKey => &MODEL_PER_KEY,
        LimitScope::Key => &KEY,
        LimitScope::Team => &TEAM,
        LimitScope::TeamMember => &TEAM_MEMBER,
        LimitScope::User => &USER,
        LimitScope::EndUser => &END_USER,
        LimitScope::Tag => &TAG,
        LimitScope::Model => &MODEL,
        LimitScope::Namespace => &NAMESPACE,
        LimitScope::Gateway => &GATEWAY,
    };
    names[limit_type as usize]
}

/// Which of OpenAI's fields about rate limits are ours.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    requests: bool,
    tokens: bool,
}

impl Written {
    fn has(self, name: &HeaderName) -> bool {
        if name.as_str().ends_with("-tokens") { self.tokens } else { self.requests }
    }
}

/// The headers that LiteLLM's users script against (HDR-1 to HDR-7), but for the cost. `room`: for what is put behind.
pub fn of_reply(
    attempting: &Attempting<'_>,
    now: Instant,
    booking: &Booking,
    record: &Record,
    upstream: &Fields,
    permits: &RequestPermits,
    room: usize,
) -> Lines {
    let Attempting { core, admitted, clock, max_retries, .. } = attempting;
    let entry = attempting.entry(booking);
    let mut lines = Lines(Vec::with_capacity(ROOM + room.min(ROOM)));
    lines.raw(COMMON_LINES);
    push_date(&mut lines.0, core.unix_ms(now) / 1000);
    lines.add(name!("x-request-id"), record.call_id.as_bytes());
    lines.add(name!("x-litellm-call-id"), record.call_id.as_bytes());
    if client_dialect(admitted.call.operation) == Dialect::Anthropic {
        lines.add(name!("request-id"), record.call_id.as_bytes());
    }
    lines.raw(&entry.headers.lines);
    lines.add(name!("x-litellm-model-group"), admitted.caller.tables.routes[admitted.route as usize].group.as_bytes());
    lines.number(name!("x-litellm-attempted-retries"), u64::from(record.retries));
    lines.number(name!("x-litellm-attempted-fallbacks"), u64::from(record.fallbacks));
    lines.number(name!("x-litellm-max-retries"), u64::from(*max_retries));
    lines.number(name!("x-litellm-timeout"), clock.total.as_secs());
    let elapsed = now.duration_since(record.arrived);
    lines.number(name!("x-litellm-response-duration-ms"), elapsed.as_millis() as u64);
    let overhead = elapsed.saturating_sub(record.provider.max(record.first_token.unwrap_or_default()));
    // Microseconds are a thousandth of a millisecond as nano-USD are of a micro-USD: the same text.
    let us = i64::try_from(overhead.as_micros()).unwrap_or(i64::MAX / 1_000_000);
    lines.amount(name!("x-litellm-overhead-duration-ms"), NanoUsd(us.saturating_mul(1_000_000)));
    if let Some(policy) = admitted.caller.policy() {
        if let Some(limit) = policy.limits.requests_per_minute {
            lines.number(name!("x-litellm-key-rpm-limit"), limit);
        }
        if let Some(limit) = policy.limits.tokens_per_minute {
            lines.number(name!("x-litellm-key-tpm-limit"), limit);
        }
        lines.add_key_budget(core, admitted);
    }
    let is_anthropic = client_dialect(admitted.call.operation) == Dialect::Anthropic;
    let anthropic = is_anthropic.then(|| core.unix_ms(now) / 1000);
    let written = lines.add_rate_limits(permits, &admitted.model, anthropic);
    lines.add_echoed(upstream, written);
    lines
}

const PREFIX: &[u8] = b"llm_provider-";

fn is_echoed(name: &[u8]) -> bool {
    !HIDDEN.iter().any(|hidden| name.eq_ignore_ascii_case(hidden.as_bytes()))
}

/// The provider's headers as clients get them with an error.
pub fn echoed(fields: &Fields) -> Vec<(HeaderName, HeaderValue)> {
    let echoed = |(name, value): (&[u8], &[u8])| {
        let name = HeaderName::from_bytes(&[PREFIX, name].concat()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    };
    fields.iter().filter(|(name, _)| is_echoed(name)).filter_map(echoed).collect()
}
