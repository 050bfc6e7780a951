//! Retries, cooldowns and timeouts of all calls: `num_retries`, both forms of `retry_policy`, `allowed_fails`, ...

use tollgate_crds::{Backoff, Cooldown, DurationText, ErrorClass, Retries, Timeouts};

use crate::block::{Block, Item};
use crate::context::Context;
use crate::deployment;
use crate::settings::{Home, Settings};

/// What LiteLLM does unless told otherwise; so do we.
const USUAL_ATTEMPTS: i32 = 2;
/// Most extra attempts that a resource takes.
const MOST_ATTEMPTS: i32 = 10;

/// Exceptions of a `retry_policy` and the classes they are here.
const EXCEPTIONS: [(&str, &[ErrorClass]); 6] = [
    ("TimeoutErrorRetries", &[ErrorClass::Timeout]),
    ("RateLimitErrorRetries", &[ErrorClass::RateLimit]),
    ("InternalServerErrorRetries", &[ErrorClass::ServerError, ErrorClass::Connect]),
    ("ServiceUnavailableErrorRetries", &[ErrorClass::ServerError]),
    ("AuthenticationErrorRetries", &[ErrorClass::Authentication]),
    ("ContentPolicyViolationErrorRetries", &[ErrorClass::ContentPolicy]),
];

/// Of all groups.
pub fn retries(settings: &mut Settings, context: &mut Context<'_>) -> Option<Retries> {
    let count = settings.take("num_retries", &[Home::Router, Home::Litellm], context);
    let attempts = count.as_ref().and_then(|item| context.small(item, 0, MOST_ATTEMPTS));
    let policy = settings.take("retry_policy", &[Home::Router], context).map(|item| policy(item, context));
    let mut retries = Retries { attempts, ..Retries::default() };
    if let Some(policy) = policy {
        if let (Some(count), Some(_)) = (count, policy.attempts) {
            context.notes.warn(count.path, "it is not used: `retry_policy` comes first", "remove one of them");
        }
        retries = Retries { attempts: policy.attempts.or(attempts), ..policy };
    }
    let wait = settings.take("retry_after", &[Home::Router], context);
    if let Some(wait) = wait.and_then(|item| context.seconds(&item)) {
        let backoff = retries.backoff.get_or_insert_default();
        backoff.initial.get_or_insert(wait);
    }
    (retries != Retries::default()).then_some(retries)
}

/// `{TimeoutErrorRetries: 3, ...}`, or `{max_retries, base_delay, max_delay}`.
pub fn policy(item: Item, context: &mut Context<'_>) -> Retries {
    let path = item.path.clone();
    let mut block = Block::open(item, context);
    let mut retries = Retries::default();
    let mut counts: Vec<i32> = Vec::new();
    let mut retried: Vec<ErrorClass> = Vec::new();
    let mut refused: Vec<ErrorClass> = Vec::new();
    for (exception, classes) in EXCEPTIONS {
        let Some(count) = block.take(exception).and_then(|item| context.small(&item, 0, MOST_ATTEMPTS)) else {
            continue;
        };
        counts.push(count);
        if count > 0 { retried.extend(classes) } else { refused.extend(classes) }
    }
    let usual = block.take("DefaultRetries").and_then(|item| context.small(&item, 0, MOST_ATTEMPTS));
    if !counts.is_empty() {
        // Classes that the policy does not name keep being retried as usual.
        let kept = [ErrorClass::RateLimit, ErrorClass::Timeout, ErrorClass::ServerError, ErrorClass::Connect];
        let kept = kept.into_iter().filter(|class| usual != Some(0) && !refused.contains(class));
        retried.extend(kept);
        retried.sort();
        retried.dedup();
        let most = counts.iter().copied().max().unwrap_or(0);
        if counts.iter().any(|count| *count > 0 && *count != most) || usual.is_some_and(|usual| usual != most) {
            let message = format!("one number of attempts holds for all errors: {most}, the largest");
            context.notes.warn(&path, message, "");
        }
        if retried.is_empty() || most == 0 {
            retries.attempts = Some(0);
        } else {
            (retries.attempts, retries.errors) = (Some(most), retried);
        }
    } else {
        retries.attempts = usual;
    }
    if let Some(count) = block.take("max_retries").and_then(|item| context.small(&item, 0, MOST_ATTEMPTS)) {
        retries.attempts = Some(count);
    }
    let initial = block.take("base_delay").and_then(|item| context.seconds(&item));
    let max = block.take("max_delay").and_then(|item| context.seconds(&item));
    if initial.is_some() || max.is_some() {
        retries.backoff = Some(Backoff { initial, max });
    }
    for (_, item) in block.rest() {
        context.unsupported(&item.path, "has no equivalent: such errors are not retried", "");
    }
    retries
}

/// Of all groups.
pub fn cooldown(settings: &mut Settings, context: &mut Context<'_>) -> Option<Cooldown> {
    let fails = settings.take("allowed_fails", &[Home::Router, Home::Litellm], context);
    // LiteLLM rests an upstream when it failed more often than allowed.
    let failures = fails.and_then(|item| context.small(&item, 0, 9_999)).map(|allowed| allowed + 1);
    let duration = settings.take("cooldown_time", &[Home::Router, Home::Litellm], context);
    let mut duration = duration.and_then(|item| context.seconds(&item));
    let disabled = settings.take("disable_cooldowns", &[Home::Router, Home::Litellm], context);
    if disabled.and_then(|item| context.boolean(&item)) == Some(true) {
        duration = Some(DurationText::new("0s"));
    }
    let cooldown = Cooldown { failures, window: None, duration };
    (cooldown != Cooldown::default()).then_some(cooldown)
}

/// Of all groups.
pub fn timeouts(settings: &mut Settings, context: &mut Context<'_>) -> Timeouts {
    let request = settings.take("request_timeout", &[Home::Litellm], context);
    let router = settings.take("timeout", &[Home::Router], context);
    if let (Some(request), Some(router)) = (&request, &router) {
        context.notes.warn(
            &router.path,
            format!("it is not used: `{}` comes first", request.path),
            "remove one of them",
        );
    }
    let stream = settings.take("stream_timeout", &[Home::Router, Home::Litellm], context);
    let mut timeouts = Timeouts::default();
    deployment::timeouts(request.or(router), stream, &mut timeouts, context);
    timeouts
}

/// Attempts that a call of a group may need: LiteLLM gives each fallback retries of its own.
pub fn attempts_of(retries: Option<&Retries>, fallbacks: usize) -> i32 {
    let each = retries.and_then(|retries| retries.attempts).unwrap_or(USUAL_ATTEMPTS) + 1;
    i32::try_from(fallbacks + 1).unwrap_or(i32::MAX).saturating_mul(each)
}
