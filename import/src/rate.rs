//! Rates that LiteLLM's file sets for all calls or for users, and its shares for keys of some priority, as rules and
//! classes of the gateway.

use tollgate_crds::{Priority, RateLimit, RateLimitPer, RateLimitScope};

use crate::block::{Block, Item};
use crate::context::Context;
use crate::decimal::Decimal;
use crate::settings::{Home, Settings};

/// Above any rate that somebody means.
const MOST: i64 = 1_000_000_000_000;

/// The most characters of a rule's name.
const MOST_NAME: usize = 63;

/// Which tokens LiteLLM counts (`token_rate_limit_type`).
#[derive(Clone, Copy)]
enum Tokens {
    Total,
    Input,
    Output,
}

/// Rules of the gateway.
pub fn rules(settings: &mut Settings, context: &mut Context<'_>) -> Vec<RateLimit> {
    let tokens = counted_tokens(settings, context);
    let mut whole = |key| {
        let item = settings.take(key, &[Home::General], context)?;
        context.integer(&item, 1, MOST)
    };
    let (requests, tokens_per_minute) = (whole("rpm_limit"), whole("tpm_limit"));
    let parallel_requests = whole("global_max_parallel_requests");
    let all = RateLimit {
        name: "all-calls".to_owned(),
        requests_per_minute: requests,
        parallel_requests,
        ..with_tokens(tokens, tokens_per_minute)
    };
    let mut rules = Vec::new();
    if requests.or(tokens_per_minute).or(parallel_requests).is_some() {
        rules.push(all);
    }
    if let Some(item) = settings.take("user_rate_limit", &[Home::General], context) {
        let users: Vec<(String, Item)> = Block::open(item, context).rest().collect();
        for (user, item) in users {
            rules.extend(of_user(user, item, tokens, context));
        }
    }
    rules
}

fn of_user(user: String, item: Item, tokens: Tokens, context: &mut Context<'_>) -> Option<RateLimit> {
    let path = item.path.clone();
    let mut limits = Block::open(item, context);
    let mut whole = |keys: &[&str]| limits.take_any(keys).and_then(|item| context.integer(&item, 1, MOST));
    let (requests, tokens_per_minute) = (whole(&["rpm", "rpm_limit"]), whole(&["tpm", "tpm_limit"]));
    let parallel_requests = whole(&["max_parallel_requests"]);
    for (_, item) in limits.rest() {
        context.unsupported(&item.path, "is not known as a limit of a user", "");
    }
    if requests.or(tokens_per_minute).or(parallel_requests).is_none() {
        context.unsupported(&path, "limits nothing", "write rpm or tpm");
        return None;
    }
    Some(RateLimit {
        name: format!("user {user}").chars().take(MOST_NAME).collect(),
        applies_to: RateLimitScope { users: vec![user], ..RateLimitScope::default() },
        per: Some(RateLimitPer::User),
        requests_per_minute: requests,
        parallel_requests,
        ..with_tokens(tokens, tokens_per_minute)
    })
}

fn with_tokens(tokens: Tokens, limit: Option<i64>) -> RateLimit {
    match tokens {
        Tokens::Total => RateLimit { tokens_per_minute: limit, ..RateLimit::default() },
        Tokens::Input => RateLimit { input_tokens_per_minute: limit, ..RateLimit::default() },
        Tokens::Output => RateLimit { output_tokens_per_minute: limit, ..RateLimit::default() },
    }
}

fn counted_tokens(settings: &mut Settings, context: &mut Context<'_>) -> Tokens {
    let Some(item) = settings.take("token_rate_limit_type", &[Home::General], context) else { return Tokens::Total };
    match context.text(&item).as_deref() {
        Some("total") | None => Tokens::Total,
        Some("input") => Tokens::Input,
        Some("output") => Tokens::Output,
        Some(_) => {
            context.unexpected(&item, "total, input or output");
            Tokens::Total
        }
    }
}

/// `priority_reservation`: what LiteLLM's dynamic rate limiter keeps for each priority.
pub fn priorities(settings: &mut Settings, context: &mut Context<'_>) -> Vec<Priority> {
    let Some(item) = settings.take("priority_reservation", &[Home::Litellm], context) else { return Vec::new() };
    let shares: Vec<(String, Item)> = Block::open(item, context).rest().collect();
    let mut priorities = Vec::new();
    for (name, item) in shares {
        let percent = context.decimal(&item).and_then(|share| percent(&share));
        match percent {
            Some(share_percent) => priorities.push(Priority { name, share_percent }),
            None => context.unexpected(&item, "a part of 1 in whole hundredths, as 0.75"),
        }
    }
    priorities
}

/// Of 1, in percent.
fn percent(share: &Decimal) -> Option<i32> {
    share.scaled(2).and_then(|percent| i32::try_from(percent).ok()).filter(|percent| (1..=100).contains(percent))
}
